"""The BLIP-2 captioner on tiny random checkpoints of both kinds: decoder-only (OPT) and encoder-decoder (T5)."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from preprocessing.captions import Blip2Captioner, load_captioner
from preprocessing.config import Blip2Captions
from preprocessing.errors import MissingWeightsError
from preprocessing.frame import Annotation, Frame, Item
from preprocessing.run import preprocess
from preprocessing.weights import in_batches
from tests.moa.absent_gpu import AbsentGPU
from tests.preprocessing.folders import add_photo, declaration, metadata_of, picture
from tests.preprocessing.tiny_blip2 import ANSWERS, QUERIES, tiny_blip2


def frames(count: int) -> list[Frame]:
    item = Item(number=0, name="x.png", split="train", sha256=None, licence="", author="")
    return [
        Frame(item=item, sha256="", image=picture((32, 32), 60 * n), labels=None, annotation=Annotation())
        for n in range(count)
    ]


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("old", [False, True])
def test_the_prompt_and_the_image_tokens_are_stripped(tmp_path: Path, kind: str, old: bool) -> None:
    config = Blip2Captions(kind="blip2", model=tiny_blip2(tmp_path, kind, old=old), max_new_tokens=5)
    captioner = Blip2Captioner(config, "cpu")
    silence(captioner)
    caption = captioner.caption(frames(1))[0]
    assert len(caption.split()) == 5
    assert set(caption.split()) <= set(ANSWERS)  # nothing of the prompt, nothing special


def test_captions_do_not_depend_on_the_batch_and_do_on_the_options(tmp_path: Path) -> None:
    model = tiny_blip2(tmp_path, "t5")

    def captions(**options: object) -> list[str]:
        captioner = Blip2Captioner(Blip2Captions(kind="blip2", model=model, **options), "cpu")
        silence(captioner)
        return captioner.caption(frames(3))

    together = captions(max_new_tokens=6)
    assert together == captions(max_new_tokens=6, batch_size=2)
    assert [" ".join(caption.split()[:2]) for caption in together] == captions(max_new_tokens=2)


def test_the_prompt_reaches_the_model(tmp_path: Path) -> None:
    config = Blip2Captions(kind="blip2", model=tiny_blip2(tmp_path, "opt"), prompt="red hat of")
    captioner = Blip2Captioner(config, "cpu")
    seen: list[list[int]] = []
    original = captioner._model.generate

    def generate(**inputs: torch.Tensor) -> torch.Tensor:
        seen.extend(inputs["input_ids"].tolist())
        return original(**inputs)

    captioner._model.generate = generate
    captioner.caption(frames(1))
    tokens = captioner._processor.tokenizer.convert_ids_to_tokens(seen[0])
    assert tokens == ["<image>"] * QUERIES + ["red", "hat", "of"]


def test_the_whole_way_into_shards(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "a.png")
    config = declaration(
        captions={"kind": "blip2", "model": tiny_blip2(tmp_path / "model", "t5"), "max_new_tokens": 4}, caption_words=60
    )
    preprocess(config, tmp_path / "out", source_root=tmp_path / "photos")
    metadata = metadata_of(tmp_path / "out")["a.png"]
    assert metadata["caption_source"] == "blip2"
    assert metadata["subjects"][0]["word"] in metadata["caption"]


def test_missing_weights_stop_the_run_before_the_first_image(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "a.png")
    config = declaration(captions={"kind": "blip2"})
    with pytest.raises(MissingWeightsError, match="hf download Salesforce/blip2-flan-t5-xl"):
        preprocess(config, tmp_path / "out", source_root=tmp_path / "photos")
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    model = tiny_blip2(tmp_path, "opt")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(MissingWeightsError, match=r"safetensors"):
        load_captioner(Blip2Captions(kind="blip2", model=model), "cpu")


def test_captions_on_a_gpu(tmp_path: Path) -> None:
    """One that is not there: tensors on two devices are an error. In bfloat16, so the words are others."""
    with AbsentGPU():
        config = Blip2Captions(kind="blip2", model=tiny_blip2(tmp_path, "opt"), max_new_tokens=3)
        captioner = Blip2Captioner(config, "cuda")
        silence(captioner)
        assert {len(caption.split()) for caption in captioner.caption(frames(2))} == {3}
    assert {parameter.device.type for parameter in captioner._model.parameters()} == {"cuda"}


def test_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """And CUDA's memory is given back when the failed batch is out of it."""
    tried: list[int] = []
    held: list[weakref.ref] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(held[-1]() is None))
    freed: list[bool] = []

    def work(batch: list[int]) -> list[int]:
        tried.append(len(batch))
        activations = torch.zeros(len(batch))
        held.append(weakref.ref(activations))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("too much")
        return [10 * value for value in batch]

    assert in_batches(work, list(range(7)), 8) == [10 * value for value in range(7)]
    assert tried == [7, 4, 2, 2, 2, 1] and freed == [True, True]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches(lambda batch: work([*batch, 0, 0, 0]), [1], 1)


def silence(captioner: Blip2Captioner) -> None:
    """Let the model answer with ANSWERS only, so that anything else in a caption can only come from the input."""
    vocabulary = captioner._processor.tokenizer.get_vocab()
    size = captioner._model.get_input_embeddings().num_embeddings
    allowed = {vocabulary[word] for word in ANSWERS}
    captioner._model.language_model.generation_config.suppress_tokens = sorted(set(range(size)) - allowed)
