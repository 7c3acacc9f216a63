"""`TrainConfig`: everything one training run depends on, as one JSON file. Torch-free.

    runs/<name>/config.json      read by `python -m moa.train runs/<name>/config.json`

Relative paths are relative to the working directory of the training process. Each option here has a test that shows
what it changes (tests/moa/test_train_options.py, test_train.py, test_validation.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from moa.config import MoAConfig
from moa.errors import ConfigChangedError, MissingInputError, TrainConfigError

# Keys that may differ between the run that wrote a checkpoint and the run that continues it: they say where files are
# (their contents are compared by digest), how long to train, what to measure and log, or how to split the same
# arithmetic over the machine.
FREE_KEYS = frozenset(
    {
        "shards",
        "base",
        "image_encoder",
        "init",
        "out",
        "latent_cache",
        "steps",
        "accumulation",
        "gradient_checkpointing",
        "compile",
        "checkpoint_every",
        "keep",
        "log_every",
        "max_skipped",
        "num_threads",
        "num_workers",
        "validation",
        "verify_shards",
    }
)
VALIDATION_BATCH = 8  # samples; fixed, so that neither ranks nor accumulation change what is measured


class SubjectAugmentation(BaseModel):
    """How a subject's crop is varied before the image encoder sees it, so that pose and background do not leak.

    Strengths are small by default: hue is never touched and colours stay recognisable, because they are identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    background: float = Field(
        0.5, ge=0, le=1, description="probability of a random colour behind the subject, else neutral"
    )
    colour: float = Field(
        0.1, ge=0, le=0.5, description="largest relative change of brightness, contrast and saturation"
    )
    geometry: float = Field(0.1, ge=0, le=0.5, description="largest shift and zoom as a share of the crop; 0.1 = 10 %")
    rotation: float = Field(5.0, ge=0, le=45, description="largest rotation in degrees")


class ValidationSettings(BaseModel):
    """The noise error on pictures that are not trained on, measured while training (`moa.validation`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0, description="steps between validations; the last step has one too; 0: none at all")
    samples: int = Field(
        256,
        gt=0,
        multiple_of=VALIDATION_BATCH,
        description="samples measured, at noise and timesteps that never change",
    )
    split: str = Field("heldout", description="split of the shards to measure on")


class TrainConfig(BaseModel):
    """One training run. Defaults are the paper's (section 3 and table 4) where it states a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Inputs and output.
    shards: Path = Field(description="shard folder (datasets/FORMAT.md, section 2)")
    split: str = Field("train", description="split of the shards to train on")
    base: Path = Field(description="diffusers Stable Diffusion folder: the frozen prior")
    image_encoder: Path = Field(description="CLIP folder (vision model with projection, and its image processor)")
    init: Path | None = Field(None, description="adapter folder to start from (warm start); null: a copy of the prior")
    out: Path | None = Field(None, description="run folder; null: the folder of config.json")
    latent_cache: Path | None = Field(
        None, description="folder where the VAE's latents of the images are kept over runs; null: encoded in each step"
    )
    moa: MoAConfig

    # Length and batch.
    steps: int = Field(40_000, ge=1, description="optimizer steps in all")
    global_batch: int = Field(
        128, ge=1, description="samples per step over all ranks; ranks x accumulation must divide it"
    )
    accumulation: int = Field(1, ge=1, description="micro-batches a rank splits its share of a step into")

    # Optimizer.
    learning_rate: float = Field(5e-5, gt=0, description="AdamW learning rate after the warm-up, constant")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global norm")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights that are exported; 0 = no average"
    )
    max_skipped: int = Field(
        10, ge=0, description="steps in a row that may be skipped for a non-finite loss or gradient"
    )

    # Objective.
    lambda_router: float = Field(1e-4, ge=0, description="weight of the router loss (eq. 9-11)")
    lambda_object: float = Field(1e-4, ge=0, description="weight of the object loss (eq. 11-12)")
    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="probability of dropping prompt and subjects of a sample"
    )
    masked_loss_probability: float = Field(1.0, ge=0, le=1, description="probability of the foreground-only noise loss")
    max_timestep: int = Field(800, ge=1, description="timesteps are drawn from 0 .. max_timestep-1")
    augmentation: SubjectAugmentation = SubjectAugmentation()

    # Numbers and speed.
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: frozen weights and activations in bfloat16")
    gradient_checkpointing: bool = Field(
        False, description="recompute U-Net activations in the backward pass: less memory"
    )
    compile: bool = Field(
        False,
        description="compile the U-Net (torch.compile): minutes before the first step, then fewer, larger kernels",
    )
    num_threads: int | None = Field(None, ge=1, description="CPU threads per rank; null: what torch or torchrun chose")
    num_workers: int = Field(0, ge=0, description="loader processes per rank; 0: load in the training process")

    # Files.
    verify_shards: bool = Field(True, description="compare each shard's sha256 with the manifest before training")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")
    log_every: int = Field(10, ge=1, description="steps per line of metrics.jsonl")
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="after")
    def _micro_batches_are_whole(self) -> TrainConfig:
        self.micro_batch(world=1)
        return self

    @field_validator("validation", mode="before")
    @classmethod
    def _no_validation_is_a_group_too(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is a group of settings and cannot be null; no validation at all is validation.every=0")
        return value

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> TrainConfig:
        if self.validation.every and self.validation.split == self.split:
            raise ValueError(f"validation.split: {self.split!r} is what is trained on; name another split, or every=0")
        return self

    @property
    def run_folder(self) -> Path:
        """`out`, which must have been set by now (`load_config` does)."""
        if self.out is None:
            raise TrainConfigError("out: name the run folder, or read the configuration from a file in it")
        return self.out

    def micro_batch(self, world: int) -> int:
        """Samples of one micro-batch on one of `world` ranks. Raises `TrainConfigError` when the split is not even."""
        size, rest = divmod(self.global_batch, world * self.accumulation)
        if rest or not size:
            raise TrainConfigError(
                f"global_batch {self.global_batch} cannot be split evenly over {world} rank(s) x accumulation "
                f"{self.accumulation}: choose a multiple of {world * self.accumulation}, or other ranks"
            )
        return size


def load_config(path: Path) -> TrainConfig:
    """Reads a config.json; `out` becomes the file's folder when it is null.

    Raises `MissingInputError` when there is no such file and `TrainConfigError` for one that cannot be read, or naming
    each bad field.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist: write the training configuration there first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TrainConfigError(f"{path} cannot be read ({error}): name the config.json of a run") from None
    try:
        config = TrainConfig.model_validate_json(text)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise TrainConfigError(f"{path}: {fields}") from None
    return config if config.out else config.model_copy(update={"out": Path(path).absolute().parent})


def refuse_changes(before: dict[str, Any], after: dict[str, Any], folder: Path) -> None:
    """Raises `ConfigChangedError` when two records differ in a key that would change what a resumed run computes."""
    if changed := changed_settings(before, after):
        raise ConfigChangedError(
            f"{folder} holds checkpoints of another configuration; use a new run folder, or undo these changes:\n"
            + "\n".join(f"  {line}" for line in changed)
        )


def changed_settings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """`setting: before -> after` for each difference that matters to the weights (`FREE_KEYS` do not).

    Both are a `TrainConfig` as JSON, perhaps with digests of the inputs; nested keys are reported with dots. `before`
    may be older than this code. An option that did not exist then counts as having its default, which by the rule of
    this house is what the code did without it; one that does not exist any more counts unless it was off (null, false
    or 0).
    """
    old, new = _flatten(_as_read_now(before)), _flatten(after)
    defaults = _defaults(TrainConfig)
    pairs = {key: (old.get(key, defaults.get(key)), json.dumps(value)) for key, value in new.items()}
    pairs |= {key: (old[key], "no option any more") for key in old.keys() - new.keys() if old[key]}
    return [
        f"{key}: {json.dumps(was)} -> {now}"
        for key, (was, now) in sorted(pairs.items())
        if json.dumps(was) != now and key.split(".")[0] not in FREE_KEYS
    ]


def _as_read_now(record: dict[str, Any]) -> dict[str, Any]:
    """`MoAConfig` knows what earlier adapters said of what has become the only way."""
    try:
        return record | {"moa": MoAConfig.model_validate(record.get("moa")).model_dump(mode="json")}
    except ValidationError:
        return record


def _defaults(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """The default of each option that has one, as JSON, by its dotted name."""
    flat: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            flat.update(_defaults(field.annotation, f"{prefix}{name}."))
        elif not field.is_required():
            flat[prefix + name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return flat


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
