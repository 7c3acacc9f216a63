"""The shipped weights: standard folders, small, carded, and good enough to show what the project is for."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel

from moa.evaluation.faces import MINIATURE_PERSON
from moa.evaluation.metrics import change, person_region
from moa.pipeline import MoAPipeline
from moa.subjects import Subject
from moa.zoo.attributes import AttributeClassifier, words_of
from moa.zoo.following import agreement
from moa.zoo.identity import MiniatureFaces
from moa.zoo.pictures import to_unit
from preprocessing.world import World

ZOO = Path(__file__).parents[1] / "zoo"
MODELS = ("base", "clip", "identity", "attributes", "community", "moa", "no-spacetime", "single-branch")


def test_the_zoo_is_small_and_every_model_has_a_card():
    files = [path for path in ZOO.rglob("*") if path.is_file() and ".work" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert max(path.stat().st_size for path in files) <= 4.5e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    for name in MODELS:
        card = json.loads((ZOO / name / "card.json").read_text())
        assert card["recipe"] and card["commit"] and "seed" in card
        assert card["steps"] and card["seconds"] > 0 and card["quality"]


def test_the_zoo_is_as_good_as_its_cards_say():
    """The targets that the zoo was made for."""
    quality = {name: json.loads((ZOO / name / "card.json").read_text())["quality"] for name in MODELS}
    assert quality["clip"]["retrieval_top1_of_100"] >= 0.9
    assert quality["identity"]["verification_auc"] >= 0.98
    assert quality["base"]["psnr_db"] >= 30
    assert min(quality["base"][f"followed_{name}"] for name in ("scene", "item", "word")) >= 0.9
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


def test_the_classifiers_see_what_the_world_shows():
    """Of a world they were not trained on."""
    world = World(99)
    scenes = [scene for index in range(60) if len((scene := world.scene(index, "heldout")).people) == 1]
    asked = [words for scene in scenes if (words := words_of({"attributes": scene.attributes}))]
    classifier = AttributeClassifier.from_pretrained(ZOO / "attributes")
    found = classifier.words(to_unit(np.stack([np.asarray(scene.image) for scene in scenes])))
    shares = agreement(found, asked)
    assert min(shares["scene"], shares["item"]) >= 0.9 and shares["word"] >= 0.75, shares


PROMPTS = ("a {word} on a beach", "a {word} on the moon", "a watercolour painting of a {word} on a beach")


def draw(pipe: MoAPipeline, people: list[tuple[str, Image.Image, Image.Image]], given: bool) -> list[Image.Image]:
    """Each person, or where none is given anybody, at each prompt, in one batch; the seed is the prompt's number."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        [prompt.format(word=word) for word, _, _ in people for prompt in PROMPTS],
        [[Subject(word=word, image=cut)] for word, cut, _ in people for _ in PROMPTS] if given else None,
        generator=[torch.Generator().manual_seed(seed) for _ in people for seed in range(len(PROMPTS))],
        num_inference_steps=10,
        guidance_scale=3.0,
        height=64,
        width=64,
    ).images


def test_moa_shows_the_person_and_keeps_the_scene_better_than_without_moa_layers(people):
    faces = MiniatureFaces.from_pretrained(ZOO / "identity")
    pipes = {name: MoAPipeline.from_base(ZOO / "base", ZOO / name, ZOO / "clip") for name in ("moa", "single-branch")}

    def similarity(image: Image.Image, photo: Image.Image) -> float:
        found, truth = faces.detect([image, photo])
        if not found:
            return 0.0
        first, second = faces.embed([image, photo], [found[0][0], truth[0][0]])
        return max(0.0, float(first @ second))

    scores = defaultdict(list)
    photos = [photo for _, _, photo in people for _ in PROMPTS]
    priors = draw(pipes["moa"], people, given=False)
    scores["IP of the prior"] = [similarity(*pair) for pair in zip(priors, photos, strict=True)]
    for name, pipe in pipes.items():
        for image, prior, photo in zip(draw(pipe, people, given=True), priors, photos, strict=True):
            box, _ = faces.detect([prior])[0][0]
            region = person_region(box, MINIATURE_PERSON, 64, 64)
            scores[f"scene of {name}"].append(change(np.asarray(image), np.asarray(prior), region)[1])
            scores[f"IP of {name}"].append(similarity(image, photo))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert means["IP of moa"] > means["IP of the prior"] + 0.3, means
    assert means["scene of moa"] < 0.75 * means["scene of single-branch"], means
