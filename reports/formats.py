"""The files a report reads, as frozen pydantic models: datasets/FORMAT.md sections 2, 4, 5 and 6.

A report reads files of other versions of the house too, so unknown fields are passed over; a missing or mistyped
field is an error that `reports.files` turns into a `CorruptFileError` naming file and field. Units: IP is 0..1, PC
-1..1, rates and shares 0..1; `low` and `high` bound the 95 % bootstrap interval over subjects.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Outcome = Literal["scored", "no_face", "no_reference_face", "missing", "unreadable"]
Kind = Literal["prior", "moa", "ablation"]


class FileModel(BaseModel):
    """Base: frozen, unknown fields passed over, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Statistic(FileModel):
    """A mean with its 95 % interval and its standard deviation over images; a bare number reads as a mean without
    interval."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        return {"mean": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Breakdown(FileModel):
    """The scores of one method on one category, prompt, subject or face size."""

    n: int = Field(ge=0)
    ip: Statistic | None = None
    pc: Statistic | None = None


class MethodSummary(FileModel):
    """All about one method: `n` images, scores, and the scores again by category, prompt, subject and face size."""

    method: str
    label: str
    kind: Kind
    n: int = Field(ge=0)
    ip: Statistic
    pc: Statistic
    detection_rate: Statistic
    context_change_inside: Statistic | None = None
    context_change_outside: Statistic | None = None
    by_category: dict[str, Breakdown] = {}
    by_subject: dict[str, Breakdown] = {}
    by_prompt: dict[str, Breakdown] = {}
    by_face_size: dict[str, Breakdown] = {}


class PublishedRow(FileModel):
    """A figure from the literature. Never measured here."""

    method: str
    ip: float | None = None
    pc: float | None = None
    source: str


class Provenance(FileModel):
    """What was evaluated, by which code and command."""

    repo_id: str | None = None
    commit: str | None = None
    adapter_digest: str | None = None
    evaluators: dict[str, Any] = {}
    command: str | list[str] | None = None
    code_commit: str | None = None


class Summary(FileModel):
    """`evaluation/<suite>/summary.json`."""

    format: Literal["moa-evaluation/1"]
    suite: str
    version: int | str
    methods: list[MethodSummary] = Field(min_length=1)
    published: list[PublishedRow] = []
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _methods_once(self) -> Summary:
        names = [method.method for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"a method is there twice: {names}")
        return self


class SuitePrompt(FileModel):
    """`text` holds `{word}` where the class word of the subject goes."""

    id: str
    category: str
    text: str


class Suite(FileModel):
    """`evaluation/<suite>/suite.json`, the parts a report shows."""

    name: str
    title: str | None = None
    licence: str | None = None
    prompts: list[SuitePrompt] = []
    seeds: list[int] = []
    images: dict[str, Any] = {}
    evaluators: dict[str, Any] = {}


class Metric(FileModel):
    """One line of `metrics.jsonl`; a measurement that was not taken at that step is null."""

    step: int = Field(ge=0)
    loss: float | None = None
    loss_masked: float | None = None
    loss_router: float | None = None
    loss_object: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    router_background: float | None = None
    router_foreground: float | None = None
    samples_per_second: float | None = None
    seconds: float | None = None


class AdapterManifest(FileModel):
    """`export/manifest.json`."""

    format: Literal["moa-adapter/1"]
    step: int | None = None
    commit: str | None = None
    digest: str
    inputs: dict[str, str | None] = {}


class Publication(FileModel):
    """`publication.json`, the parts a report shows."""

    repo_id: str
    endpoint: str | None = None
    branch: str | None = None
    commit: str | None = None


class DatasetName(FileModel):
    """Which dataset the shards came from."""

    name: str
    version: int | str | None = None


class ShardCounts(FileModel):
    """Images seen, samples kept, images dropped, subjects in the samples, samples of each split."""

    images: int = Field(ge=0)
    samples: int = Field(ge=0)
    rejected: int = Field(ge=0)
    subjects: int = Field(ge=0)
    splits: dict[str, int] = {}


class ShardManifest(FileModel):
    """`data/<dataset>/manifest.json`, the parts a report shows."""

    format: Literal["moa-shards/1"]
    dataset: DatasetName
    counts: ShardCounts
    commit: str | None = None
    inputs: str | None = None
    digest: str


class Rejection(FileModel):
    """One line of `rejected.jsonl`."""

    name: str
    reason: str
    detail: str | None = None
