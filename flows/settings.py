"""Presets: one function per preset returns the whole configuration of a lifecycle. Torch-free.

    python -m flows.lifecycle --preset miniature --set train.steps=300 --name longer

A preset and a list of overrides `a.b=c` (values in YAML) resolve to one frozen `LifecycleConfig`, which is written to
`runs/<name>/lifecycle.json` before any work starts. Data and runs live in `<project>/data` and `<project>/runs`, or
where MOA_DATA_DIR and MOA_RUNS_DIR point (absolute: a Prefect worker may run anywhere).
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.errors import OverrideError, SettingsError, UnknownPresetError
from flows.files import write_json
from flows.prefect_environment import PROJECT
from moa.config import MoAConfig
from moa.train_config import TrainConfig


def _endpoint(value: str) -> str:
    if value != "local" and not value.startswith(("http://", "https://")):
        raise ValueError("must be 'local' or an http(s) URL such as https://huggingface.co")
    return value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessSettings(_Group):
    """Raw images to shards."""

    dataset: Path = Field(description="dataset declaration, datasets/<name>.yaml")
    out: Path = Field(description="shard folder, data/<name>")
    source_root: Path | None = Field(None, description="where the images lie; null: what the declaration says")


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
    title: str = Field(description="the model's name on its card")
    base_model: str = Field(description="what it is based on, in words or as a Hub id")
    base_model_id: str | None = Field(None, description="the base model's Hub id; null: it is not on the Hub")
    licences: str = Field(description="key of moa.hub.licences.LICENCES: the terms the model carries")
    accept_licences: bool = Field(False, description="the licences of data and base model have been read and accepted")
    token_env: str = Field("HF_TOKEN", description="environment variable that holds the Hub token")


class Ablation(_Group):
    """A second adapter that is evaluated beside the published model."""

    label: str = Field(description="its name in the report")
    adapter: Path = Field(description="adapter folder")


class EvaluateSettings(_Group):
    """Which suite, on which subjects, against what."""

    suite: Path = Field(description="suite declaration, datasets/suites/<name>.yaml")
    images: Path | None = Field(None, description="folder of the subjects' photographs, for suites of kind folder")
    faces: Path | None = Field(None, description="weights of the face model; null: the place the suite declares")
    clip: Path | None = Field(None, description="CLIP folder that measures; null: the place the suite declares")
    ablations: tuple[Ablation, ...] = ()


class LifecycleConfig(_Group):
    """Everything one lifecycle depends on. `preset` and `overrides` say what it was resolved from."""

    preset: str
    overrides: tuple[str, ...] = ()
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="folder of the run: runs/<name>")
    preprocess: PreprocessSettings
    train: TrainConfig
    launch: LaunchSettings
    publish: PublishSettings
    evaluate: EvaluateSettings

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
        return shlex.join(words + [word for override in self.overrides for word in ("--set", override)])


def miniature() -> LifecycleConfig:
    """The embedded world: minutes on two CPU cores, warm-started from the adapter that ships with the project."""
    shards = data_root() / "miniature"
    zoo = PROJECT / "zoo"
    return LifecycleConfig(
        preset="miniature",
        name="miniature",
        preprocess=PreprocessSettings(dataset=PROJECT / "datasets/miniature.yaml", out=shards),
        train=TrainConfig(
            shards=shards,
            base=zoo / "base",
            image_encoder=zoo / "clip",
            init=zoo / "moa",
            moa=MoAConfig(image_dim=128),
            steps=150,
            global_batch=16,
            learning_rate=1e-4,
            warmup=10,
            lambda_router=5e-4,  # these five as zoo/moa was trained; flows/zoo.py says why
            lambda_object=1e-3,
            condition_dropout=0.0,
            masked_loss_probability=0.5,
            max_timestep=1000,
            checkpoint_every=50,
            log_every=5,
            num_threads=1,
        ),
        launch=LaunchSettings(processes=2, hours=1),
        publish=PublishSettings(
            endpoint="local",
            repo_id="miniature/moa",
            title="MoA in the miniature world",
            base_model="the miniature world's Stable Diffusion",
            licences="miniature",
        ),
        evaluate=EvaluateSettings(
            suite=PROJECT / "datasets/suites/miniature.yaml",
            ablations=(Ablation(label="without MoA layers", adapter=zoo / "single-branch"),),
        ),
    )


def ffhq_sd15() -> LifecycleConfig:
    """FFHQ and Stable Diffusion 1.5, with the paper's values (section 4 and its table of hyperparameters): 4 GPUs."""
    shards, models = data_root() / "ffhq", data_root() / "models"
    return LifecycleConfig(
        preset="ffhq_sd15",
        name="ffhq-sd15",
        preprocess=PreprocessSettings(dataset=PROJECT / "datasets/ffhq.yaml", out=shards),
        train=TrainConfig(
            shards=shards,
            base=models / "stable-diffusion-v1-5",
            image_encoder=models / "clip-vit-large-patch14",
            moa=MoAConfig(image_dim=768),
            steps=40_000,
            global_batch=128,
            learning_rate=5e-5,
            lambda_router=1e-4,
            lambda_object=1e-4,
            precision="bf16",
            gradient_checkpointing=True,
            num_workers=4,
        ),
        launch=LaunchSettings(processes=4),
        publish=PublishSettings(
            endpoint="https://huggingface.co",
            repo_id="your-name/moa-sd15-ffhq",
            title="MoA for Stable Diffusion 1.5, trained on FFHQ",
            base_model="Stable Diffusion 1.5",
            base_model_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            licences="ffhq_sd15",
        ),
        evaluate=EvaluateSettings(suite=PROJECT / "datasets/suites/celeba-15.yaml", images=data_root() / "celeba-15"),
    )


PresetName = Literal["miniature", "ffhq_sd15"]
PRESETS: dict[str, Callable[[], LifecycleConfig]] = {"miniature": miniature, "ffhq_sd15": ffhq_sd15}


def resolve(preset: str, overrides: Iterable[str] = (), name: str | None = None) -> LifecycleConfig:
    """The configuration of a preset with some fields replaced.

    Args:
        overrides: texts `a.b=c`; the value is read as YAML, so `train.steps=300`, `train.init=null` and
            `evaluate.ablations=[]` mean what they say. Later ones win.
        name: the run's folder below runs/, if not the preset's own.

    Raises:
        UnknownPresetError, OverrideError: naming the valid ones and the closest.
    """
    if preset not in PRESETS:
        raise UnknownPresetError(f"There is no preset {preset!r}. {_suggest(preset, PRESETS)}")
    base = PRESETS[preset]()
    values = base.model_dump()
    overrides = [*overrides, *([f"name={name}"] if name else [])]
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator:
            raise OverrideError(f"Override {override!r} has no '='. Write it as a.b=value.")
        _replace(values, field.strip(), _yaml_value(field, text), base)
    if not any(override.startswith("train.shards=") for override in overrides):
        values["train"]["shards"] = values["preprocess"]["out"]  # training reads what preprocessing writes
    try:
        config = LifecycleConfig.model_validate({**values, "overrides": overrides})
        return LifecycleConfig.model_validate(_absolute(config.model_dump()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise OverrideError(f"The overrides do not fit preset {preset!r}: {problems}") from None


def data_root() -> Path:
    """Folder of the shards: MOA_DATA_DIR, or `<project>/data`."""
    return _root("MOA_DATA_DIR", PROJECT / "data")


def runs_root() -> Path:
    """Folder of the runs: MOA_RUNS_DIR, or `<project>/runs`."""
    return _root("MOA_RUNS_DIR", PROJECT / "runs")


def write_lifecycle(config: LifecycleConfig) -> Path:
    """Writes `runs/<name>/lifecycle.json`, the resolved configuration, and returns its path."""
    return write_json(config.run / "lifecycle.json", config.model_dump(mode="json"))


def _root(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    if value and not Path(value).is_absolute():
        raise SettingsError(f"{variable} is {value!r}, but has to be an absolute path: workers run in other folders.")
    return Path(value) if value else default


def _yaml_value(field: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OverrideError(f"The value of {field!r} is not YAML: {text!r} ({error})") from None


def _replace(values: dict[str, Any], field: str, value: Any, base: LifecycleConfig) -> None:
    """Sets the field `a.b.c` of the nested dictionary; raises OverrideError when there is no such field."""
    fields = [name for name in _fields(base) if name not in ("preset", "overrides")]
    if field not in fields:
        raise OverrideError(f"There is no field {field!r}. {_suggest(field, fields)}")
    *groups, last = field.split(".")
    for group in groups:
        values = values[group]
    values[last] = value


def _fields(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, groups included."""
    for key in type(model).model_fields:
        yield prefix + key
        if isinstance(value := getattr(model, key), BaseModel):
            yield from _fields(value, f"{prefix}{key}.")


def _suggest(word: str, valid: Iterable[str]) -> str:
    """The closest valid name, and all valid names of the same group."""
    valid = list(valid)
    group, _, last = word.rpartition(".")
    same_name = [name for name in valid if name.rpartition(".")[2] == last]
    siblings = [name for name in valid if name.rpartition(".")[0] == group]
    closest = same_name or difflib.get_close_matches(word, siblings or valid, n=1)
    meant = f"Did you mean {closest[0]!r}? " if closest else ""
    return f"{meant}Valid are: {', '.join(sorted(siblings or (name for name in valid if '.' not in name)))}."


def _absolute(value: Any) -> Any:
    """The nested values with every path absolute, so that processes in other folders read the same files."""
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_absolute(item) for item in value]
    return value.absolute() if isinstance(value, Path) else value
