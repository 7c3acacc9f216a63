"""CLIP embeddings against transformers' own forward pass; the antialias switch, the batch size, and wrong folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel
from transformers.activations import QuickGELUActivation

from flows.files import write_json
from moa.data import file_digest
from moa.errors import EvaluationError, EvaluatorWeightsError
from moa.evaluation.clip import ClipScorer, load_clip
from moa.evaluation.clip_towers import LastLayer, OpenClipTowers, TransformersTowers
from moa.evaluation.processor import OverwritingQuickGELU, for_processor
from moa.evaluation.suite import ClipModel
from tests.moa.absent_gpu import AbsentGPU
from tests.tiny_models import tiny_image_encoder, tiny_image_processor, tiny_text_encoder, tiny_tokenizer

TEXTS = ["a man on the beach", "a woman with a red hat in the snow", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP, 32 x 32 pixels, 24 features."""
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPConfig(
        text_config=tiny_text_encoder().config.to_dict(),
        vision_config=tiny_image_encoder().config.to_dict(),
        projection_dim=24,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tiny_tokenizer(folder).save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (64, 64), (50, 80), (33, 32), (90, 47)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as OpenCLIP saves one."""
    folder = tmp_path_factory.mktemp("open") / "tiny-open-clip"
    folder.mkdir()
    shape = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    prepared = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    write_json(folder / "open_clip_config.json", {"model_cfg": shape, "preprocess_cfg": prepared})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_an_openclip_folder_is_scored_as_openclip_does(open_clip_folder, images):
    place = f"local-dir:{open_clip_folder}"
    model, path = open_clip.create_model_from_pretrained(place)
    with torch.no_grad():
        pixels = torch.stack([path(image) for image in images if image.size == (64, 64)])
        texts = open_clip.get_tokenizer(place)(TEXTS, context_length=16)
        theirs = model.encode_image(pixels, normalize=True) @ model.encode_text(texts, normalize=True).T
    scorer = ClipScorer.from_folder(open_clip_folder)
    ours = scorer.encode_images([image for image in images if image.size == (64, 64)]) @ scorer.encode_texts(TEXTS).T
    # theirs resizes 8-bit pixels and rounds, ours floats
    assert np.abs(ours - theirs.numpy()).max() < 2e-3 and np.ptp(ours) > 2e-2
    assert scorer.describe()["name"] == "tiny-open-clip"
    assert scorer.describe()["weights"] == file_digest(open_clip_folder / "open_clip_model.safetensors")


def test_what_openclip_would_cut_or_distort_is_refused(open_clip_folder, tmp_path):
    towers = OpenClipTowers.from_folder(open_clip_folder)
    assert [towers.token_count(text) for text in ("", "a man", "!! a man", "a " * 14, "a " * 15)] == [2, 4, 5, 16, 17]
    with pytest.raises(EvaluationError, match="more than the 16 tokens"):
        ClipScorer(towers).encode_texts(["a " * 15])
    shutil.copytree(open_clip_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "open_clip_config.json").read_text("utf-8"))
    config["preprocess_cfg"]["resize_mode"] = "squash"
    write_json(tmp_path / "open_clip_config.json", config)
    with pytest.raises(EvaluatorWeightsError, match=r"open_clip_config.json: resize_mode is 'squash'.*'shortest'"):
        ClipScorer.from_folder(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(EvaluatorWeightsError, match=r"open_clip_model.safetensors.*missing"):
        ClipScorer.from_folder(tmp_path)


def test_a_processor_that_crops_twice_is_refused(folder):
    processor = tiny_image_processor()
    processor.size = {"shortest_edge": 40}
    with pytest.raises(EvaluatorWeightsError, match="resizes to 40 px and crops to 32"):
        TransformersTowers(CLIPModel.from_pretrained(folder), tiny_tokenizer(folder), processor)


@pytest.mark.parametrize("antialias", [True, False])
def test_similarities_are_the_protocols(folder, images, antialias):
    """FastComposer's image path written out with torchvision's transforms, and transformers' own forward pass."""
    scorer = ClipScorer.from_folder(folder, antialias=antialias)
    model, processor = CLIPModel.from_pretrained(folder).eval(), tiny_image_processor()
    path = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC, antialias=antialias),
            transforms.CenterCrop(32),
            transforms.Normalize(processor.image_mean, processor.image_std),
        ]
    )
    tokens = tiny_tokenizer(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=torch.stack([path(image) for image in images]), **tokens)
        theirs = (out.logits_per_image / model.logit_scale.exp()).numpy()
    assert np.abs(scorer.encode_images(images) @ scorer.encode_texts(TEXTS).T - theirs).max() < 1e-5


def test_the_batch_size_changes_nothing(folder, images):
    one, many = ClipScorer.from_folder(folder), ClipScorer.from_folder(folder)
    one.batch_size, many.batch_size = 1, 4
    assert np.allclose(one.encode_images(images), many.encode_images(images), atol=1e-6)
    assert np.allclose(one.encode_texts(TEXTS), many.encode_texts(TEXTS), atol=1e-6)
    assert np.allclose(np.linalg.norm(one.encode_images(images), axis=1), 1, atol=1e-6)
    assert one.encode_images([]).shape == (0, 24) and one.encode_texts([]).shape == (0, 24)


@pytest.mark.parametrize(
    "processor, vectors, packed",
    [("Intel(R) Xeon(R)", "AVX512", False), ("AMD EPYC", "AVX512", True), ("AMD EPYC", "AVX2", False)],
)
def test_each_processor_computes_the_same_in_its_own_way(folder, processor, vectors, packed):
    tower, pixels = CLIPModel.from_pretrained(folder).eval().vision_model, torch.randn(3, 3, 32, 32)
    usual = [layer.mlp.activation_fn for layer in tower.encoder.layers]
    with torch.no_grad():
        expected = tower(pixel_values=pixels).pooler_output
        found = for_processor(tower, processor, vectors)(pixel_values=pixels).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not any(layer.mlp.activation_fn is one for layer, one in zip(tower.encoder.layers, usual, strict=True))
    assert isinstance(tower.encoder.layers[0].mlp.fc1, torch.nn.Linear) != packed


def test_the_last_layer_is_computed_for_the_class_token_alone(folder):
    """In float64 it is transformers' own layer, with several heads; one layer, however often the towers move."""
    layer = CLIPModel.from_pretrained(folder, dtype=torch.float64).eval().vision_model.encoder.layers[-1]
    states = torch.randn(3, 17, layer.embed_dim, dtype=torch.float64)
    with torch.no_grad():
        expected, found = layer(states, attention_mask=None), LastLayer(layer)(states)
    assert layer.self_attn.num_heads > 1
    torch.testing.assert_close(found, expected[:, :1], atol=1e-12, rtol=0)
    towers = TransformersTowers.from_folder(folder)
    for _ in range(2):
        towers.to(torch.device("cpu"))
    assert [isinstance(one, LastLayer) for one in towers.model.vision_model.encoder.layers] == [False, True]
    assert not isinstance(towers.model.vision_model.encoder.layers[-1].layer, LastLayer)


def test_an_activation_that_overwrites_its_input_has_the_same_bits():
    x = 4 * torch.randn(5, 7, 64)
    expected = QuickGELUActivation()(x)
    assert torch.equal(OverwritingQuickGELU()(x), expected) and torch.equal(x, expected)


def test_antialias_changes_the_input_and_is_recorded(folder, images):
    on, off = ClipScorer.from_folder(folder), ClipScorer.from_folder(folder, antialias=False)
    assert np.abs(on.encode_images(images[:1]) - off.encode_images(images[:1])).max() > 1e-3
    assert (on.describe()["antialias"], off.describe()["antialias"]) == (True, False)
    assert on.describe()["weights"] == file_digest(folder / "model.safetensors")


def test_grey_and_transparent_images_are_taken(folder):
    scorer = ClipScorer.from_folder(folder)
    grey = [Image.new(mode, (40, 40), colour) for mode, colour in (("L", 128), ("RGB", (128, 128, 128)))]
    a, b = scorer.encode_images(grey)
    assert np.allclose(a, b, atol=1e-6)


def test_a_prompt_that_would_be_cut_is_refused(folder):
    with pytest.raises(EvaluationError, match=r"'a man a man.*more than the 32 tokens"):
        ClipScorer.from_folder(folder).encode_texts(["a dog", " ".join(["a man"] * 20)])


def test_wrong_weights_and_missing_files_are_named(folder, tmp_path):
    with pytest.raises(EvaluatorWeightsError, match=r"model.safetensors: is sha256:.* is asked for"):
        load_clip(ClipModel(path=str(folder), sha256="sha256:" + "0" * 64))
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(
        EvaluatorWeightsError, match=r"preprocessor_config.json.*missing.*--include model.safetensors.*--clip"
    ):
        load_clip(ClipModel(path=str(tmp_path)))


@pytest.mark.parametrize("kind", ["folder", "open_clip_folder"])
def test_embeddings_are_the_same_on_a_gpu_which_waits_once_for_a_batch(kind, images, request):
    """One that is not there: tensors on two devices are an error."""
    folder, texts = request.getfixturevalue(kind), ["a man", "a dog on a beach"]
    here = ClipScorer.from_folder(folder)
    with AbsentGPU() as gpu:
        there = ClipScorer.from_folder(folder, device="cuda:0")
        gpu.waits.clear()
        seen = there.encode_images(images)
        assert sum("from the device" in wait for wait in gpu.waits) == 1
        read = there.encode_texts(texts)
    np.testing.assert_allclose(seen, here.encode_images(images), atol=1e-4)
    np.testing.assert_allclose(read, here.encode_texts(texts), atol=1e-4)
