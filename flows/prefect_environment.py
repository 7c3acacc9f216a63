"""What has to be set before Prefect is imported, for every way a flow is started. Imported by `flows/__init__.py`.

* `prefect.toml` of the project counts wherever the command is run (Prefect itself reads it in the working directory
  only); variables of the environment win over it.
* Prefect's home is `<project>/.prefect`, so that nothing is written to the user's own one.
* This machine is not asked through a proxy: Prefect's client would do so, and wait for its own server in vain.
* The project root leaves the import path: its `datasets/` would shadow Hugging Face datasets.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

QUIET = {  # no telemetry, and no progress bars or load reports, which fill a log with carriage returns and tables
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
NO_PROXY = ("no_proxy", "NO_PROXY")  # the first counts where both are set


def prepare() -> None:
    """Sets the environment of this process and its children. Does nothing that was decided already."""
    if "prefect" not in sys.modules:  # else Prefect imports us, and takes away itself what it put on the path
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != PROJECT]
    os.environ.setdefault("PREFECT_HOME", str(PROJECT / ".prefect"))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in NO_PROXY:
        os.environ[name] = without_proxy()
    for name, value in declared().items():
        os.environ.setdefault(name, value)


def without_proxy() -> str:
    """The hosts that are asked directly: those that the environment names, and this machine."""
    given = next((os.environ[name] for name in NO_PROXY if name in os.environ), "")
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    return "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))


def declared() -> dict[str, str]:
    """What prefect.toml says, as environment variables."""
    return dict(variables(tomllib.loads((PROJECT / "prefect.toml").read_text(encoding="utf-8")), "PREFECT"))


def variables(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """`{"server": {"ephemeral": {...}}}` as the environment variables Prefect knows."""
    for key, value in table.items():
        name = f"{prefix}_{key}".upper()
        if isinstance(value, dict):
            yield from variables(value, name)
        else:
            yield name, str(value)
