"""The preflight of a suite: everything that would otherwise fail hours later, looked at in a minute.

    python -m moa.evaluation.suite datasets/suites/celeba-15.yaml --images DIR

opens every photograph and looks for its face, loads the measuring models, looks for every subject's word in every
prompt, gives all of them to CLIP, and prints a table. It writes nothing. The exit status is 0 when all is there and
usable, else 1; whatever is missing, all else is looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moa.errors import EvaluationError, MoAError
from moa.evaluation.attributes import AttributeJudge
from moa.evaluation.clip import load_clip
from moa.evaluation.faces import Face, MtcnnDetector, load_faces
from moa.evaluation.generate import Method, shots
from moa.evaluation.score import embed_texts
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.evaluation.suite import Suite, load_suite

PRIOR = Method("prior", "Prior only", "prior", "")  # its images are those of every method, as far as their prompts go
LOADERS: dict[str, Callable[[Any], Any]] = {
    "faces": load_faces,
    "clip": load_clip,
    "attributes": AttributeJudge.from_folder,
}


def check_suite(
    suite: Suite, *, images: Path | None = None, shards: Path | None = None, segmenter: Path | None = None
) -> int:
    """Prints a line per person and per measuring model, and what is wrong; returns the exit status."""
    print(f"{suite.name} {suite.version}: {suite.title}")
    subjects = resolve_subjects(suite, shards=shards, images=images, segmenter=segmenter)
    models, problems = _load_models(suite)
    problems += [subject.problem for subject in subjects if subject.problem]
    problems += _print_people(suite, subjects, models)
    for name, model in models.items():
        print(f"{name}: there: {model.describe()['weights']}")
    try:
        shots(suite, subjects, PRIOR)
        if "clip" in models:
            print(f"prompts: {len(embed_texts(suite, subjects, models['clip']))} texts, all short enough for CLIP")
    except EvaluationError as error:
        problems.append(str(error))
    _print_counts(suite, subjects)
    for problem in problems:
        print(f"PROBLEM {problem}")
    print("ready" if not problems else f"not ready: {len(problems)} problems")
    return int(bool(problems))


def _load_models(suite: Suite) -> tuple[dict[str, Any], list[str]]:
    """The measuring models by name, and what is wrong with the others."""
    models, problems = {}, []
    for name, declared in suite.evaluators:
        try:
            if declared is not None:
                models[name] = LOADERS[name](declared)
        except MoAError as error:
            problems.append(f"evaluators.{name}: {error}")
    return models, problems


def _print_people(suite: Suite, subjects: list[SuiteSubject], models: dict[str, Any]) -> list[str]:
    """A line per photograph; returns a problem for each without a face. MTCNN finds faces without the embedder."""
    detector = models.get("faces") or (MtcnnDetector() if suite.evaluators.faces.kind == "facenet" else None)
    people = [(subject, subject.photo) for subject in subjects if subject.photo]
    found = detector.detect([photo for _, photo in people]) if detector else [None] * len(people)
    print(f"{'subject':<18} {'word':<8} {'size':>11} {'faces':>5} {'largest':>9} {'p':>5}  photograph")
    problems = []
    for (subject, photo), faces in zip(people, found, strict=True):
        print(
            f"{subject.id:<18} {subject.word:<8} {f'{photo.width}x{photo.height}':>11} {_said(faces)}  {subject.source}"
        )
        if faces == []:
            problems.append(f"subject {subject.id}: no face was found in {subject.source}: IP cannot be measured")
    return problems


def _said(faces: list[Face] | None) -> str:
    """The columns of what was found; nobody looked where `faces` is None."""
    count, largest, probability = "?" if faces is None else len(faces), "" if faces is None else "NO FACE", ""
    if faces:
        x0, y0, x1, y1 = faces[0].box
        largest, probability = f"{x1 - x0:.0f}x{y1 - y0:.0f}", f"{faces[0].probability:.2f}"
    return f"{count:>5} {largest:>9} {probability:>5}"


def _print_counts(suite: Suite, subjects: list[SuiteSubject]) -> None:
    parts = [("subjects", len(subjects), len(suite.prompts), len(suite.seeds), "images per method")]
    if suite.pairs:
        pairs, what = suite.pairs, "images of two people per method"
        parts.append(("pairs", pairs.count, len(pairs.prompts), len(pairs.seeds), what))
    for who, count, prompts, seeds, what in parts:
        print(f"{count} {who} x {prompts} prompts x {seeds} seeds = {count * prompts * seeds} {what}")
    others = sum(subject.other is not None for subject in subjects)
    print(f"other photographs, for the upper bound of IP: {others} of {len(subjects)}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moa.evaluation.suite", description=__doc__.split("\n")[0])
    parser.add_argument("suite", type=Path, help="datasets/suites/<name>.yaml")
    parser.add_argument("--images", type=Path, help="folder of the reference photographs (suites of kind folder)")
    parser.add_argument("--shards", type=Path, help="folder of the shards (suites of kind shards)")
    parser.add_argument("--segmenter", type=Path, help="Mask2Former folder that cuts people out of --images")
    parser.add_argument("--faces", type=Path, help="weights of the face embedder, instead of the declared place")
    parser.add_argument("--clip", type=Path, help="CLIPModel or OpenCLIP folder, instead of the declared place")
    given = parser.parse_args(arguments)
    try:
        suite = load_suite(given.suite, faces=given.faces, clip=given.clip)
        return check_suite(suite, images=given.images, shards=given.shards, segmenter=given.segmenter)
    except MoAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
