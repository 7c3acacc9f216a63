"""The files of a run a report reads, as frozen pydantic models: datasets/FORMAT.md sections 2, 4 and 5.

A report reads files of other versions of the house too, so unknown fields are passed over; a missing or mistyped
field is an error that `reports.files` turns into a `CorruptFileError` naming file and field. Evaluations are in
`reports.evaluation_format`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FileModel(BaseModel):
    """Base: frozen, unknown fields passed over, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Metric(FileModel):
    """What `metrics.jsonl` says of one step; a measurement that was not taken at that step is null."""

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
    validation_loss: float | None = None
    validation_masked: float | None = None
    validation_masked_wrong: float | None = None


class AdapterManifest(FileModel):
    """`export/manifest.json`."""

    format: Literal["moa-adapter/1"]
    step: int | None = None
    commit: str | None = None
    digest: str
    inputs: dict[str, str | None] = {}


class PublishedFile(FileModel):
    """One file of a published revision."""

    sha256: str
    bytes: int = Field(ge=0)


class Publication(FileModel):
    """`publication.json`."""

    repo_id: str
    endpoint: str | None = None
    branch: str | None = None
    commit: str | None = None
    files: dict[str, PublishedFile] = {}


class Promotion(FileModel):
    """`promotion.json`, the parts a report shows: `tag` names the revision that became `main`."""

    repo_id: str
    tag: str | None = None


class Estimate(FileModel):
    """A mean with its 95 % interval over people; None for what was not measured."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval of a difference lies on one side of 0; None without an interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


class Rival(FileModel):
    """What a candidate was compared with."""

    label: str


class Candidate(FileModel):
    """The model that was judged."""

    adapter_digest: str | None = None


class Gate(FileModel):
    """`gate.json`: `ip` and `pc` are MoA minus `against` over `n` pairs of images; `reasons` say in sentences why the
    candidate was rejected."""

    decision: Literal["promoted", "rejected"]
    reasons: list[str] = []
    rule: str
    against: Rival
    n: int = Field(ge=0)
    ip: Estimate | None = None
    pc: Estimate | None = None
    candidate: Candidate
    suite: str | None = None


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
    digest: str


class Rejection(FileModel):
    """One line of `rejected.jsonl`, the part a report counts. The file's name is not asked for: it may be no UTF-8."""

    reason: str
