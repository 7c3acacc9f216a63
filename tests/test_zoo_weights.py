"""The shipped weights: standard folders, small, carded, and good enough to show what the project is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel

from moa.pipeline import MoAPipeline
from moa.subjects import Subject
from moa.zoo.identity import MiniatureFaces
from preprocessing.world import World

ZOO = Path(__file__).parents[1] / "zoo"
MODELS = ("base", "clip", "identity", "community", "moa", "no-spacetime", "single-branch")


def test_the_zoo_is_small_and_every_model_has_a_card():
    files = [path for path in ZOO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert max(path.stat().st_size for path in files) <= 4.5e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    for name in MODELS:
        card = json.loads((ZOO / name / "card.json").read_text())
        assert card["recipe"] and card["commit"] and "seed" in card
        assert card["steps"] and card["seconds"] > 0 and card["quality"]


def test_the_zoo_is_as_good_as_its_cards_say():
    """The targets the zoo meets; LOG.md says which ones it misses."""
    quality = {name: json.loads((ZOO / name / "card.json").read_text())["quality"] for name in MODELS}
    assert quality["clip"]["retrieval_top1_of_100"] >= 0.9
    assert quality["identity"]["verification_auc"] >= 0.98
    assert quality["community"]["noise_error"] < quality["community"]["noise_error_of_base"]
    for name in ("moa", "no-spacetime", "single-branch"):
        assert quality[name]["error_right"] < quality[name]["error_wrong"]


def test_stock_libraries_load_the_base_and_the_clip():
    pipe = StableDiffusionPipeline.from_pretrained(ZOO / "base", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a man on a beach", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)
    assert CLIPModel.from_pretrained(ZOO / "clip").config.projection_dim == 128


@pytest.fixture(scope="module")
def people():
    """Three held-out people of different looks, alone in a photo, as (word, RGBA cut-out, photograph)."""
    found, world = [], World(99)
    for index in range(200):
        scene = world.scene(index, "heldout")
        if (
            len(scene.people) == 1
            and scene.attributes["style"] == "photo"
            and not scene.attributes["people"][0]["item"]
        ):
            alpha = Image.fromarray((np.asarray(scene.mask) == 1).astype(np.uint8) * 255)
            cut = scene.image.copy()
            cut.putalpha(alpha)
            found.append((scene.people[0]["word"], cut.crop(alpha.getbbox()), scene.image))
        if len(found) == 3:
            return found
    raise AssertionError("the world holds no such people")


def test_faces_are_found_and_told_apart(people):
    faces = MiniatureFaces.from_pretrained(ZOO / "identity")
    photos = [photo for _, _, photo in people]
    boxes = [found[0][0] for found in faces.detect(photos)]
    vectors = faces.embed(photos, boxes)
    mirrored = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photo in photos]
    again = faces.embed(mirrored, [found[0][0] for found in faces.detect(mirrored)])
    similarity = vectors @ again.T
    assert (similarity.argmax(axis=1) == np.arange(3)).all()
    assert np.diag(similarity).min() > similarity[~np.eye(3, dtype=bool)].max()


def test_moa_puts_the_person_into_the_scene_better_than_the_prior(people):
    pipe = MoAPipeline.from_base(ZOO / "base", ZOO / "moa", ZOO / "clip")
    pipe.set_progress_bar_config(disable=True)
    faces = MiniatureFaces.from_pretrained(ZOO / "identity")

    def similarity(image: Image.Image, photo: Image.Image) -> float:
        found, truth = faces.detect([image, photo])
        if not found:
            return 0.0
        first, second = faces.embed([image, photo], [found[0][0], truth[0][0]])
        return max(0.0, float(first @ second))

    scores = {"prior": [], "moa": []}
    for word, cut, photo in people:
        for number, place in enumerate(("on a beach", "in a park", "on the moon")):
            for method in scores:
                subjects = [Subject(word=word, image=cut)] if method == "moa" else None
                generator = torch.Generator().manual_seed(number)
                options = {"num_inference_steps": 10, "guidance_scale": 2.0, "height": 64, "width": 64}
                image = pipe(f"a {word} {place}", subjects=subjects, generator=generator, **options).images[0]
                scores[method].append(similarity(image, photo))
    prior, moa = np.mean(scores["prior"]), np.mean(scores["moa"])
    assert moa > prior + 0.1, f"IP of MoA {moa:.3f}, of the prior {prior:.3f}"
