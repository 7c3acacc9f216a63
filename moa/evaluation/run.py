"""Runs a whole evaluation: generates, scores, summarises. Run again it does nothing, or goes on where it stopped.

    python -m moa.evaluation.run --pipeline runs/demo/pipeline --suite datasets/suites/miniature.yaml --shards
    data/miniature \
        --out runs/demo/evaluation/miniature --ablation "without MoA=zoo/single-branch"

writes `suite.json`, `references/`, `images/`, `measurements.jsonl` (a cache), `scores.parquet`, `scores.csv`,
`summary.json` and, last, `manifest.json` into `--out` (datasets/FORMAT.md, section 6). Exit status: 0 all scored, 1
bad input, 2 some images could not be read (they are named, the rest is scored).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from moa.adapter import load_adapter
from moa.data import file_digest
from moa.errors import EvaluationError, MoAError
from moa.evaluation.clip import ClipScorer, load_clip
from moa.evaluation.faces import FaceEvaluator, load_faces
from moa.evaluation.files import json_digest, write_file, write_json
from moa.evaluation.generate import Method, generate
from moa.evaluation.score import Scorer, read_scores, write_scores
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.evaluation.suite import FolderSubjects, Suite, load_suite
from moa.evaluation.summary import FORMAT, summarise
from moa.models import BASE_PARTS, code_commit, folder_digest
from moa.pipeline import MoAPipeline

Progress = Callable[[str, int, int, str], None]


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
    ablations: dict[str, Path] | None = None,
    faces: FaceEvaluator | None = None,
    clip: ClipScorer | None = None,
    device: str = "cpu",
    batch_size: int = 8,
    source: Source = Source(),
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluates a pipeline folder on a suite and returns the path of the manifest in `out`.

    Methods are the prior, MoA, and one for each of `ablations` (label -> adapter folder). `shards` or `images` is
    where the suite's people are. `faces` and `clip` default to the models the suite declares; they are loaded before
    anything is generated. `progress(stage, done, total, item)` follows the stages "generate <method>" and "score".
    Raises `EvaluationError` and its kin for inputs that are missing or wrong.
    """
    subjects = resolve_subjects(suite, shards=shards, images=images)
    methods = find_methods(pipeline, ablations or {})
    faces, clip = faces or load_faces(suite.evaluators.faces, device), clip or load_clip(suite.evaluators.clip, device)
    evaluators = {"faces": faces.describe(), "clip": clip.describe()}
    inputs = _inputs(suite, subjects, methods, evaluators)
    if is_complete(out, inputs):
        if progress:
            progress("up to date", 1, 1, str(out))
        return out / "manifest.json"
    (out / "manifest.json").unlink(missing_ok=True)
    resolved = write_json(out / "suite.json", _resolved(suite, subjects))
    references = [_write_reference(out, subject) for subject in subjects]
    for method in methods:
        sampler = partial(open_pipeline, pipeline, method, device)
        following = _stage(progress, f"generate {method.name}")
        generate(out, suite, subjects, method, sampler, batch_size=batch_size, progress=following)
    rows = Scorer(out, suite, subjects, faces, clip).score(methods, progress=_stage(progress, "score"))
    write_scores(out, rows)
    provenance = {
        "repo_id": source.repo_id,
        "commit": source.commit,
        "adapter_digest": _adapter_digest(pipeline),
        "evaluators": evaluators,
        "command": command,
        "code_commit": code_commit(),
    }
    summary = write_json(out / "summary.json", summarise(rows, suite, methods, provenance))
    return _write_manifest(out, suite, methods, inputs, rows, [resolved, *references, summary])


def find_methods(pipeline: Path, ablations: dict[str, Path]) -> list[Method]:
    """The prior, MoA and the ablations, each with the digest of the weights it runs on.

    Raises `EvaluationError` naming what is missing.
    """
    for part in (*BASE_PARTS, "image_encoder", "feature_extractor", "adapter"):
        if not (pipeline / part).is_dir():
            raise EvaluationError(f"{pipeline}: is no MoA pipeline folder, it lacks {part}/")
    base, encoder = folder_digest(pipeline, BASE_PARTS), folder_digest(pipeline, ("image_encoder", "feature_extractor"))
    methods = [
        Method("prior", "Prior only", "prior", base),
        Method("moa", "MoA", "moa", json_digest([base, encoder, folder_digest(pipeline / "adapter")])),
    ]
    for label, adapter in ablations.items():
        if not (adapter / "manifest.json").is_file():
            raise EvaluationError(f"--ablation {label!r}: {adapter} is no adapter folder, it lacks manifest.json")
        name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        if not name or name in {method.name for method in methods}:
            raise EvaluationError(
                f"--ablation {label!r}: its folder name would be {name!r}, empty or taken; choose another label"
            )
        methods.append(Method(name, label, "ablation", json_digest([base, encoder, folder_digest(adapter)]), adapter))
    return methods


def open_pipeline(folder: Path, method: Method, device: str) -> MoAPipeline:
    """The pipeline of a method, quiet, on `device`: the folder's own, with the adapter exchanged
    for an ablation."""
    pipeline: Any = MoAPipeline.from_pretrained(folder)
    if method.adapter is not None:
        unet: Any = load_adapter(pipeline.unet.to_base_unet(), method.adapter)
        pipeline.register_modules(unet=unet.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def is_complete(out: Path, inputs: str) -> bool:
    """Whether `out` holds the finished evaluation of these inputs, with nothing changed or deleted since."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        intact = all(file_digest(out / name) == digest for name, digest in manifest["files"].items())
        rows = read_scores(out)
    except (OSError, ValueError, KeyError, EvaluationError):
        return False
    scored = rows.loc[rows["outcome"] != "missing", "image"].unique()
    return (
        manifest["inputs"] == inputs
        and intact
        and manifest["rows"] == rows_digest(rows)
        and all((out / image).is_file() for image in scored)
    )


def rows_digest(rows: pd.DataFrame) -> str:
    """Digest of the scores without the seconds, which differ from run to run."""
    return json_digest(
        json.loads(rows.drop(columns="generation_seconds").to_json(orient="values", double_precision=15))
    )


def _inputs(
    suite: Suite, subjects: Sequence[SuiteSubject], methods: Sequence[Method], evaluators: dict[str, Any]
) -> str:
    """Digest of everything the results depend on, wherever on the machine it lies."""
    named = [[method.name, method.label, method.digest] for method in methods]
    return json_digest([FORMAT, _resolved(suite, subjects), named, evaluators])


def _resolved(suite: Suite, subjects: Sequence[SuiteSubject]) -> dict[str, Any]:
    """The content of suite.json: the declaration with its people, and file names instead of this machine's paths."""
    content = suite.model_dump(mode="json")
    for model in content["evaluators"].values():
        model["path"] = Path(model["path"]).name
    if isinstance(suite.subjects, FolderSubjects):
        content["subjects"]["root"] = None
    content["people"] = [{"id": s.id, "word": s.word, "source": s.source, "digest": s.digest} for s in subjects]
    return content


def _write_reference(out: Path, subject: SuiteSubject) -> Path:
    image = subject.reference.convert("RGBA")
    return write_file(out / "references" / f"{subject.id}.png", lambda draft: image.save(draft, format="PNG"))


def _adapter_digest(pipeline: Path) -> str:
    return json.loads((pipeline / "adapter" / "manifest.json").read_text(encoding="utf-8"))["digest"]


def _write_manifest(
    out: Path, suite: Suite, methods: Sequence[Method], inputs: str, rows: pd.DataFrame, files: Sequence[Path]
) -> Path:
    content = {
        "format": FORMAT,
        "suite": suite.name,
        "version": suite.version,
        "methods": {method.name: method.digest for method in methods},
        "inputs": inputs,
        "outcomes": {outcome: int(n) for outcome, n in rows["outcome"].value_counts().items()},
        "rows": rows_digest(rows),
        "files": {path.relative_to(out).as_posix(): file_digest(path) for path in files},
    }
    manifest = content | {"digest": json_digest(content), "commit": code_commit()}
    return write_json(out / "manifest.json", manifest)


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int, str], None] | None:
    return (lambda done, total, item: progress(stage, done, total, item)) if progress else None


def _print_table(summary: dict[str, Any]) -> None:
    print(f"{'method':<24} {'images':>6} {'IP':>7} {'95 %':>14} {'PC':>7} {'faces':>6} {'change outside':>15}")
    for method in summary["methods"]:
        scores = [method["ip"], method["pc"], method["detection_rate"], method["context_change_outside"] or {}]
        ip, pc, faces, outside = ("-" if s.get("mean") is None else f"{s['mean']:.3f}" for s in scores)
        low, high = method["ip"]["low"], method["ip"]["high"]
        interval = "" if low is None else f"{low:.3f}..{high:.3f}"
        print(f"{method['label']:<24} {method['n']:>6} {ip:>7} {interval:>14} {pc:>7} {faces:>6} {outside:>15}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m moa.evaluation.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pipeline", type=Path, required=True, help="a pipeline folder (base model, image encoder and adapter)"
    )
    parser.add_argument("--suite", type=Path, required=True, help="datasets/suites/<name>.yaml")
    parser.add_argument("--out", type=Path, required=True, help="runs/<name>/evaluation/<suite>")
    parser.add_argument("--shards", type=Path, help="shard folder, for suites whose people come from shards")
    parser.add_argument("--images", type=Path, help="folder of photographs, for suites that name theirs")
    parser.add_argument(
        "--ablation",
        action="append",
        default=[],
        metavar="LABEL=FOLDER",
        help="another adapter beside (repeatable)",
    )
    parser.add_argument("--faces", type=Path, help="weights of the face model, instead of the declared place")
    parser.add_argument("--clip", type=Path, help="CLIPModel folder, instead of the declared place")
    parser.add_argument("--batch-size", type=int, default=8, help="images generated together (default 8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repo-id", help="where the pipeline was published, for the record")
    parser.add_argument("--commit", help="which revision it is, for the record")
    return parser.parse_args(arguments)


def _ablations(given: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    for label, sign, folder in pairs:
        if not (label and sign and folder):
            raise EvaluationError(f"--ablation {label + sign + folder!r}: write it as LABEL=FOLDER")
    return {label: Path(folder) for label, _, folder in pairs}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _arguments(arguments)
    try:
        manifest = evaluate(
            given.pipeline,
            load_suite(given.suite, faces=given.faces, clip=given.clip),
            given.out,
            shards=given.shards,
            images=given.images,
            ablations=_ablations(given.ablation),
            device=given.device,
            batch_size=given.batch_size,
            source=Source(repo_id=given.repo_id, commit=given.commit),
            command=shlex.join(["python", "-m", "moa.evaluation.run", *arguments]),
            progress=lambda stage, done, total, item: print(f"{stage}: {done}/{total} {item}", flush=True),
        )
    except MoAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print_table(json.loads((given.out / "summary.json").read_text(encoding="utf-8")))
    rows = read_scores(given.out)
    unread = rows[rows["outcome"].isin(["missing", "unreadable"])]
    for row in unread.itertuples():
        print(f"{row.outcome}: {given.out / row.image}", file=sys.stderr)
    print(manifest)
    return 2 if len(unread) else 0


if __name__ == "__main__":
    sys.exit(main())
