"""What a person who wants to use the model asks first: what it is, where it is, how well it does, what it must not do.

The published folder carries its own card (README.md); this section shows the same facts from the run's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reports.evaluation_format import Statistic
from reports.run_folder import Run

PUBLIC_HUB = "https://huggingface.co"
WAYS = (  # to a repository on a Hub that is not the public one: of this machine, and any other
    "Its repository is on a Hub of this machine: run “python -m moa.hub.server --root {}”, and set HF_ENDPOINT to the "
    "address it prints before Python starts.",
    "Its repository is not on huggingface.co: set HF_ENDPOINT={} before Python starts.",
)
EXAMPLE = ("a man on a beach", "man")  # prompt and word of the usage example where the suite has none
LIMITS = (
    "A small or partly hidden face in the photograph carries little identity into the picture.",
    "Scores of identity come from a face embedder and share its blind spots across age, skin and sex.",
    "Use photographs of people who agreed to it, and say of the pictures you pass on that they are generated.",
)


@dataclass(frozen=True)
class ModelCard:
    """`facts` are (name, text), `scores` (name, suite, figure, percent), `files` (path, bytes, sha256); `way` says how
    the example of `usage` finds the repository, "" where it does by itself."""

    title: str
    published: bool
    facts: list[tuple[str, str]]
    scores: list[tuple[str, str, Statistic, bool]]
    way: str
    usage: str
    files: list[tuple[str, int, str]]
    limits: tuple[str, ...]


def model_card(run: Run) -> ModelCard | None:
    """The card of the run's model; None where no adapter was exported."""
    if run.adapter is None:
        return None
    settings = run.lifecycle.get("publish")
    settings = settings if isinstance(settings, dict) else {}
    place = run.publication
    return ModelCard(
        title=str(settings.get("title") or (place.repo_id if place else run.name)),
        published=place is not None,
        facts=[(name, str(value)) for name, value in _facts(run, settings) if value not in (None, "")],
        scores=_scores(run),
        way=_way(run),
        usage=_usage(run),
        files=sorted((name, file.bytes, file.sha256) for name, file in place.files.items()) if place else [],
        limits=LIMITS,
    )


def _facts(run: Run, settings: dict[str, Any]) -> list[tuple[str, object]]:
    data, adapter, place = run.dataset, run.adapter, run.publication
    assert adapter is not None
    dataset = data and f"{data.manifest.dataset.name}, version {data.manifest.dataset.version}"
    kept = data and f"{data.manifest.counts.samples:,} images with {data.manifest.counts.subjects:,} subjects"
    return [
        ("Base model", settings.get("base_model")),
        ("Licence terms", settings.get("licences")),
        ("Training data", f"{dataset}: {kept}" if data else None),
        ("Trained for", f"{adapter.step:,} steps" if adapter.step is not None else None),
        ("Started from", _started_from(run)),
        ("Seed", run.config.get("seed")),
        ("Picture size", _size(run)),
        ("Repository", place and place.repo_id),
        ("Revision", place and place.commit),
        (
            "Size",
            f"{sum(file.bytes for file in place.files.values()) / 1e6:,.1f} MB" if place and place.files else None,
        ),
        ("Promoted as", run.promotion and run.promotion.tag),
    ]


def _started_from(run: Run) -> str:
    """Which adapter the training began with; "" for a copy of the prior. Of earlier versions the digest is known."""
    digest = run.adapter and run.adapter.inputs.get("init")
    if not digest:
        return ""
    before = run.origin.get("started_from")
    step, names = (before.get("step"), before.get("datasets")) if isinstance(before, dict) else (None, None)
    steps = f" of {step:,} steps" if isinstance(step, int) else ""
    data = f" trained on {', '.join(map(str, names))}" if isinstance(names, list) and names else ""
    place = f", main of {run.start.get('repo_id')} at {run.start['commit']}" if run.start.get("commit") else ""
    return f"an adapter{steps}{data}, {digest}{place}"


def _size(run: Run) -> str | None:
    size = run.main.suite.images.get("size") if run.main and run.main.suite else None
    return f"{size} x {size}" if size else None


def _scores(run: Run) -> list[tuple[str, str, Statistic, bool]]:
    wanted = (
        ("Identity preservation", "ip", False),
        ("Prompt consistency", "pc", False),
        ("Prompt followed", "followed", True),
        ("Faces found", "detection_rate", True),
    )
    made = []
    for evaluation in run.evaluations:
        suite = f"{evaluation.summary.suite} v{evaluation.summary.version}"
        for name, field, percent in wanted:
            value = getattr(evaluation.shown, field)
            if value is not None and value.mean is not None:
                made.append((name, suite, value, percent))
    return made


def _way(run: Run) -> str:
    endpoint = run.publication.endpoint if run.publication else None
    if endpoint is None or endpoint.rstrip("/") == PUBLIC_HUB:
        return ""
    own, other = WAYS
    return own.format(f"{run.folder.parent.name}/hub") if endpoint == "local" else other.format(endpoint)


def _usage(run: Run) -> str:
    prompt, word = EXAMPLE
    rows = run.main.scores if run.main else None
    if rows is not None and len(rows):
        prompt, word = rows.iloc[0]["prompt"], rows.iloc[0]["word"]
    place = run.publication
    pinned = place and f"{place.repo_id!r}, revision={place.commit!r}"  # `main` is, or will be, another model
    source = f"from_pretrained({pinned})" if pinned else "from_base(base_model, adapter, image_encoder)"
    return "\n".join(
        (
            "from PIL import Image",
            "from moa.pipeline import MoAPipeline, Subject",
            "",
            f"pipe = MoAPipeline.{source}",
            "# a photograph, or a person on a transparent background",
            f'person = Subject({word!r}, Image.open("person.png"))',
            f"prompt = {prompt!r}",
            "image = pipe(prompt, subjects=[person]).images[0]",
        )
    )
