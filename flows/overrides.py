"""A preset with some fields replaced: texts `a.b=c`, and the time in a run's name. Torch-free.

python -m flows.lifecycle --preset miniature --set train.steps=300 --name longer

The value of a field that holds a text or a path is the text as it stands, or what is in quotes, or null. All other
values are YAML.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from flows.errors import OverrideError, UnknownPresetError
from flows.presets import PRESETS
from flows.settings import LifecycleConfig

GIVEN = ("preset", "overrides", "train.out")  # --preset, the overrides themselves, and the folder that --name says
QUOTES = ("'", '"')


def resolve(preset: str, overrides: Iterable[str] = (), name: str | None = None) -> LifecycleConfig:
    """The configuration of a preset with some fields replaced.

    Args:
        overrides: texts `a.b=c`, such as `train.steps=300`, `train.init=null`, `ablate.variants=[]` and
            `preprocess.source_root=/photos/party #1`. Later ones win.
        name: the run's folder below runs/, if not the preset's own.

    Raises:
        UnknownPresetError, OverrideError: naming the valid ones and the closest.
    """
    base = preset_named(preset)
    chosen = merged(overrides, [f"name={name}"] if name and name != base.name else [])
    config = replaced(base, chosen)
    if not {"train", "train.shards"} & {field_of(override) for override in chosen}:  # training reads what was written
        config = config.model_copy(update={"train": config.train.model_copy(update={"shards": config.preprocess.out})})
    config = config.model_copy(update={"overrides": tuple(_anywhere(override, config) for override in chosen)})
    for variant in config.ablate.variants:  # a mistake in one ends before any work
        try:
            replaced(config, variant.overrides)
        except OverrideError as error:
            raise OverrideError(f"ablate.variants: {variant.label!r}: {error}") from None
    return config


def preset_named(preset: str) -> LifecycleConfig:
    """A preset as it is. Raises UnknownPresetError."""
    if preset not in PRESETS:
        raise UnknownPresetError(f"There is no preset {preset!r}. {_suggest(preset, PRESETS)}")
    return PRESETS[preset]()


def replaced(config: LifecycleConfig, overrides: Iterable[str]) -> LifecycleConfig:
    """`config` with the fields of `overrides` replaced, and every path absolute. Raises OverrideError."""
    values = config.model_dump()
    for override in overrides:
        field, text = _split(override)
        _replace(values, field, text, config)
    try:
        chosen = LifecycleConfig.model_validate(values)
        valid = LifecycleConfig.model_validate(_absolute(chosen.model_dump()))
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, "))))
            for item in error.errors()
        )
        raise OverrideError(f"The overrides do not fit preset {config.preset!r}: {problems}") from None
    if endless := [name for name, value in _fields(valid) if isinstance(value, float) and not math.isfinite(value)]:
        raise OverrideError(f"{', '.join(endless)}: give a finite number")
    if foreign := [name for name, value in _fields(valid) if not _is_utf8(value)]:
        raise OverrideError(
            f"{', '.join(foreign)}: holds bytes that are no UTF-8, which Prefect's API cannot carry; rename the "
            "folder, or name a link to it"
        )
    return valid


def merged(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Both lists as one, `field=value` without spaces around the first `=`; of each field the last one remains, and
    one that is given again as it was stays in its place: the same settings make the same command."""
    latest: dict[str, str] = {}
    for override in (*before, *after):
        field, text = _split(override)
        if latest.get(field) != text:
            latest.pop(field, None)
            latest[field] = text
    return [f"{field}={text}" for field, text in latest.items()]


def field_of(override: str) -> str:
    """The field that an override replaces. Raises OverrideError."""
    return _split(override)[0]


def fields_of(config: LifecycleConfig) -> list[str]:
    """The fields that an override may replace, groups included."""
    return [name for name, _ in _fields(config) if name not in GIVEN]


def dated(name: str | None, moment: datetime) -> str | None:
    """In a run's name `{date}` stands for the day of `moment` and `{time}` for its hour and minute, so that each run of
    a schedule has a folder of its own: 2026-03-07 and 0230."""
    return name and name.replace("{date}", f"{moment:%Y-%m-%d}").replace("{time}", f"{moment:%H%M}")


def _split(override: str) -> tuple[str, str]:
    field, separator, text = override.partition("=")
    if not separator:
        raise OverrideError(f"Override {override!r} has no '='. Write it as a.b=value.")
    return field.strip(), text.strip()


def _value(field: str, text: str, annotation: Any) -> Any:
    """What the text of an override stands for. A run's name is never more than its letters."""
    if field == "name" or (_holds_text(annotation) and text not in ("", "null") and not text.startswith(QUOTES)):
        return text
    try:
        return yaml.safe_load(text)
    except Exception as error:  # YAMLError, and ValueError for a month 13, RecursionError, ...
        raise OverrideError(f"The value of {field!r} is not YAML: {text!r} ({error})") from None


def _holds_text(annotation: Any) -> bool:
    """Whether a field of this type holds a text, a path, one of several texts, or one of these and null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return all(part is NoneType or _holds_text(part) for part in parts)
    if origin is Literal:
        return all(isinstance(part, str) for part in parts)
    return annotation in (str, Path)


def _replace(values: dict[str, Any], field: str, text: str, base: LifecycleConfig) -> None:
    """Sets the field `a.b.c` of the nested dictionary; raises OverrideError when there is no such field, or another
    override has made of its group what has no fields."""
    fields = fields_of(base)
    if field not in fields:
        raise OverrideError(f"There is no field {field!r}. {_suggest(field, fields)}")
    model: BaseModel = base
    *groups, last = field.split(".")
    for group in groups:
        values, model = values.setdefault(group, {}), getattr(model, group)
        if not isinstance(values, dict):
            raise OverrideError(f"{field!r} has no place: another override makes its group {group!r} {values!r}")
    values[last] = _value(field, text, type(model).model_fields[last].annotation)


def _fields(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all fields, groups included."""
    for key in type(model).model_fields:
        value = getattr(model, key)
        yield prefix + key, value
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{key}.")


def _is_utf8(value: Any) -> bool:
    """Whether all texts and paths in a value have a UTF-8 form; names on a disk may be any bytes."""
    try:
        json.dumps(to_jsonable_python(value), ensure_ascii=False).encode()
    except UnicodeError:
        return False
    return True


def _suggest(word: str, valid: Iterable[str]) -> str:
    """The closest valid name, and all valid names of the same group."""
    valid = list(valid)
    group, _, last = word.rpartition(".")
    same_name = [name for name in valid if name.rpartition(".")[2] == last]
    siblings = [name for name in valid if name.rpartition(".")[0] == group]
    closest = same_name or difflib.get_close_matches(word, siblings or valid, n=1)
    meant = f"Did you mean {closest[0]!r}? " if closest else ""
    return f"{meant}Valid are: {', '.join(sorted(siblings or (name for name in valid if '.' not in name)))}."


def _anywhere(override: str, config: LifecycleConfig) -> str:
    """The override with the absolute paths that it stands for here: it may be read again from another folder."""
    field, text = _split(override)
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    if isinstance(value, Path):
        path = str(value)
        return f"{field}={path if path == path.strip() else _as_yaml(path)}"
    models = value if isinstance(value, tuple) else (value,)
    if any(isinstance(part, Path) for model in models if isinstance(model, BaseModel) for _, part in _fields(model)):
        dumped = [model.model_dump(mode="json", exclude_defaults=True) for model in models]
        return f"{field}={_as_yaml(dumped if isinstance(value, tuple) else dumped[0])}"
    return override


def _as_yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # YAML reads the escapes of JSON for other letters as two each


def _absolute(value: Any) -> Any:
    """The nested values with every path absolute and `~` replaced, so that processes anywhere read the same files."""
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_absolute(item) for item in value]
    return value.expanduser().absolute() if isinstance(value, Path) else value
