"""What a lifecycle depends on, as frozen models. Torch-free.

A preset (flows/presets.py) and a list of overrides (flows/overrides.py) make one `LifecycleConfig`, which is written to
`runs/<name>/lifecycle.json` before any work starts. Data, models and runs live in `data`, `models` and `runs` of the
project, or where MOA_DATA_DIR, MOA_MODELS_DIR and MOA_RUNS_DIR point (absolute: a Prefect worker may run anywhere).
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flows.errors import SettingsError
from flows.files import write_json
from flows.prefect_environment import PROJECT
from moa.evaluation.suite import Precision
from moa.hub.licences import LICENCES
from moa.hub.loopback import is_loopback
from moa.train_config import TrainConfig

REPORTS_URL = "MOA_REPORTS_URL"  # environment variable: where `reports.server` serves the runs; `make ui` sets it
HUB_HOSTS = "MOA_HUB_HOSTS"  # environment variable of the operator: more hosts that models and tokens may be sent to
HUGGING_FACE = "huggingface.co"
TAKEN_NAMES = ("hub", "hub-cache", "index.html", "zoo")  # what else lies in runs/
RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[\w./-]*)?")  # no user, no query


def _endpoint(value: str) -> str:
    """Parameters of a flow run come from whoever reaches the Prefect API; hosts that get a token do not."""
    if value == "local" or (_ADDRESS.fullmatch(value) and is_loopback(value)):
        return value
    if not _ADDRESS.fullmatch(value) or not value.startswith("https://"):
        raise ValueError("must be 'local', an https URL such as https://huggingface.co, or an address of this machine")
    host, allowed = urlsplit(value).hostname, [HUGGING_FACE, *os.environ.get(HUB_HOSTS, "").replace(",", " ").split()]
    if host not in allowed:
        raise ValueError(
            f"{host} is not among the hosts that models and tokens are sent to ({', '.join(allowed)}); whoever runs "
            f"this machine may add it to the environment variable {HUB_HOSTS}"
        )
    return value


def _run_name(value: str) -> str:
    """A folder below runs/ that nothing else uses, and a branch of a repository (`run-<name>`)."""
    if value.lower() in TAKEN_NAMES:
        raise ValueError(f"{value!r} is taken: the project keeps something else in runs/{value}")
    if ".." in value or value.endswith((".", ".lock")):
        raise ValueError("must not hold '..' nor end in '.' or '.lock': it names a branch of the repository, too")
    return value


def _licences(value: str) -> str:
    if value not in LICENCES:
        raise ValueError(f"is none of {', '.join(LICENCES)} (moa/hub/licences.py)")
    return value


def _tag(value: str) -> str:
    try:
        filled = value.format(name="run", commit="0123abcd")
    except (KeyError, IndexError, ValueError):
        raise ValueError("may hold {name} and {commit} and no other braces") from None
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", filled):
        raise ValueError("must consist of letters, digits, '_', '.' and '-'")
    return value


def _label(value: str) -> str:
    if not re.search(r"[a-z0-9]", value.lower()):
        raise ValueError("must hold a letter or a digit: it names a folder")
    return value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessSettings(_Group):
    """Raw images to shards."""

    dataset: Path = Field(description="dataset declaration, datasets/<name>.yaml")
    out: Path = Field(description="shard folder, data/<name>")
    source_root: Path | None = Field(None, description="where the images lie; null: what the declaration says")
    max_bad: float = Field(0.5, ge=0, le=1, description="share of dropped images above which preprocessing fails")


class LaunchSettings(_Group):
    """How the training process is started."""

    processes: int = Field(1, ge=1, description="ranks on this machine: GPUs, or processes on a CPU")
    hours: float | None = Field(None, gt=0, description="wall-clock limit of one training run; null: none")


class PublishSettings(_Group):
    """Where the model goes."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        description="Hub address, or 'local': the project's own small Hub server on loopback, stored in runs/hub"
    )
    repo_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name on the Hub")
    private: bool = Field(True, description="visibility of a repository that publishing creates")
    title: str = Field(description="the model's name on its card")
    base_model: str = Field(description="what it is based on, in words or as a Hub id")
    base_model_id: str | None = Field(None, description="the base model's Hub id; null: it is not on the Hub")
    licences: Annotated[str, AfterValidator(_licences)] = Field(
        description="key of moa.hub.licences.LICENCES: the terms the model carries"
    )
    accept_licences: bool = Field(False, description="the licences of data and base model have been read and accepted")


class EvaluateSettings(_Group):
    """Which suite, on which subjects, measured by what."""

    suite: Path = Field(description="suite declaration, datasets/suites/<name>.yaml")
    images: Path | None = Field(None, description="folder of the subjects' photographs, for suites of kind folder")
    faces: Path | None = Field(None, description="weights of the face model; null: the place the suite declares")
    clip: Path | None = Field(None, description="CLIP folder that measures; null: the place the suite declares")
    segmenter: Path | None = Field(
        None,
        description="Mask2Former folder that cuts people out of those photographs, where the training data were made "
        "with one; null: a face finder and a drawn silhouette",
    )
    precision: Precision | None = Field(
        None, description="of the images' sampling: fp32, bf16 or fp16; null: the suite's on GPUs, fp32 on a CPU"
    )


class PromoteSettings(_Group):
    """When a candidate becomes the repository's `main`: where it is above the prior, and worse than the champion by no
    more than a tolerance, which all promotions together have (flows/decision.py)."""

    tolerance_ip: float = Field(0.02, ge=0, description="how much worse IP may be at the low end of its 95 % interval")
    tolerance_pc: float = Field(0.01, ge=0, description="the same for PC")
    above_prior_ip: float = Field(
        0.0, le=1, description="what MoA - prior has to exceed in IP, at the low end of its 95 % interval"
    )
    tag: Annotated[str, AfterValidator(_tag)] = Field(
        "{name}-{commit}", description="tag of the promoted revision; {name}: the run's, {commit}: the candidate's"
    )


class Variant(_Group):
    """MoA with something taken away or changed: a finished adapter, or the overrides to train one with."""

    label: Annotated[str, AfterValidator(_label)] = Field(description="its name in the report")
    adapter: Path | None = Field(None, description="adapter folder; null: `flows.ablate` trains it")
    overrides: tuple[str, ...] = Field((), description="what its training changes in the run's, as train.a=b")

    @model_validator(mode="after")
    def _one_origin(self) -> Variant:
        if (self.adapter is None) == (not self.overrides):
            raise ValueError("give either an adapter folder, or the overrides to train one with")
        if foreign := [override for override in self.overrides if not override.startswith("train.")]:
            raise ValueError(f"{foreign[0]!r}: a variant may change fields of train only")
        return self

    @property
    def folder_name(self) -> str:
        """The label as a folder's name: lower case letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


class Community(_Group):
    """Another base model of the same geometry, as a LoRA on this one: MoA is evaluated on it without training."""

    label: Annotated[str, AfterValidator(_label)] = Field(description="its name in the report")
    lora: Path = Field(description="LoRA file or folder")


class AblateSettings(_Group):
    """What MoA is compared with, beside its prior and its champion."""

    variants: tuple[Variant, ...] = ()
    community: tuple[Community, ...] = ()

    @model_validator(mode="after")
    def _labels_differ(self) -> AblateSettings:
        counted = Counter(variant.folder_name for variant in self.variants)
        if twice := [name for name, count in counted.items() if count > 1]:
            raise ValueError(f"two variants would have the folder {twice[0]!r}; choose other labels")
        return self


class LifecycleConfig(_Group):
    """Everything one lifecycle depends on. `preset` and `overrides` say what it was resolved from."""

    preset: str
    overrides: tuple[str, ...] = ()
    name: Annotated[str, AfterValidator(_run_name)] = Field(
        pattern=RUN_NAME, description="folder of the run: runs/<name>"
    )
    preprocess: PreprocessSettings
    train: TrainConfig
    train_from: Literal["init", "promoted"] = Field(
        "init", description="promoted: start from the repository's promoted adapter, and from train.init without one"
    )
    runs_with_checkpoints: int | None = Field(
        None,
        ge=1,
        description="how many runs of this preset and repository that have this setting keep their checkpoints: the "
        "newest, and the one promoted last (flows/retention.py); null: all",
    )
    launch: LaunchSettings
    publish: PublishSettings
    evaluate: EvaluateSettings
    promote: PromoteSettings = PromoteSettings()
    ablate: AblateSettings = AblateSettings()

    @model_validator(mode="after")
    def _batches_fit_the_processes(self) -> LifecycleConfig:
        self.train.micro_batch(world=self.launch.processes)
        return self

    @property
    def run(self) -> Path:
        """The run's folder."""
        return runs_root() / self.name

    @property
    def command(self) -> str:
        """The command line that resolves to this configuration."""
        words = ["python", "-m", "flows.lifecycle", "--preset", self.preset]
        words += [word for override in self.overrides for word in ("--set", _portable(override))]
        return shlex.join(words)


def data_root() -> Path:
    """Folder of the shards: MOA_DATA_DIR, or `<project>/data`."""
    return _root("MOA_DATA_DIR", PROJECT / "data")


def models_root() -> Path:
    """Folder of downloaded models: MOA_MODELS_DIR, or `<project>/models`."""
    return _root("MOA_MODELS_DIR", PROJECT / "models")


def runs_root() -> Path:
    """Folder of the runs: MOA_RUNS_DIR, or `<project>/runs`."""
    return _root("MOA_RUNS_DIR", PROJECT / "runs")


def write_lifecycle(config: LifecycleConfig) -> Path:
    """Writes `runs/<name>/lifecycle.json`, the resolved configuration, and returns its path."""
    return write_json(config.run / "lifecycle.json", config.model_dump(mode="json"))


def _portable(override: str) -> str:
    """Paths in the project are relative to it, those of the user begin with `~`: commands stand on model cards."""
    return override.replace(f"{PROJECT}/", "").replace(f"{Path.home()}/", "~/")


def _root(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    if not value:
        return default
    if not (folder := Path(value).expanduser()).is_absolute():
        raise SettingsError(f"{variable} is {value!r}, but has to be an absolute path: workers run in other folders.")
    return folder
