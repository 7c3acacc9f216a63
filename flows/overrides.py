"""A preset with some fields replaced: texts `a.b=c` whose values are YAML, and the day in a run's name. Torch-free.

python -m flows.lifecycle --preset miniature --set train.steps=300 --name longer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flows.errors import OverrideError, UnknownPresetError
from flows.presets import PRESETS
from flows.settings import LifecycleConfig


def resolve(preset: str, overrides: Iterable[str] = (), name: str | None = None) -> LifecycleConfig:
    """The configuration of a preset with some fields replaced.

    Args:
        overrides: texts `a.b=c`; the value is read as YAML, so `train.steps=300`, `train.init=null` and
            `ablate.variants=[]` mean what they say. Later ones win.
        name: the run's folder below runs/, if not the preset's own.

    Raises:
        UnknownPresetError, OverrideError: naming the valid ones and the closest.
    """
    if preset not in PRESETS:
        raise UnknownPresetError(f"There is no preset {preset!r}. {_suggest(preset, PRESETS)}")
    base = PRESETS[preset]()
    overrides = [*overrides, *([f"name={name}"] if name and name != base.name else [])]
    moves_shards = any(override.startswith("train.shards=") for override in overrides)
    config = replaced(base, overrides)
    if not moves_shards:  # training reads what preprocessing writes
        config = config.model_copy(update={"train": config.train.model_copy(update={"shards": config.preprocess.out})})
    config = config.model_copy(update={"overrides": tuple(overrides)})
    for variant in config.ablate.variants:  # a mistake in one ends before any work
        try:
            replaced(config, variant.overrides)
        except OverrideError as error:
            raise OverrideError(f"ablate.variants: {variant.label!r}: {error}") from None
    return config


def replaced(config: LifecycleConfig, overrides: Iterable[str]) -> LifecycleConfig:
    """`config` with the fields of `overrides` replaced, and every path absolute. Raises OverrideError."""
    values = config.model_dump()
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator:
            raise OverrideError(f"Override {override!r} has no '='. Write it as a.b=value.")
        _replace(values, field.strip(), _yaml_value(field, text), config)
    try:
        valid = LifecycleConfig.model_validate(values)
        return LifecycleConfig.model_validate(_absolute(valid.model_dump()))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise OverrideError(f"The overrides do not fit preset {config.preset!r}: {problems}") from None


def dated(name: str | None, day: date) -> str | None:
    """`{date}` in a run's name stands for `day`, so that each run of a schedule has a folder of its own."""
    return name and name.replace("{date}", day.isoformat())


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
