"""What holds for every test: no network, one thread, the project's own folders untouched."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
_SCRATCH = tempfile.TemporaryDirectory(prefix="moa-tests-")

# Before anything imports Prefect, transformers or torch.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_HOME=f"{_SCRATCH.name}/huggingface",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    DO_NOT_TRACK="1",
    PREFECT_HOME=f"{_SCRATCH.name}/prefect",
    PREFECT_API_URL="",
    PYTHONSAFEPATH="1",
)
for variable in ("HF_TOKEN", "MOA_DATA_DIR", "MOA_RUNS_DIR"):
    os.environ.pop(variable, None)
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != PROJECT]  # `python -m pytest` without SAFEPATH


def pytest_configure(config: pytest.Config) -> None:
    """Plain `python -m pytest` works like `make test`."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Flows last: Prefect leaves threads behind, and loader workers forked after that end with status 1. The longest
    file is the first of them, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: (item.path.parent.name == "flows", item.path.name != "test_lifecycle.py"))


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Random inputs are the same in each run, and others for each test; MOA_TEST_SEED=1 (2, ...) draws fresh ones."""
    import torch

    name = f"{os.environ.get('MOA_TEST_SEED', '0')} {request.node.nodeid}"
    torch.manual_seed(zlib.crc32(name.encode()))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that opens a connection to anything but this machine fails, and says to what."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address):
            raise OSError(f"tests have no network, but this one connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


def _is_loopback(address: object) -> bool:
    host = address[0] if isinstance(address, tuple) else ""
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
