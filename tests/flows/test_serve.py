"""`make ui`: what can be told without starting a server."""

from __future__ import annotations

import shlex
import socket
import sys

import pytest

from flows.serve import _invitation, main


@pytest.mark.parametrize("port", ["0", "-1", "65535", "70000"])
def test_a_port_that_is_none_or_has_no_next_is_named(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--port={port}"]) == 1
    assert f"error: {port} and the port after it cannot be had: choose one of 1 to 65534" in capsys.readouterr().err


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    assert f"Port {port} is in use" in capsys.readouterr().err


def test_an_unknown_pool_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--pools", "tpu"])
    assert end.value.code == 2 and "cpu" in capsys.readouterr().err


def test_the_command_it_prints_is_one_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my photos/.venv/bin/python")
    (line,) = (line for line in _invitation("there", "reports", ["cpu"]).splitlines() if line.startswith("Run the"))
    words = ["/my photos/.venv/bin/prefect", "deployment", "run", "lifecycle/miniature", "--watch"]
    assert shlex.split(line.removeprefix("Run the lifecycle")) == words
