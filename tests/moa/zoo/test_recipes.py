"""`python -m moa.zoo` with one step for each recipe: what it writes, that it is left alone, that it is trained further.

pytest tests/moa/zoo/test_recipes.py
"""

from __future__ import annotations

import hashlib
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from diffusers import AutoencoderKL, StableDiffusionPipeline

from moa.errors import MissingInputError
from moa.zoo import __main__ as recipes
from moa.zoo.__main__ import main
from moa.zoo.attributes import AttributeClassifier
from moa.zoo.card import read_card
from moa.zoo.identity import MiniatureFaces
from preprocessing.config import DatasetConfig
from preprocessing.run import preprocess

MODELS = ("clip", "attributes", "base", "community", "identity")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Shards of the miniature world in which a few people occur often."""
    folder = tmp_path_factory.mktemp("pictures")
    people = {"train": 8, "heldout": 4}
    declaration = {
        "name": "few",
        "version": 1,
        "licence": "CC0-1.0",
        "author": "the tests",
        "source": {"kind": "renderer", "identities": people, "counts": {"train": 32, "heldout": 12}},
        **{part: {"kind": "sidecar"} for part in ("captions", "segmentation", "faces")},
        "min_side": 32,
        "resolution": 64,
        "crop_size": 64,
        "image_format": "png",
    }
    preprocess(DatasetConfig.model_validate(declaration), folder)
    return folder


def arguments(pictures: Path, out: Path, *options: str, scale: float = 1e-6) -> list[str]:
    places = {"--scenes": pictures, "--identities": pictures, "--out": out, "--scale": scale}
    return [*(str(word) for pair in places.items() for word in pair), *options]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_a_zoo_from_nothing_and_its_base_model_trained_further(pictures, tmp_path, capsys, monkeypatch):
    """The first call as the command is, `python -m moa.zoo`, but for another start of Python."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(sys, "argv", ["moa.zoo", *arguments(pictures, first)])
    monkeypatch.delitem(sys.modules, "moa.zoo.__main__")  # which this file has imported
    runpy.run_module("moa.zoo", run_name="__main__")
    capsys.readouterr()
    cards = {name: read_card(first / name) for name in MODELS}
    assert all(card and card["quality"] and card["continued_from"] is None for card in cards.values())
    assert cards["base"]["steps"] == {"vae": 1, "decoder": 1, "base": 1}
    StableDiffusionPipeline.from_pretrained(first / "base")
    AttributeClassifier.from_pretrained(first / "attributes")
    MiniatureFaces.from_pretrained(first / "identity")
    assert not [path for path in first.rglob("*.json") if str(tmp_path) in path.read_text()], "a folder of this machine"

    assert not list((first / ".work").iterdir()), "no state of a finished model"
    before = digests(first)
    main(arguments(pictures, first))
    assert capsys.readouterr().out.count("up to date") == len(MODELS)
    assert digests(first) == before

    for name in ("clip", "attributes"):
        (second / name).parent.mkdir(exist_ok=True)
        (second / name).symlink_to(first / name)
    main(arguments(pictures, second, "--only", "base", "--start-from", str(first)))
    card = read_card(second / "base")
    assert card["steps"] == {"base": 1} and card["continued_from"]["steps"] == cards["base"]["steps"]
    kept, given = (AutoencoderKL.from_pretrained(folder / "base/vae").state_dict() for folder in (second, first))
    assert all(kept[name].equal(tensor) for name, tensor in given.items())
    after = digests(second / "base")
    assert any(after[name] != value for name, value in digests(first / "base").items() if name.startswith("unet/"))


def test_a_killed_training_goes_on_with_its_own_number_of_steps_and_a_deleted_one_starts_again(
    pictures, tmp_path, capsys, monkeypatch
):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "write_card", killed)
        for said in ("attributes 1/1", "attributes: resumed at step 1"):
            with pytest.raises(KeyboardInterrupt):
                main(arguments(pictures, tmp_path, "--only", "attributes"))
            assert said in capsys.readouterr().out
    main(arguments(pictures, tmp_path, "--only", "attributes", scale=1e-3))
    said = capsys.readouterr().out
    assert "starts over" in said and "attributes 2/2" in said and "resumed" not in said
    assert read_card(tmp_path / "attributes")["steps"] == {"attributes": 2}
    assert not list((tmp_path / ".work").iterdir()), "no state of a finished model"

    shutil.rmtree(tmp_path / "attributes")
    main(arguments(pictures, tmp_path, "--only", "attributes", scale=1e-3))
    said = capsys.readouterr().out
    assert "attributes 2/2" in said and "resumed" not in said


def test_a_base_model_without_an_autoencoder_says_what_to_train(pictures, tmp_path):
    with pytest.raises(MissingInputError, match="--only vae base"):
        main(arguments(pictures, tmp_path, "--only", "base"))
