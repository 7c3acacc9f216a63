"""Router maps: shares inside and outside the person, sprites, and nothing made twice."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from moa.adapter import save_adapter
from moa.config import MoAConfig
from moa.evaluation import router
from moa.evaluation.faces import Face
from moa.evaluation.generate import Method, generate, read_chunk
from moa.evaluation.measure import Measurer
from moa.evaluation.methods import open_pipeline
from moa.evaluation.metrics import person_region
from moa.evaluation.router import TILE, prior_shares, record_router, sprite_of
from moa.evaluation.score import Scorer, embed_texts
from moa.unet import MoAUNet2DConditionModel
from tests.moa.evaluation.fakes import BOX, MOA, ColourClip, ColourFaces, colour_models, tiny_suite
from tests.tiny_models import IMAGE_DIM, tiny_unet

SUITE = tiny_suite()


def test_a_cell_that_is_half_person_counts_half_on_either_side():
    region = np.zeros((4, 4), bool)
    region[:, :1] = True  # half of the left column of a 2 x 2 map
    inside, outside = prior_shares(torch.tensor([[0.2, 0.8], [0.4, 1.0]]), region)
    assert inside == pytest.approx(0.3)  # left cells only
    assert outside == pytest.approx((0.5 * 0.2 + 0.5 * 0.4 + 0.8 + 1.0) / 3)


def test_a_sprite_has_layers_as_rows_and_steps_as_columns():
    large = torch.zeros(2 * TILE, 2 * TILE)
    large[::2] = 1.0  # averages to a half
    small = torch.tensor([[0.0, 1.0]])
    picture = sprite_of([[large, torch.ones(1, 1)], [small, torch.zeros(3, 3)]])
    assert picture.shape == (2 * TILE, 2 * TILE) and picture.dtype == np.uint8
    assert set(picture[:TILE, :TILE].flat) == {128} and set(picture[:TILE, TILE:].flat) == {255}
    assert set(picture[TILE:, : TILE // 2].flat) == {0} and set(picture[TILE:, TILE // 2 : TILE].flat) == {255}


@pytest.fixture(scope="module")
def done(people, pipeline, tmp_path_factory) -> Path:
    """An evaluation folder with generated images and router maps."""
    folder = tmp_path_factory.mktemp("router")
    generate(folder, SUITE, people, [MOA], partial(open_pipeline, pipeline))
    record_router(_scorer(folder, people), MOA, partial(open_pipeline, pipeline))
    return folder


def _scorer(folder: Path, people, faces=None) -> Scorer:
    measurer = Measurer(folder, colour_models(faces))
    return Scorer(SUITE, people, measurer, embed_texts(SUITE, people, ColourClip()))


def test_it_writes_what_the_format_says(done):
    content = json.loads((done / "router.json").read_text())
    assert len(content["layers"]) == 14 and {layer["size"] for layer in content["layers"]} == {8, 4}
    assert len(content["steps"]) == SUITE.images.steps and content["steps"] == sorted(content["steps"], reverse=True)
    for side in ("background", "foreground"):
        assert np.shape(content[side]) == (14, 2) and 0 < np.min(content[side]) < np.max(content[side]) < 1
    assert content["background"] != content["foreground"]
    assert (content["n"], content["tile"]) == (4, TILE)
    assert {(e["subject"], e["prompt_id"]) for e in content["examples"]} == {
        (who, what) for who in ("man-0", "boy-2") for what in ("hat", "beach")
    }
    for side in ("background", "foreground"):
        shares = [example[side] for example in content["examples"]]
        assert np.mean(shares) == pytest.approx(np.mean(content[side])) and len(set(shares)) > 1
    first, second = content["examples"][:2]
    assert first["subject"] != second["subject"] and first["prompt_id"] != second["prompt_id"]
    assert (done / first["image"]).is_file()
    with Image.open(done / first["sprite"]) as sprite:
        assert sprite.mode == "L" and sprite.size == (2 * TILE, 14 * TILE)


def test_the_shares_inside_and_outside_are_those_that_the_sprite_shows(done):
    region = person_region(BOX, ColourFaces.person, TILE, TILE)  # images and tiles have one size here
    assert SUITE.images.size == TILE and 0 < region.mean() < 1
    sprite = done / "router" / "man-0" / "hat" / "0.png"
    record, tiles = read_chunk(sprite), np.asarray(Image.open(sprite), float).reshape(14, TILE, 2, TILE) / 255
    inside, outside = (tiles.transpose(0, 2, 1, 3)[:, :, where].mean(axis=-1) for where in (region, ~region))
    np.testing.assert_allclose(record["foreground"], inside, atol=1 / 255)
    np.testing.assert_allclose(record["background"], outside, atol=1 / 255)
    assert np.abs(inside - outside).max() > 4 / 255


def test_a_person_who_fills_the_image_has_no_background(done, people):
    found = next(iter(_scorer(done, people).measured(["images/moa/man-0/hat/0.png"]).values()))
    assert router._person(found, ColourFaces.person) is not None
    whole = replace(found, faces=(Face((0.0, 0.0, 32.0, 32.0), 0.9),))
    assert router._person(whole, ColourFaces.person) is None


def test_a_map_that_is_no_square_has_height_and_width():
    assert (router._size(torch.zeros(4, 4)), router._size(torch.zeros(4, 6))) == (4, [4, 6])


def test_no_more_images_are_shown_than_there_is_room_for(done, people, monkeypatch):
    monkeypatch.setattr(router, "IMAGES", 3)
    assert len(router._choose(_scorer(done, people), MOA)) == 3


def test_other_measuring_models_make_the_sprites_anew(done, people):
    class Other(ColourFaces):
        def describe(self):
            return {"name": "other"}

    def opened(*_):
        raise LookupError

    with pytest.raises(LookupError):
        record_router(_scorer(done, people, Other()), MOA, opened)


def test_a_second_run_makes_only_what_is_missing(done, people, pipeline):
    before = (done / "router.json").read_bytes()
    again = partial(record_router, _scorer(done, people), MOA)
    again(lambda *_: pytest.fail("a pipeline was opened"))
    assert (done / "router.json").read_bytes() == before
    (done / "router" / "man-0" / "hat" / "0.png").unlink()
    opened = []
    again(lambda *given: opened.append(given) or open_pipeline(pipeline, *given))
    assert opened == [(MOA, "cpu")] and (done / "router.json").read_bytes() == before


def test_no_person_or_no_router_means_no_file(done, people, pipeline, tmp_path):
    class Blind(ColourFaces):
        def detect(self, images):
            return [[] for _ in images]

        def describe(self):
            return {"name": "blind"}

    sampler = partial(open_pipeline, pipeline)
    assert record_router(_scorer(done, people, Blind()), MOA, sampler) is None
    assert not (done / "router.json").exists()

    unet = MoAUNet2DConditionModel.from_unet(tiny_unet(), MoAConfig(image_dim=IMAGE_DIM, architecture="single_branch"))
    save_adapter(unet, tmp_path, {"inputs": {}, "step": 0, "commit": None})
    single = Method("moa", "MoA", "moa", "sha256:single", adapter=tmp_path)
    assert record_router(_scorer(done, people), single, sampler) is None


@pytest.mark.parametrize(("subjects", "prompts"), [(3, 4), (1, 8), (15, 40), (7, 8), (4, 3)])
def test_every_image_is_looked_at_once_before_none_is_found(subjects, prompts, monkeypatch):
    """Nobody has a face, so the walk goes on to its end; neighbours differ in person and prompt where they can."""
    people = [SimpleNamespace(id=str(n), usable=True) for n in range(subjects)]
    cells = [(n, p) for n in range(subjects) for p in range(prompts)]
    monkeypatch.setattr(router, "shots", lambda *_: [SimpleNamespace(people=[0], seed=0, path=cell) for cell in cells])
    seen: list[tuple[int, int]] = []

    class Blind:
        models = SimpleNamespace(faces=SimpleNamespace(person=None))

        def __call__(self, paths):
            seen.extend(paths)
            return dict.fromkeys(paths, "cannot be read")

    suite = SimpleNamespace(prompts=range(prompts), seeds=[0])
    assert router._choose(SimpleNamespace(subjects=people, suite=suite, measurer=Blind(), measured=Blind()), MOA) == []
    assert sorted(seen) == cells
    for before, after in pairwise(seen[: min(subjects, prompts)]):
        assert before[0] != after[0] and before[1] != after[1]
