"""The zoo's recipes: exact resume of the shared loop, the vocabulary, the losses by definition, the face model."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from moa.errors import MissingInputError
from moa.zoo import base, clip, community, train_identity, vae
from moa.zoo.card import read_card, write_card
from moa.zoo.fit import fit, fit_seconds, learning_rate, state_folder
from moa.zoo.identity import CROP, STRIDE, MiniatureFaces, cut, decode
from moa.zoo.pictures import Pictures, over, to_unit

WORDS = ["a man on a beach", "a woman wearing a top hat in the snow", "a watercolour painting of a girl"]


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    meta = [
        {
            "caption": WORDS[k % 3],
            "subjects": [{"identity": f"m-{k % 2}", "face": {"box": [10, 12, 26, 30]}}],
            "attributes": {
                "description": WORDS[k % 3] + " again",
                "style": "photo",
                "scene": ("beach", "snow", "park")[k % 3],
                "people": [{"looks": "a tall man"}],
            },
        }
        for k in range(6)
    ]
    crops = [rng.integers(0, 256, (1, 64, 64, 4), dtype=np.uint8) for _ in meta]
    return Pictures(rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), crops, meta)


def tiny_fit(folder, steps, killed_at=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(generator, step):
        if step == killed_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return {"loss": (model(x) - x.sum(dim=1, keepdim=True)).square().mean()}

    return fit(model, loss, folder=folder, steps=steps, peak=2.0, save_every=5, log_every=100)


def test_an_interrupted_fit_ends_with_the_same_weights(tmp_path, capsys):
    untrained, whole = tiny_fit(tmp_path / "none", 0), tiny_fit(tmp_path / "whole", 12)
    with pytest.raises(KeyboardInterrupt):
        tiny_fit(tmp_path / "parts", 12, killed_at=7)
    parts = tiny_fit(tmp_path / "parts", 12)
    assert "resumed at step 5" in capsys.readouterr().out
    kinds = {path.name for path in (tmp_path / "parts").rglob("*") if path.is_file()}
    assert kinds == {"COMPLETE", "state.json", *(f"{name}.safetensors" for name in ("average", "model", "optimizer"))}
    assert torch.equal(whole.weight, parts.weight)
    assert (whole.weight - 1).abs().mean() < (untrained.weight - 1).abs().mean(), "it learned nothing"


def test_the_state_of_other_inputs_is_removed(tmp_path, capsys):
    folder = state_folder(tmp_path / "work/base", {"data": "sha256:0"})
    (folder / "state").touch()
    assert (state_folder(folder, {"data": "sha256:0"}) / "state").exists() and not capsys.readouterr().out
    assert not (state_folder(folder, {"data": "sha256:1"}) / "state").exists()
    assert f"{folder}: the state there was made from other inputs" in capsys.readouterr().out
    (folder / "state").touch()
    (folder / "made_from.json").unlink()
    assert not (state_folder(folder, {"data": "sha256:1"}) / "state").exists(), "nobody knows what made it"


def test_learning_rate_warms_up_and_ends_low():
    assert learning_rate(0, 1000, 1.0) == pytest.approx(0.01)
    assert learning_rate(99, 1000, 1.0) == pytest.approx(1.0)
    assert learning_rate(1000, 1000, 1.0) == pytest.approx(0.03)


def test_the_vocabulary_knows_whole_words_and_loads_again(tmp_path):
    tokenizer = clip.train_tokenizer(WORDS * 3, tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "A watercolour painting of a woman, on a beach"
    assert tokenizer(text).input_ids == again(text).input_ids
    assert "watercolour</w>" in again.tokenize(text)
    assert again.model_max_length == clip.TEXT_LENGTH
    assert (again.bos_token_id, again.eos_token_id) == (len(again) - 2, len(again) - 1)


def test_contrastive_loss_equals_its_definition_and_shares_equal_texts():
    torch.manual_seed(0)
    image, text = (nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    scale = torch.tensor(1.0, dtype=torch.float64)
    texts = ["x", "y", "x"]
    logits = torch.e * (image @ text.T)
    target = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    expected = 0.0
    for table in (logits, logits.T):
        expected += -(target * table.log_softmax(dim=1)).sum() / 3 / 2
    got = clip.contrastive_loss(image, text, scale, texts)
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)


def test_heads_weigh_more_in_the_autoencoder(pictures):
    weights = vae.face_weights(pictures, np.array([0]), 4.0)[0, 0]
    assert weights[20, 18] == 5 and weights[50, 50] == 1
    assert weights[7, 18] == 5, "a third of the head's height around it counts too"


def test_the_decoder_is_trained_and_the_latents_stay(pictures, tmp_path):
    torch.manual_seed(0)
    before = vae.new_vae().eval()
    after = vae.train_decoder(pictures, copy.deepcopy(before), tmp_path, steps=2, batch=2)
    images = to_unit(pictures.images)
    latents, same = before.encode(images).latent_dist.mean, after.encode(images).latent_dist.mean
    assert torch.equal(latents, same)
    assert not torch.equal(before.decode(latents).sample, after.decode(latents).sample)


def test_edges_are_differences_of_neighbours():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 3, 3, 3)
    across, down = vae.edges(image).split(3, dim=1)
    assert (across == 1).all() and (down == 3).all()


def test_pictures_draw_captions_and_looks(pictures):
    generator = torch.Generator().manual_seed(1)
    scenes, texts = pictures.draw_scenes(4, generator)
    assert scenes.shape == (4, 64, 64, 3) and texts[1].endswith("again") and not texts[0].endswith("again")
    for _ in range(5):
        _, texts = pictures.draw_scenes(8, generator)
        assert len({WORDS.index(text.removesuffix(" again")) for text in texts}) == 2, "two scenes in a batch"
    crops, looks = pictures.draw_subjects(3, generator)
    assert crops.shape == (3, 64, 64, 3) and looks == ["a tall man"] * 3


def test_transparent_pixels_take_the_background_colour():
    crop = np.zeros((2, 2, 4), np.uint8)
    crop[0, 0] = (200, 100, 50, 255)
    shown = over(crop, np.array([9, 8, 7]))
    assert shown[0, 0].tolist() == [200, 100, 50] and shown[1, 1].tolist() == [9, 8, 7]


def test_pixels_become_the_unit_range_channels_first():
    array = np.array([[[[0, 127, 255], [255, 0, 0]]]], np.uint8)
    pixels = to_unit(array)
    assert pixels.shape == (1, 3, 1, 2)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


def test_face_targets_decode_to_the_same_box(pictures):
    heat, geometry, counts = train_identity.face_targets(pictures, np.array([0]), 64 // STRIDE)
    logits = torch.where(heat > 0.99, 8.0, -8.0)
    ((box, probability),) = decode(torch.cat((logits, geometry[0])), threshold=0.5)
    assert box == pytest.approx((10, 12, 26, 30), abs=1e-3)
    assert probability > 0.99 and counts.sum() == 9


def test_cut_takes_the_head_with_its_margin():
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, :, 20:40, 20:40] = 1.0
    crop = cut(picture, torch.tensor([[20.0, 20.0, 40.0, 40.0]]))
    assert crop.shape == (1, 3, CROP, CROP)
    assert crop[0, 0, CROP // 2, CROP // 2] == 1.0 and crop[0, 0, 0, 0] == 0.0
    assert crop.mean().item() == pytest.approx(1 / 1.5**2, abs=0.03)


def test_overlap_of_boxes():
    assert train_identity.overlap([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert train_identity.overlap([0, 0, 1, 1], [2, 2, 3, 3]) == 0


def test_faces_save_and_load(tmp_path):
    torch.manual_seed(0)
    faces = MiniatureFaces().eval()
    faces.save_pretrained(tmp_path)
    again = MiniatureFaces.from_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    boxes = [(10.0, 10.0, 30.0, 30.0)] * 2
    first, second = faces.embed([image] * 2, boxes), again.embed([image] * 2, boxes)
    assert first.shape == (2, 64) and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert np.allclose(first, second, atol=0.02)  # weights are stored as fp16
    assert faces.embed([], []).shape == (0, 64)


def test_missing_face_weights_are_named(tmp_path):
    with pytest.raises(MissingInputError, match="config.json"):
        MiniatureFaces.from_pretrained(tmp_path)


def test_people_met_once_are_no_pairs(pictures):
    assert {len(places) for places in train_identity.faces_by_identity(pictures).values()} == {3}
    alone = Pictures(pictures.images[:2], pictures.crops[:2], pictures.meta[:2])
    assert train_identity.faces_by_identity(alone) == {}


def test_cards_are_json_and_mark_what_is_finished(tmp_path):
    assert read_card(tmp_path) is None
    known = {"recipe": "moa.zoo base", "seed": 0, "steps": {"vae": 3}, "seconds": 1.6, "data": {"scenes": "sha256:0"}}
    write_card(tmp_path, **known, quality={"psnr_db": 30.12346})
    card = read_card(tmp_path)
    assert card["quality"] == {"psnr_db": 30.1235} and card["seconds"] == 2 and card["continued_from"] is None
    assert json.loads((tmp_path / "card.json").read_text())["recipe"] == "moa.zoo base"
    write_card(tmp_path, **known, quality={}, earlier={"commit": "abc", "steps": {"vae": 7}, "licence": "CC0-1.0"})
    assert read_card(tmp_path)["continued_from"] == {"commit": "abc", "steps": {"vae": 7}, "continued_from": None}


def test_a_fit_counts_its_seconds_over_interruptions(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tiny_fit(tmp_path, 6, killed_at=5)
    first = fit_seconds(tmp_path)
    tiny_fit(tmp_path, 6)
    assert fit_seconds(tmp_path) > first > 0


def test_a_newer_vocabulary_keeps_what_the_old_one_knew(tmp_path):
    torch.manual_seed(0)
    old_tokenizer = clip.train_tokenizer(WORDS * 3, tmp_path / "old")
    tokenizer = clip.train_tokenizer([*WORDS * 3, *["a girl juggling balls"] * 9], tmp_path / "new")
    old, new = clip.new_clip(old_tokenizer), clip.new_clip(tokenizer)
    untrained = new.text_model.embeddings.token_embedding.weight.clone()
    clip.copy_weights(old, old_tokenizer, new, tokenizer)
    before, after = (m.text_model.embeddings.token_embedding.weight for m in (old, new))
    shared = "watercolour</w>"
    assert torch.equal(after[tokenizer.get_vocab()[shared]], before[old_tokenizer.get_vocab()[shared]])
    unknown = tokenizer.get_vocab()["juggling</w>"]
    assert "juggling</w>" not in old_tokenizer.get_vocab()
    assert torch.equal(after[unknown], untrained[unknown])
    assert torch.equal(new.visual_projection.weight, old.visual_projection.weight)


def test_retrieval_finds_captions_among_different_ones(pictures):
    texts = list(dict.fromkeys(meta["caption"] for meta in pictures.meta))
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)

    def share(order, **options):
        def clip_model(input_ids, pixel_values):
            return SimpleNamespace(image_embeds=vectors[order], text_embeds=vectors)

        def tokenizer(captions, **_):
            assert captions == texts, "each caption once"
            return SimpleNamespace(input_ids=torch.zeros(3, 4))

        return clip.retrieval(clip_model, tokenizer, pictures, **options)

    assert share([0, 1, 2]) == 1 and share([0, 2, 1]) == pytest.approx(1 / 3)
    assert share([1, 2, 0]) == 0 and share([1, 2, 0], count=1) == 1


def test_comics_have_dark_outlines_and_flat_colours():
    picture = np.full((16, 16, 3), (90, 140, 200), np.uint8)
    picture[:, 8:] = (230, 60, 40)
    drawn = community.comic(picture)
    assert drawn[8, 7:9].mean() < 90 < drawn[8, 2].max()
    assert (drawn[2:-2, 2] == drawn[2, 2]).all() and drawn[0, 2].max() > 90, "no frame at the border"


def test_a_community_lora_changes_the_base_and_stock_diffusers_loads_it(tmp_path, pictures):
    torch.manual_seed(0)
    tokenizer = clip.train_tokenizer(WORDS * 3, tmp_path / "tokenizer")
    text = CLIPTextModel(clip.new_clip(tokenizer).config.text_config)
    pipeline = base.assemble(vae.new_vae().eval(), text, tokenizer, base.new_unet())
    pipeline.save_pretrained(tmp_path / "base")
    community.train_community(pipeline, pictures, tmp_path / "lora", tmp_path / "work", steps=2, batch=2)
    assert [path.name for path in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    errors = community.measure(tmp_path / "base", tmp_path / "lora", pictures)
    assert errors["noise_error"] != errors["noise_error_of_base"]
    names = set(load_file(tmp_path / "lora/pytorch_lora_weights.safetensors"))
    assert all(any(layer in name for name in names) for layer in community.LAYERS)
