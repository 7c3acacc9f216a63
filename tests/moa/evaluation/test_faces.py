"""FaceNet faces on the real photographs of the published protocol, against the protocol written out plainly."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image

from moa.data import file_digest
from moa.errors import EvaluatorWeightsError
from moa.evaluation.check import main as check
from moa.evaluation.faces import (
    MINIATURE_PERSON,
    REAL_PERSON,
    Face,
    FacenetFaces,
    MiniatureFaces,
    MtcnnDetector,
    face_crop,
    load_faces,
)
from moa.evaluation.metrics import person_region
from moa.evaluation.suite import FaceModel
from preprocessing.world import World
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.photographs import CELEBA, needs_photographs

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def embedder() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InceptionResnetV1().eval()


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(CELEBA.glob("*/*.jpg"))]


@needs_photographs
def test_finds_and_embeds_the_15_people_as_fastcomposer_does(embedder, photographs):
    ours = FacenetFaces(embedder)
    found = ours.detect(photographs)
    assert [len(faces) for faces in found] == [1] * 12 + [2] + [1] * 2
    embeddings = ours.embed(photographs, [faces[0] for faces in found])
    detector = MTCNN(
        image_size=160, margin=0, min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709, keep_all=True
    )
    theirs = torch.cat([_protocol_embedding(detector, embedder, photograph) for photograph in photographs]).numpy()
    assert np.abs(embeddings - theirs).max() < 1e-4
    assert np.abs(embeddings @ embeddings.T - theirs @ theirs.T).max() < 1e-4
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() < 1e-5


@torch.no_grad()
def _protocol_embedding(detector, embedder, photograph) -> torch.Tensor:
    """FastComposer's steps for one image: all faces cropped and standardised by MTCNN, the first one embedded."""
    return embedder(detector(photograph)[:1].reshape(1, 3, 160, 160))


@needs_photographs
def test_the_batch_size_changes_nothing(photographs):
    images = [photograph.resize((200, 280)) for photograph in photographs[:5]]
    images.insert(2, Image.new("RGB", (200, 280)))
    single, batched = MtcnnDetector(images=1).detect(images), MtcnnDetector(images=4).detect(images)
    assert [len(faces) for faces in single] == [len(faces) for faces in batched]
    for image, one, many in zip(images, single, batched, strict=True):
        for a, b in zip(one, many, strict=True):
            assert np.abs(np.subtract(a.box, b.box)).max() < 1e-3
            assert np.array_equal(face_crop(image, a), face_crop(image, b))
    assert single[2] == []


@needs_photographs
def test_faces_are_the_same_on_a_gpu(embedder, photographs):
    """One that is not there: tensors on two devices are an error."""
    here, photograph = FacenetFaces(copy.deepcopy(embedder)), photographs[:1]
    expected = here.detect(photograph)[0][:1]
    with AbsentGPU():
        there = FacenetFaces(copy.deepcopy(embedder), device="cuda:0")
        found = there.detect(photograph)[0][:1]
        embedded = there.embed(photograph, found)
    assert found[0].box == pytest.approx(expected[0].box, abs=1e-2)
    np.testing.assert_allclose(embedded, here.embed(photograph, found), atol=1e-4)


@needs_photographs
def test_the_largest_face_comes_first(photographs):
    pair = Image.new("RGB", (700, 600), "grey")
    small = photographs[0].resize((210, 297))
    pair.paste(small, (0, 0))
    pair.paste(photographs[0], (260, 3))
    faces = MtcnnDetector().detect([pair])[0]
    assert len(faces) == 2 and faces[0].area > 3 * faces[1].area and faces[0].box[0] > 260


@needs_photographs
def test_the_preflight_looks_at_the_photographs_without_weights(tmp_path, capsys):
    suite = str(PROJECT / "datasets" / "suites" / "celeba-15.yaml")
    people = tmp_path / "people"
    people.mkdir()
    for folder in sorted(CELEBA.iterdir()):
        (people / folder.name).symlink_to(folder)
    assert check([suite, "--images", str(people)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("PROBLEM") == 2 and "vggface2.pt: an evaluator's weights are missing" in printed
    (people / "000268").unlink()
    (people / "000612").unlink()
    (people / "000612").mkdir()
    (people / "000612" / "a.jpg").write_bytes(b"no photograph")
    (people / "000667").unlink()
    (people / "000667").mkdir()
    Image.new("RGB", (64, 64)).save(people / "000667" / "a.jpg")
    assert check([suite, "--images", str(people)]) == 1
    printed = capsys.readouterr().out
    assert "not ready: 5 problems" in printed and "NO FACE" in printed
    assert "subjects.items.000268.image: 000268 holds no photograph" in printed
    assert "subjects.items.000612.image: 000612/a.jpg cannot be read as an image" in printed
    assert "subject 000667: no face was found in 000667/a.jpg" in printed


def test_odd_images_have_no_face_instead_of_an_error():
    odd = [
        Image.new("RGB", (19, 400)),
        Image.new("RGB", (1, 1)),
        Image.new("L", (64, 48), 128),
        Image.new("RGBA", (48, 64)),
    ]
    assert MtcnnDetector().detect(odd) == [[], [], [], []]
    assert MtcnnDetector().detect([]) == []


def test_a_crop_is_clipped_cut_to_whole_pixels_and_standardised():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:10, :10] = 255
    crop = face_crop(Image.fromarray(pixels), Face((-3.0, -0.2, 10.9, 10.9), 1.0))
    assert crop.shape == (3, 160, 160) and crop.dtype == np.float32
    assert np.all(crop == (255 - 127.5) / 128)


def test_embedding_no_image_is_an_empty_table(embedder):
    assert FacenetFaces(embedder).embed([], []).shape == (0, 512)


def test_missing_weights_say_which_file_and_where_from(tmp_path):
    with pytest.raises(EvaluatorWeightsError, match=r"vggface2\.pt.*github\.com/timesler.*--faces"):
        load_faces(FaceModel(kind="facenet", path=str(tmp_path / "vggface2.pt")))
    with pytest.raises(EvaluatorWeightsError, match=r"model\.safetensors.*zoo/identity"):
        load_faces(FaceModel(kind="miniature", path=str(tmp_path)))


def test_weights_are_checked_before_they_are_read(tmp_path, embedder):
    path = tmp_path / "weights.pt"
    torch.save({**embedder.state_dict(), "logits.weight": torch.zeros(3, 512)}, path)
    with pytest.raises(EvaluatorWeightsError, match="is asked for"):
        FacenetFaces.from_weights(path)
    faces = FacenetFaces.from_weights(path, sha256=file_digest(path))
    image, face = Image.new("RGB", (64, 64), "teal"), Face((0, 0, 64, 64), 1.0)
    assert np.array_equal(faces.embed([image], [face]), FacenetFaces(embedder).embed([image], [face]))
    assert faces.describe()["weights"] == file_digest(path)


def test_the_miniature_persons_box_holds_the_person_and_not_the_scene():
    """Measured on the world's own masks; the proportions of real people would cover most of the picture."""
    world = World(1)
    alone = [scene for scene in map(world.scene, range(60)) if len(scene.people) == 1]
    held, background = zip(*(_shares(scene, MINIATURE_PERSON) for scene in alone), strict=True)
    assert np.mean(held) > 0.97 and np.percentile(held, 5) > 0.93 and np.mean(background) < 0.3
    assert np.mean([_shares(scene, REAL_PERSON)[1] for scene in alone]) > 0.5


def _shares(scene, person) -> tuple[float, float]:
    """Shares of the person's pixels and of the background's inside the box."""
    mask = np.asarray(scene.mask) > 0
    region = person_region(scene.people[0]["face"], person, *scene.image.size)
    return region[mask].mean(), region[~mask].mean()


def test_the_persons_box_is_written_into_the_results(embedder):
    assert FacenetFaces(embedder).describe()["person"] == {"head": 0.9, "side": 1.75, "above": 0.6, "below": 7.0}
    miniature = MiniatureFaces(None, weights="w")
    assert miniature.person == MINIATURE_PERSON and miniature.describe()["person"]["side"] == MINIATURE_PERSON.side
