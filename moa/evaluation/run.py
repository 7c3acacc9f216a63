"""Runs a whole evaluation: generates, scores, summarises. Run again it does nothing, or goes on where it stopped.

    python -m moa.evaluation.run --pipeline runs/demo/pipeline --suite datasets/suites/miniature.yaml \
        --shards data/miniature --out runs/demo/evaluation/miniature \
        --champion runs/before/export --ablation "without MoA=zoo/single-branch" --device cuda:0 --device cuda:1

writes `suite.json`, `references/`, `images/`, `measurements.jsonl` (a cache), `scores.*`, `swaps.*`, `pairs.*`,
`router.json` with its sprites, `summary.json` and, last, `manifest.json` into `--out` (datasets/FORMAT.md, section 6).
Exit status: 0 all scored, 1 bad input, 2 something could not be scored (it is named, the rest is scored).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moa.errors import EvaluationError, MoAError, SuiteError
from moa.evaluation.environment import describe_environment
from moa.evaluation.generate import Method, Progress, generate, shots
from moa.evaluation.manifest import check_version, inputs_digest, is_complete, write_suite
from moa.evaluation.measure import Measurer, MeasuringModels, measured_together
from moa.evaluation.methods import DTYPES, find_methods, open_pipeline
from moa.evaluation.preparer import describe_preparer
from moa.evaluation.results import write_results
from moa.evaluation.router import record_router
from moa.evaluation.score import Scorer, embed_texts
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.evaluation.suite import Precision, Suite, load_suite
from moa.evaluation.workers import Crew, check_devices
from moa.models import code_commit

MOST_BATCHES = 8  # that a process is given to measure at a time, so that it reads one while it measures another


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the evaluated weights were published, for the record; both None for a local folder."""

    repo_id: str | None = None
    commit: str | None = None


def evaluate(
    pipeline: Path,
    suite: Suite,
    out: Path,
    *,
    shards: Path | None = None,
    images: Path | None = None,
    segmenter: Path | None = None,
    champion: Path | None = None,
    ablations: dict[str, Path] | None = None,
    community: dict[str, Path] | None = None,
    models: MeasuringModels | None = None,
    devices: Sequence[str] = ("cpu",),
    precision: Precision | None = None,
    batch_size: int = 16,
    source: Source = Source(),
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluates a pipeline folder on a suite and returns the path of the manifest in `out`.

    Methods are the prior, MoA, the `champion` (an adapter folder), one for each of `ablations` (label -> adapter
    folder), and two for each `community` base (label -> LoRA): its prior and MoA on it. `shards` or `images` is where
    the suite's people are; the Mask2Former in `segmenter` cuts those of `images` out (None: `PortraitPreparer`).
    `models` defaults to those the suite declares; they are loaded, and every prompt is given to CLIP, before anything
    is generated. Generation and measuring are split over `devices`; models that are handed in measure in this process.
    `precision` is that of the pipelines, by default the suite's (`Suite.for_devices`). `progress(stage, done, total,
    item)` follows the stages "generate <method>", "measure", "score" and "router". Raises `EvaluationError` and its kin
    for inputs that are missing or wrong; a photograph that cannot be had costs its own subject only.
    """
    check_devices(devices)
    if batch_size < 1:
        raise EvaluationError(f"batch_size is {batch_size}: at least one image must be made at a time")
    suite = suite.for_devices(devices, precision)
    subjects = resolve_subjects(suite, shards=shards, images=images, segmenter=segmenter)
    if not any(subject.usable for subject in subjects):
        raise SuiteError(f"suite {suite.name}: nobody has a reference; the first problem: {subjects[0].problem}")
    methods = find_methods(pipeline, champion=champion, ablations=ablations, community=community)
    split = len(devices) > 1 and models is None
    models = models or MeasuringModels.load(suite.evaluators, devices[0])
    evaluators, preparer = models.describe(), describe_preparer(suite, segmenter)
    inputs = inputs_digest(suite, subjects, methods, evaluators, preparer)
    check_version(out, suite)
    if is_complete(out, suite, inputs):
        _tell(progress, "up to date", 1, 1, str(out))
        return out / "manifest.json"

    texts = embed_texts(suite, subjects, models.clip)
    files = _begin(out, suite, subjects)
    sampler = partial(open_pipeline, pipeline, precision=suite.images.precision)
    following = partial(_tell_method, progress)
    with Crew(devices) as crew:
        generate(out, suite, subjects, methods, sampler, crew=crew, batch_size=batch_size, progress=following)
        if split:
            _measure_by(crew, partial(_open_measurer, out, suite), suite, subjects, methods, progress)
    measurer = Measurer(out, models)  # opened now, it knows what the others have measured
    if not split:
        _measure_by(Crew(devices[:1]), lambda _: measurer, suite, subjects, methods, progress)
    scorer = Scorer(suite, subjects, measurer, texts)
    rows = scorer.score(methods, progress=partial(_tell, progress, "score"))
    moa = next(method for method in methods if method.kind == "moa")
    router = record_router(scorer, moa, sampler, device=devices[0], progress=progress)
    provenance = {
        "repo_id": source.repo_id,
        "commit": source.commit,
        "adapter_digest": _adapter_digest(pipeline),
        "evaluators": evaluators,
        "preparer": preparer,
        "command": command,
        "code_commit": code_commit(),
    }
    environment = describe_environment(suite, pipeline, devices)
    return write_results(scorer, methods, rows, router, provenance, environment, inputs, files)


def _begin(out: Path, suite: Suite, subjects: Sequence[SuiteSubject]) -> list[Path]:
    """Makes `out` an unfinished evaluation of the suite; returns the files that say what was asked."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "manifest.json").unlink(missing_ok=True)
        return write_suite(out, suite, subjects)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be written ({error.strerror}); free it, or give another --out") from error


def _measure_by(
    crew: Crew,
    open_measurer: Callable[[str], Callable[[list[str]], Any]],
    suite: Suite,
    subjects: Sequence[SuiteSubject],
    methods: Sequence[Method],
    progress: Progress | None,
) -> None:
    """Fills the journal of measurements. A model's last digits depend on what is in a batch, and the batches are the
    same however many devices share them: each is given some whole ones at a time."""
    images = list(dict.fromkeys(shot.path for method in methods for shot in shots(suite, subjects, method)))
    batch = max(measured_together(device) for device in crew.devices)
    given = batch * max(1, min(MOST_BATCHES, len(images) // (4 * batch * len(crew.devices))))
    parts = [images[i : i + given] for i in range(0, len(images), given)]
    done = 0
    for part, _ in crew.work(open_measurer, parts, lambda part: part[-1]):
        done += len(part)
        _tell(progress, "measure", done, len(images), part[-1])


def _open_measurer(out: Path, suite: Suite, device: str) -> Callable[[list[str]], int]:
    """Measures images with models of its own on `device`, into its own part of the journal; returns how many."""
    measurer = Measurer(out, MeasuringModels.load(suite.evaluators, device), part=os.getpid())
    return lambda images: len(measurer(images))


def _adapter_digest(pipeline: Path) -> str:
    return json.loads((pipeline / "adapter" / "manifest.json").read_text(encoding="utf-8"))["digest"]


def _tell(progress: Progress | None, stage: str, done: int, total: int, item: str) -> None:
    if progress:
        progress(stage, done, total, item)


def _tell_method(progress: Progress | None, method: str, done: int, total: int, item: str) -> None:
    _tell(progress, f"generate {method}", done, total, item)


def _print_table(summary: dict[str, Any]) -> None:
    print(f"{'method':<32} {'images':>6} {'IP':>7} {'95 %':>14} {'PC':>7} {'faces':>6} {'change outside':>15}")
    for method in summary["methods"]:
        scores = [method["ip"], method["pc"], method["detection_rate"], method["context_change_outside"] or {}]
        ip, pc, faces, outside = ("-" if s.get("mean") is None else f"{s['mean']:.3f}" for s in scores)
        low, high = method["ip"]["low"], method["ip"]["high"]
        interval = "" if low is None else f"{low:.3f}..{high:.3f}"
        print(f"{method['label']:<32} {method['n']:>6} {ip:>7} {interval:>14} {pc:>7} {faces:>6} {outside:>15}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m moa.evaluation.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pipeline", type=Path, required=True, help="a pipeline folder (base model, image encoder and adapter)"
    )
    parser.add_argument("--suite", type=Path, required=True, help="datasets/suites/<name>.yaml")
    parser.add_argument("--out", type=Path, required=True, help="runs/<name>/evaluation/<suite>")
    parser.add_argument("--shards", type=Path, help="shard folder, for suites whose people come from shards")
    parser.add_argument("--images", type=Path, help="folder of photographs, for suites that name theirs")
    parser.add_argument("--segmenter", type=Path, help="Mask2Former folder that cuts people out of --images")
    parser.add_argument("--champion", type=Path, help="folder of the adapter that this one is to replace")
    for option, what in (("--ablation", "another adapter's folder"), ("--community", "a LoRA merged into the base")):
        parser.add_argument(option, action="append", default=[], metavar="LABEL=FOLDER", help=f"{what} (repeatable)")
    parser.add_argument("--faces", type=Path, help="weights of the face model, instead of the declared place")
    parser.add_argument("--clip", type=Path, help="CLIPModel or OpenCLIP folder, instead of the declared place")
    parser.add_argument("--batch-size", type=int, default=16, help="images generated together (default 16)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", action="append", help=f"such as cuda:0; given several times they share the work (default {default})"
    )
    parser.add_argument(
        "--precision", choices=DTYPES, help="of the images' sampling (default: the suite's on GPUs, fp32 on a CPU)"
    )
    parser.add_argument("--repo-id", help="where the pipeline was published, for the record")
    parser.add_argument("--commit", help="which revision it is, for the record")
    given = parser.parse_args(arguments)
    given.device = given.device or [default]
    return given


def _labelled(option: str, given: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    for label, sign, folder in pairs:
        if not (label and sign and folder):
            raise EvaluationError(f"{option} {label + sign + folder!r}: write it as LABEL=FOLDER")
        if sum(label == other for other, _, _ in pairs) > 1:
            raise EvaluationError(f"{option}: {label!r} is given more than once; give each folder a label of its own")
    return {label: Path(folder) for label, _, folder in pairs}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _arguments(arguments)
    try:
        suite = load_suite(given.suite, faces=given.faces, clip=given.clip)
        manifest = evaluate(
            given.pipeline,
            suite,
            given.out,
            shards=given.shards,
            images=given.images,
            segmenter=given.segmenter,
            champion=given.champion,
            ablations=_labelled("--ablation", given.ablation),
            community=_labelled("--community", given.community),
            devices=given.device,
            precision=given.precision,
            batch_size=given.batch_size,
            source=Source(repo_id=given.repo_id, commit=given.commit),
            command=shlex.join(["python", "-m", "moa.evaluation.run", *arguments]),
            progress=lambda stage, done, total, item: print(f"{stage}: {done}/{total} {item}", flush=True),
        )
    except MoAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summary = json.loads((given.out / "summary.json").read_text(encoding="utf-8"))
    _print_table(summary)
    for problem in summary["unscored"]:
        print(f"{problem['what']}: {problem['why']}", file=sys.stderr)
    print(manifest)
    return 2 if summary["unscored"] else 0


if __name__ == "__main__":
    sys.exit(main())
