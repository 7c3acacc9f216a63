"""The model card: what the model is, how to use it, how it was made, how well it does, what it must not be used for.

The metadata block follows the Hub's model card specification, scores included (`model-index`). The same input gives
the same bytes, so an unchanged model is not published twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from pydantic import BaseModel, ConfigDict, Field

from moa.hub.licences import Licences
from moa.hub.loopback import is_loopback

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
PUBLIC_HUB = "https://huggingface.co"
TAGS = ["stable-diffusion", "mixture-of-attention", "personalization", "diffusers"]


class Metric(BaseModel):
    """One score of an evaluation suite with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="as people read it: Identity preservation")
    kind: str = Field(description="as programs read it: identity_preservation")
    suite: str = Field(description="name and version of the evaluation suite")
    value: float
    low: float
    high: float


class CardInput(BaseModel):
    """Everything the model card says that is not the same for every model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    base_model: str = Field(description="in words, or the Hub id")
    base_model_id: str | None = Field(None, description="the base model's Hub id, if it is on the Hub")
    dataset: str = Field(description="name and version of the training data")
    started_from: str | None = Field(None, description="which adapter training began with; null: a copy of the prior")
    dataset_digest: str = Field(description="digest of the shard manifest")
    command: str = Field(description="the command that made the model")
    code_commit: str | None = Field(description="git commit of the code; null outside a git checkout")
    seed: int
    steps: int = Field(ge=0)
    image_size: int = Field(gt=0, description="side of the pictures it was trained on, pixels")
    licences: Licences
    prompt: str = Field("a man on a beach", description="prompt of the usage example")
    word: str = Field("man", description="the word of that prompt that stands for the subject")
    limits: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()


def render_card(card: CardInput, repo_id: str, revision: str | None = None, endpoint: str = PUBLIC_HUB) -> str:
    """README.md of the repository, metadata block included.

    `revision` and `endpoint` are for the usage example: the branch or tag on which the model can be found (a file
    cannot name its own commit, and `main` moves on to other models), and the Hub that holds it.
    """
    licences = card.licences
    special = licences.hub_licence == "other"
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        license=licences.hub_licence,
        tags=TAGS,
        model_name=card.title,
        eval_results=[_eval_result(metric) for metric in card.metrics] or None,
        license_name=licences.name if special else None,
        license_link="LICENSE.md" if special else None,
        base_model=card.base_model_id,
        base_model_relation="adapter" if card.base_model_id else None,
    )
    words: dict[str, Any] = {"card": card, "repo_id": repo_id, "revision": revision, "way": _way(endpoint.rstrip("/"))}
    return str(ModelCard.from_template(data, template_path=str(TEMPLATE), **words))


def _way(endpoint: str) -> str | None:
    """How the example finds a Hub that is not the public one. The address of a local Hub, whose port changes, is left
    out: the card is the same on each."""
    if endpoint == PUBLIC_HUB:
        return None
    if is_loopback(endpoint):
        return (
            "This repository is on a local Hub: if that does not run, start `python -m moa.hub.server --root FOLDER` "
            "(in the project, `runs/hub`), and set `HF_ENDPOINT` to the address it prints before Python starts."
        )
    return f"This repository is not on huggingface.co: set `HF_ENDPOINT={endpoint}` before Python starts."


def _eval_result(metric: Metric) -> EvalResult:
    return EvalResult(
        task_type="text-to-image",
        dataset_type=metric.suite,
        dataset_name=metric.suite,
        metric_type=metric.kind,
        metric_name=metric.name,
        metric_value=round(metric.value, 4),
    )
