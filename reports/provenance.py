"""How to make these numbers again, and what they do not say."""

from __future__ import annotations

import json
import shlex
from typing import Any

from reports.run_folder import Evaluation, Run

MANY_SUBJECTS = 30  # below this the intervals are wide enough to need a word
FEW_SUBJECTS = "{} subjects: the intervals are over subjects and wide. Differences inside them are not findings."
METRIC_LIMITS = (
    "IP compares with the very photograph the model was given, so it rewards copying; it falls with the face's size.",
    "IP counts an image without a found face as 0. The detection rate stands beside it to tell the two apart.",
    "PC is a cosine of CLIP embeddings: small differences mean little to a person.",
    "Change outside the person is measured against the prior's image at the same seed, where a person was found.",
)
MINIATURE = (
    "Images, models and evaluators belong to the miniature world. Its figures compare with each other and show whether "
    "the method works; they do not compare with any published figure."
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


def facts(run: Run) -> list[tuple[str, str]]:
    """Digests, commits and versions that identify what was measured; what is not known is left out."""
    pairs: list[tuple[str, object]] = []
    if run.dataset:
        manifest = run.dataset.manifest
        pairs += [
            ("Dataset", f"{manifest.dataset.name}, version {manifest.dataset.version}"),
            ("Shards digest", manifest.digest),
        ]
        pairs += [("Shards made by commit", manifest.commit)]
    if run.adapter:
        pairs += [
            ("Adapter digest", run.adapter.digest),
            ("Adapter after step", run.adapter.step),
            ("Trained by commit", run.adapter.commit),
        ]
        pairs += [(f"Adapter input: {name}", digest) for name, digest in run.adapter.inputs.items()]
    if run.publication:
        place = run.publication
        pairs += [
            ("Published as", place.repo_id),
            ("Hub revision", place.commit),
            ("Hub branch", place.branch),
            ("Hub endpoint", place.endpoint),
        ]
    pairs += [("Training seed", run.config.get("seed"))]
    for evaluation in run.evaluations:
        pairs += _evaluation_facts(evaluation)
    return [(name, str(value)) for name, value in pairs if value is not None]


def _evaluation_facts(evaluation: Evaluation) -> list[tuple[str, object]]:
    summary, source = evaluation.summary, evaluation.summary.provenance
    name = f"Suite {summary.suite}"
    pairs: list[tuple[str, object]] = [(name, f"version {summary.version}, {summary.format}")]
    pairs += [
        (f"{name}: model", source.repo_id),
        (f"{name}: model revision", source.commit),
        (f"{name}: adapter digest", source.adapter_digest),
    ]
    pairs += [(f"{name}: evaluated by commit", source.code_commit)]
    pairs += [(f"{name}: evaluator {path}", value) for path, value in flatten(source.evaluators)]
    pairs += [
        (f"{name}: images {path}", value)
        for path, value in flatten(evaluation.suite.images if evaluation.suite else {})
    ]
    return pairs


def is_miniature(evaluation: Evaluation) -> bool:
    """Whether the suite is one of the miniature world: by name, or by images too small for Stable Diffusion."""
    size = evaluation.suite.images.get("size") if evaluation.suite else None
    return evaluation.summary.suite.startswith("miniature") or (isinstance(size, int) and size <= SMALL_IMAGES)


def same_adapter(run: Run, evaluation: Evaluation) -> bool:
    """False when the evaluation names another adapter than the one in export/."""
    evaluated = evaluation.summary.provenance.adapter_digest
    return not (run.adapter and evaluated and evaluated != run.adapter.digest)


def limits(run: Run) -> list[str]:
    """What a reader must know before believing a figure; each note holds for this run."""
    notes = []
    if run.main:
        subjects = max((len(method.by_subject) for method in run.main.methods), default=0)
        notes += [FEW_SUBJECTS.format(subjects)] if 0 < subjects < MANY_SUBJECTS else []
        notes += METRIC_LIMITS
    notes += [MINIATURE] if any(is_miniature(evaluation) for evaluation in run.evaluations) else []
    stale = [evaluation.summary for evaluation in run.evaluations if not same_adapter(run, evaluation)]
    return notes + [STALE.format(summary.suite, summary.provenance.adapter_digest) for summary in stale]
