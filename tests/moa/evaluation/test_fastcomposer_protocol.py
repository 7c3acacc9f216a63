"""Rows of the scores against the published protocol, one image after another and step by step.

The steps are those of evaluation/single_object of mit-han-lab/fastcomposer: for each image detect faces in it and
in the reference, take the largest of each, embed, cosine, clamp at 0, no face is 0; CLIP cosine with the prompt that
names the class word; the mean over all images, faceless ones included. benchmarks/evaluation.py does the same with
FastComposer's own code. Detection, crops and the CLIP path each have their tests in test_faces.py and test_clip.py;
here it is what the scorer makes of them: whose reference, which face, which prompt, which mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image, ImageOps
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from moa.evaluation.clip import ClipScorer
from moa.evaluation.clip_towers import TransformersTowers
from moa.evaluation.faces import FacenetFaces
from moa.evaluation.generate import Method, image_path
from moa.evaluation.measure import Measurer, MeasuringModels
from moa.evaluation.score import Scorer, embed_texts
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.evaluation.suite import load_suite
from moa.evaluation.summary import summarise
from tests.moa.photographs import CELEBA as PHOTOGRAPHS
from tests.moa.photographs import needs_photographs
from tests.tiny_models import tiny_image_encoder, tiny_image_processor, tiny_text_encoder, tiny_tokenizer

PROJECT = Path(__file__).resolve().parents[3]
pytestmark = needs_photographs
METHOD = Method("images", "Images", "moa", "sha256:none")
PEOPLE = ("000001", "000667")  # a man, a woman
# The class word is followed by the method's own token, which is empty when scoring; hence the two spaces.
PROMPTS = ("a {word}  wearing a red hat", "a painting of a {word}  in the style of Banksy", "a {word}  riding a horse")
CELEBA = load_suite(PROJECT / "datasets" / "suites" / "celeba-15.yaml")
SUITE = CELEBA.model_copy(
    update={"prompts": (CELEBA.prompts[0], CELEBA.prompts[10], CELEBA.prompts[20]), "seeds": (0,)}
)


@pytest.fixture(scope="module")
def people() -> list[SuiteSubject]:
    """Two of the 15 with their photographs at 120 px."""
    chosen = [person for person in resolve_subjects(CELEBA, images=PHOTOGRAPHS) if person.id in PEOPLE]
    small = [person.photo.resize((120, 168)) for person in chosen]
    return [SuiteSubject(p.id, p.word, photo, photo, p.source) for p, photo in zip(chosen, small, strict=True)]


@pytest.fixture(scope="module")
def detector() -> MTCNN:
    return MTCNN(image_size=160, margin=0, min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709, keep_all=True)


@pytest.fixture(scope="module")
def embedder(people, detector) -> torch.nn.Module:
    """Random weights; the last batch norm takes its statistics from the two people, which puts them at opposite ends.
    Without that all faces embed alike, and any face and any reference would do."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = InceptionResnetV1().eval()
        model.last_bn.train().momentum = None
        model(torch.cat([detector(person.photo)[:1] for person in people]))
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[CLIPModel, CLIPTokenizer]:
    config = CLIPConfig(
        text_config=tiny_text_encoder().config.to_dict() | {"max_position_embeddings": 64},
        vision_config=tiny_image_encoder().config.to_dict(),
        projection_dim=24,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
        tokenizer.model_max_length = 64
        return CLIPModel(config).eval(), tokenizer


@pytest.fixture(scope="module")
def images(people) -> dict[tuple[str, int], Image.Image]:
    """By person and place of the prompt: the man in a mirror, nobody, he beside her; he, she in the dark, she beside
    him. Who stands beside is small and comes first."""
    (man, woman), grey = (person.photo for person in people), Image.new("RGB", (190, 168), "grey")

    def beside(small: Image.Image, large: Image.Image) -> Image.Image:
        picture = grey.copy()
        picture.paste(small.resize((64, 90)), (0, 0))
        picture.paste(large, (70, 0))
        return picture

    return {
        (PEOPLE[0], 0): ImageOps.mirror(man),
        (PEOPLE[0], 1): grey,
        (PEOPLE[0], 2): beside(man, woman),
        (PEOPLE[1], 0): man,
        (PEOPLE[1], 1): woman.point(lambda value: value // 2),
        (PEOPLE[1], 2): beside(woman, man),
    }


@pytest.fixture(scope="module")
def rows(people, embedder, clip, images, tmp_path_factory) -> pd.DataFrame:
    """What the project's scorer says of the images, from files."""
    folder = tmp_path_factory.mktemp("evaluation")
    for (subject, place), image in images.items():
        path = folder / image_path(METHOD, subject, "", SUITE.prompts[place].id, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    models = MeasuringModels(FacenetFaces(embedder), ClipScorer(TransformersTowers(*clip, tiny_image_processor())))
    scorer = Scorer(SUITE, people, Measurer(folder, models), embed_texts(SUITE, people, models.clip))
    return scorer.score([METHOD])


@pytest.fixture(scope="module")
def published(people, detector, embedder, clip, images) -> pd.DataFrame:
    """The published steps, image by image, in the order of the rows."""
    by_id = {person.id: person for person in people}
    scores = []
    with torch.no_grad():
        for (subject, place), image in images.items():
            person = by_id[subject]
            found, reference = detector(image), detector(person.photo)
            ip, prompt = 0.0, PROMPTS[place].format(word=person.word)
            if found is not None:
                ip = max(0.0, (embedder(found[:1]) @ embedder(reference[:1]).T).item())
            scores.append((subject, ip, _clip_cosine(*clip, image, prompt), 0 if found is None else len(found)))
    return pd.DataFrame(scores, columns=["subject", "ip", "pc", "faces"])


def _clip_cosine(model: CLIPModel, tokenizer: CLIPTokenizer, image: Image.Image, prompt: str) -> float:
    processor = tiny_image_processor()
    path = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.Normalize(processor.image_mean, processor.image_std),
        ]
    )
    out = model(pixel_values=path(image)[None], **tokenizer(prompt, return_tensors="pt"))
    return float(out.logits_per_image / model.logit_scale.exp())


def test_every_row_is_the_published_score(rows, published):
    assert list(rows["subject"]) == list(published["subject"])
    assert np.abs(rows["ip"].to_numpy() - published["ip"].to_numpy()).max() < 1e-4
    assert np.abs(rows["pc"].to_numpy() - published["pc"].to_numpy()).max() < 1e-5


def test_the_images_are_the_cases_that_matter(published):
    """One face, none, the wrong one of two; similarities clamped and not; prompts that can be told apart."""
    assert list(published["faces"]) == [1, 0, 2, 1, 1, 2]
    assert (published["ip"][[0, 4]] > 0.3).all() and (published["ip"][[1, 2, 3, 5]] == 0).all()
    assert (np.diff(np.sort(published["pc"])) > 1e-4).all()


def test_the_means_count_images_without_a_face(rows, published):
    """Mean and population standard deviation over all images, as published tables have them."""
    table = summarise(rows, SUITE, [METHOD], {})["methods"][0]
    for score in ("ip", "pc"):
        assert table[score]["mean"] == pytest.approx(np.mean(published[score]), abs=1e-5)
        assert table[score]["std"] == pytest.approx(np.std(published[score]), abs=1e-5)
    assert table["outcomes"] == {"scored": 5, "no_face": 1}
