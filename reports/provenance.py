"""How to make these numbers again, and what they do not say."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from reports.run_folder import Evaluation, Run

Pairs = list[tuple[str, object]]  # (name, value), None for a value that is not known

MANY_SUBJECTS = 30  # below this the intervals are wide enough to need a word
FEW_SUBJECTS = "{} subjects: the intervals are over subjects and wide. Differences inside them are not findings."
METRIC_LIMITS = (
    "IP compares with the very photograph the model was given, so it rewards copying; it falls with the face's size.",
    "IP counts an image without a found face as 0. The detection rate stands beside it to tell the two apart.",
    "PC is a cosine of CLIP embeddings: small differences mean little to a person.",
    "PC has no zero, for images are like prompts nobody asked for, too: claim C4 takes a share of what is above those.",
    "Change outside the person is measured against the prior's image at the same seed, where a person was found.",
    "Each method is one training run: trained again it would score otherwise, by how much no interval here says. "
    "Verdicts about architectures (C1, C9, C10, the ablations) are about these weights.",
)
MINIATURE = (
    "Images, models and evaluators belong to the miniature world. Its figures compare with each other and show whether "
    "the method works; they do not compare with any published figure."
)
MADE_ANEW = (
    "Dataset {} was made anew after the training: this page shows the photographs that are there now, and a suite that "
    "takes its people from the dataset takes them from those."
)
STALE = "Suite {} measured adapter {}, which is not the one in export/ now: evaluate again."
SMALL_IMAGES = 128  # pixels; at most this edge means the miniature world, whose models are its own


def command(evaluation: Evaluation) -> str | None:
    """The evaluation's command as one would type it."""
    given = evaluation.summary.provenance.command
    return shlex.join(given) if isinstance(given, list) else given


def flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    """("faces.sha256", "sha256:...") for each leaf of nested mappings."""
    if isinstance(value, dict):
        return [pair for name in value for pair in flatten(value[name], f"{path}.{name}" if path else str(name))]
    return [(path, value if isinstance(value, str) else json.dumps(value))]


@dataclass(frozen=True)
class Facts:
    """A table of names and values under one heading."""

    title: str
    rows: list[tuple[str, str]]


def facts(run: Run) -> list[Facts]:
    """Digests, commits, seeds and versions that identify what was measured; what is not known is left out."""
    groups = [("Training data", _data(run)), ("Adapter", _adapter(run)), ("Publication", _publication(run))]
    for evaluation in run.evaluations:
        suite = evaluation.summary.suite
        groups += [(f"Suite {suite}", _suite(evaluation)), (f"Environment of suite {suite}", _environment(evaluation))]
    known = [(title, [(name, str(value)) for name, value in pairs if value is not None]) for title, pairs in groups]
    return [Facts(title, rows) for title, rows in known if rows]


def _data(run: Run) -> Pairs:
    if run.dataset is None:
        return []
    manifest = run.dataset.manifest
    name = f"{manifest.dataset.name}, version {manifest.dataset.version}"
    return [("Dataset", name), ("Shards digest", manifest.digest), ("Made by commit", manifest.commit)]


def _adapter(run: Run) -> Pairs:
    seed: Pairs = [("Training seed", run.config.get("seed"))]
    if run.adapter is None:
        return seed
    found: Pairs = [("Digest", run.adapter.digest), ("After step", run.adapter.step)]
    found += [("Trained by commit", run.adapter.commit), *seed]
    return found + [(f"Made from {name}", digest) for name, digest in run.adapter.inputs.items()]


def _publication(run: Run) -> Pairs:
    place = run.publication
    if place is None:
        return []
    return [
        ("Repository", place.repo_id),
        ("Revision", place.commit),
        ("Branch", place.branch),
        ("Endpoint", place.endpoint),
    ]


def _suite(evaluation: Evaluation) -> Pairs:
    summary, suite, source = evaluation.summary, evaluation.suite, evaluation.summary.provenance
    pairs: Pairs = [("Version", f"{summary.version}, {summary.format}"), ("Model", source.repo_id)]
    pairs += [("Model revision", source.commit), ("Adapter digest", source.adapter_digest)]
    pairs += [("Evaluated by commit", source.code_commit)]
    if suite:
        pairs += [("Seeds", ", ".join(map(str, suite.seeds)) or None), ("Prompts", len(suite.prompts) or None)]
        pairs += [("Subjects", len(suite.people) or None)]
        pairs += [(f"Images, {path}", value) for path, value in flatten(suite.images)]
    pairs += [(f"Evaluator {path}", value) for path, value in flatten(source.evaluators)]
    return pairs + [(f"Preparer of photographs, {path}", value) for path, value in flatten(source.preparer or {})]


def _environment(evaluation: Evaluation) -> Pairs:
    found = evaluation.summary.environment
    devices = [f"{n} x {name}" if n > 1 else name for name, n in Counter(found.devices).items()]
    pairs: Pairs = [("Python", found.python), ("Devices", ", ".join(devices) or None), ("Threads", found.threads)]
    pairs += [("Precision", found.precision), ("Scheduler", found.scheduler)]
    pairs += [("Personalization expert", found.expert_interval and _every(found.expert_interval))]
    return pairs + list(found.packages.items())


def _every(interval: int) -> str:
    return "on every step" if interval == 1 else f"on every {interval} steps"


def start_again(run: Run) -> str:
    """How to begin a training where this one began that took what was promoted then; "" where it did not."""
    commit = run.start.get("commit")
    if not commit:
        return ""
    return (
        f"# its training started from {run.start.get('repo_id')} at {commit}, which was main then: to start there "
        "again, download that revision and put --set train.init=REVISION/adapter in the place of train_from=promoted"
    )


def is_miniature(evaluation: Evaluation) -> bool:
    """Whether the suite is one of the miniature world: by name, or by images too small for Stable Diffusion."""
    size = evaluation.suite.images.get("size") if evaluation.suite else None
    return evaluation.summary.suite.startswith("miniature") or (isinstance(size, int) and size <= SMALL_IMAGES)


def same_adapter(run: Run, evaluation: Evaluation) -> bool:
    """False when the evaluation names another adapter than the one in export/."""
    evaluated = evaluation.summary.provenance.adapter_digest
    return not (run.adapter and evaluated and evaluated != run.adapter.digest)


def made_anew(run: Run) -> list[str]:
    """A note where the adapter in export/ was trained on other shards than are there now."""
    used = run.adapter.inputs.get("shards") if run.adapter else None
    if used is None or run.dataset is None or used == run.dataset.manifest.digest:
        return []
    return [MADE_ANEW.format(run.dataset.manifest.dataset.name)]


def limits(run: Run) -> list[str]:
    """What a reader must know before believing a figure; each note holds for this run."""
    notes = []
    if run.main:
        subjects = max((len(method.by_subject) for method in run.main.methods), default=0)
        notes += [FEW_SUBJECTS.format(subjects)] if 0 < subjects < MANY_SUBJECTS else []
        notes += METRIC_LIMITS
    notes += [MINIATURE] if any(is_miniature(evaluation) for evaluation in run.evaluations) else []
    notes += made_anew(run)
    stale = [evaluation.summary for evaluation in run.evaluations if not same_adapter(run, evaluation)]
    return notes + [STALE.format(summary.suite, summary.provenance.adapter_digest) for summary in stale]
