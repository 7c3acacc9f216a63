"""A run remembers its settings: `runs/<name>/lifecycle.json` holds the preset and the overrides it was begun with.

A later command on the same run starts from them, so nothing has to be said twice; what is given then is added, or
replaces what was. The run's own training cannot be replaced once there is one: see flows/trained.py.

    python -m flows.remembered NAME                              prints what a run remembers
    python -m flows.remembered NAME --forget publish.private     back to what the preset says
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flows.errors import FlowError, OverrideError, UnknownPresetError
from flows.files import read_json, write_json
from flows.overrides import field_of, fields_of, merged, preset_named, resolve
from flows.presets import PRESETS
from flows.settings import RUN_NAME, LifecycleConfig, runs_root, write_lifecycle

DEFAULT_PRESET = "miniature"


def recall(preset: str | None, overrides: Iterable[str] = (), name: str | None = None) -> LifecycleConfig:
    """The configuration of a run: what it was begun with, and what is given now.

    Args:
        preset: None for the run's own; a new run has to name one, but for `miniature` itself.
        overrides, name: as for `resolve`.

    Raises:
        UnknownPresetError, OverrideError: also where the run was begun with another preset, or not at all.
    """
    given = list(overrides)
    named = [override.partition("=")[2].strip() for override in given if field_of(override) == "name"]
    run = name or (named[-1] if named else preset_named(preset or DEFAULT_PRESET).name)
    record = runs_root() / run / "lifecycle.json"
    if not RUN_NAME.fullmatch(run) or not record.is_file():
        if preset is None and run != preset_named(DEFAULT_PRESET).name:
            raise OverrideError(
                f"There is no run {run!r} yet ({record} does not exist): begin it with --preset, one of "
                f"{', '.join(PRESETS)}."
            )
        return resolve(preset or DEFAULT_PRESET, given, name)
    before = read_json(record)
    if preset not in (None, before["preset"]):
        raise OverrideError(
            f"The run {run!r} was begun with preset {before['preset']!r}, not {preset!r}: leave --preset out, or "
            "choose another --name."
        )
    try:
        return resolve(before["preset"], merged(before["overrides"], given), name)
    except (OverrideError, UnknownPresetError) as error:
        kept = ", ".join(kept_settings(record, given)) or "nothing"
        told = f"{error}\n(Remembered from {record}: {kept}.)"
        if gone := _gone(before):
            told += f"\nTo go on without: python -m flows.remembered {shlex.quote(run)} --forget {' '.join(gone)}"
        raise OverrideError(told) from None


def _gone(record: dict[str, Any]) -> list[str]:
    """Remembered fields that do not exist any more, as an earlier version of this code knew others."""
    if record["preset"] not in PRESETS:
        return []
    known = fields_of(preset_named(record["preset"]))
    return [field for field in map(field_of, record["overrides"]) if field not in known]


def forget(name: str, fields: Sequence[str] = ()) -> list[str]:
    """Takes settings out of what a run remembers; returns the others. They are the preset's again.

    Raises OverrideError where there is no such run, it does not remember one of `fields`, or the others do not fit
    without them; then nothing is changed.
    """
    record = runs_root() / name / "lifecycle.json"
    if not RUN_NAME.fullmatch(name) or not record.is_file():
        raise OverrideError(f"There is no run {name!r} ({record} does not exist).")
    found = read_json(record)
    if strange := set(fields) - set(map(field_of, found["overrides"])):
        raise OverrideError(f"{record} does not remember {', '.join(sorted(strange))}.")
    kept = [override for override in found["overrides"] if field_of(override) not in fields]
    if fields:
        try:
            write_lifecycle(resolve(found["preset"], kept, name))
        except (OverrideError, UnknownPresetError) as error:
            rest = found | {"overrides": kept}
            if found["preset"] in PRESETS and not _gone(rest):
                raise OverrideError(f"Nothing was forgotten: without it the others do not fit. {error}") from None
            write_json(record, rest)  # another one does not exist any more, and can be forgotten next
    return kept


def kept_settings(record: Path, given: Iterable[str]) -> list[str]:
    """The overrides that a run was begun with and that are not given now; none where there is no record."""
    if not record.is_file():
        return []
    now = {field_of(override) for override in given} | {"name"}
    return [override for override in read_json(record)["overrides"] if field_of(override) not in now]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.remembered", description="What a run remembers.")
    parser.add_argument("name", help="folder of the run below runs/")
    parser.add_argument("--forget", nargs="+", default=[], metavar="FIELD", help="what is the preset's again")
    given = parser.parse_args(arguments)
    try:
        kept = forget(given.name, given.forget)
    except FlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for override in kept:
        print(override)
    return 0


if __name__ == "__main__":
    sys.exit(main())
