"""The preflight of a suite: everything that would otherwise fail hours later, looked at in a minute.

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR

prints a table and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moa.errors import MoAError, SuiteError
from moa.evaluation.faces import Face, MiniatureFaces, MtcnnDetector
from moa.evaluation.subjects import SuiteSubject, choose_pairs, resolve_item, resolve_subjects
from moa.evaluation.suite import FaceModel, FolderSubjects, Suite, load_suite


def check_suite(suite: Suite, *, images: Path | None = None, shards: Path | None = None) -> int:
    """Prints a line per person and per weight file; returns the exit status: 0 when every photograph opens and shows
    a face.

    Missing weights are named but do not count: the people can be checked before 2 GB are fetched, and
    `moa.evaluation.run` loads the weights before it generates anything.
    """
    print(f"{suite.name} {suite.version}: {suite.title}")
    subjects, unusable = _subjects(suite, images, shards)
    found = _detector(suite.evaluators.faces).detect([subject.photo for subject in subjects])
    print(f"{'subject':<18} {'word':<8} {'size':>11} {'faces':>5} {'largest':>9} {'p':>5}  photograph")
    for subject, faces in zip(subjects, found, strict=True):
        print(_line(subject, faces))
    for problem in unusable:
        print(f"UNUSABLE {problem}")
    _print_weights(suite)
    faceless = sum(not faces for faces in found)
    total = len(subjects) + len(unusable)
    print(f"{total} subjects x {len(suite.prompts)} prompts x {len(suite.seeds)} seeds = ", end="")
    print(f"{total * len(suite.prompts) * len(suite.seeds)} images per method")
    if suite.pairs and not unusable:
        pairs = len(choose_pairs(suite, subjects))
        print(f"{pairs} pairs x {len(suite.pairs.prompts)} prompts x {len(suite.pairs.seeds)} seeds = ", end="")
        print(f"{pairs * len(suite.pairs.prompts) * len(suite.pairs.seeds)} images of two people per method")
    print(f"other photographs, for the upper bound of IP: {sum(s.other is not None for s in subjects)} of {total}")
    ready = total - len(unusable) - faceless
    print(f"photographs: {ready} of {total} ready, {faceless} without a face, {len(unusable)} unusable")
    return int(faceless + len(unusable) > 0)


def _subjects(suite: Suite, images: Path | None, shards: Path | None) -> tuple[list[SuiteSubject], list[str]]:
    """All people that can be had, and what is wrong with the others (a folder is read to its end, whatever is
    missing)."""
    if not isinstance(suite.subjects, FolderSubjects):
        return resolve_subjects(suite, shards=shards), []
    subjects, unusable = [], []
    for item in suite.subjects.items:
        try:
            subjects.append(resolve_item(suite.name, suite.subjects, item, images))
        except SuiteError as error:
            unusable.append(str(error))
    return subjects, unusable


def _detector(model: FaceModel) -> MtcnnDetector | MiniatureFaces:
    """Detection needs no embedder weights where MTCNN does it."""
    return MtcnnDetector() if model.kind == "facenet" else MiniatureFaces.from_folder(Path(model.path))


def _line(subject: SuiteSubject, faces: list[Face]) -> str:
    size, largest, probability = f"{subject.photo.width}x{subject.photo.height}", "NO FACE", ""
    if faces:
        x0, y0, x1, y1 = faces[0].box
        largest, probability = f"{x1 - x0:.0f}x{y1 - y0:.0f}", f"{faces[0].probability:.2f}"
    who = f"{subject.id:<18} {subject.word:<8}"
    return f"{who} {size:>11} {len(faces):>5} {largest:>9} {probability:>5}  {subject.source}"


def _print_weights(suite: Suite) -> None:
    faces, clip = Path(suite.evaluators.faces.path), Path(suite.evaluators.clip.path) / "model.safetensors"
    if suite.evaluators.faces.kind == "miniature":
        faces = faces / "model.safetensors"
    for name, path in (("faces", faces), ("clip", clip)):
        print(f"weights of {name}: {'there' if path.is_file() else 'MISSING, needed to score'}: {path}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moa.evaluation.suite", description=__doc__.split("\n")[0])
    parser.add_argument("suite", type=Path, help="datasets/suites/<name>.yaml")
    parser.add_argument("--images", type=Path, help="folder of the reference photographs (suites of kind folder)")
    parser.add_argument("--shards", type=Path, help="folder of the shards (suites of kind shards)")
    parser.add_argument("--faces", type=Path, help="weights of the face embedder, instead of the declared place")
    parser.add_argument("--clip", type=Path, help="CLIPModel or OpenCLIP folder, instead of the declared place")
    given = parser.parse_args(arguments)
    try:
        suite = load_suite(given.suite, faces=given.faces, clip=given.clip)
        return check_suite(suite, images=given.images, shards=given.shards)
    except MoAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
