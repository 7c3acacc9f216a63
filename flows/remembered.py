"""A run remembers its settings: `runs/<name>/lifecycle.json` holds the preset and the overrides it was begun with.

A later command on the same run starts from them, so nothing has to be said twice; what is given then is added, or
replaces what was. The run's own training cannot be replaced once there is one: see flows/trained.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.errors import OverrideError
from flows.files import read_json
from flows.overrides import field_of, merged, preset_named, resolve
from flows.presets import PRESETS
from flows.settings import RUN_NAME, LifecycleConfig, runs_root

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
    except OverrideError as error:
        kept = ", ".join(kept_settings(record, given)) or "nothing"
        raise OverrideError(f"{error}\n(Remembered from {record}: {kept}.)") from None


def kept_settings(record: Path, given: Iterable[str]) -> list[str]:
    """The overrides that a run was begun with and that are not given now; none where there is no record."""
    if not record.is_file():
        return []
    now = {field_of(override) for override in given} | {"name"}
    return [override for override in read_json(record)["overrides"] if field_of(override) not in now]
