"""Whether the server of `make ui` is there: something else at its port is none. A private one ends with its command."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    temporary_settings,
)

from flows.errors import ServeError
from flows.prefect_environment import declared
from flows.prefect_server import _answers, reachable_server
from tests.web_server import serving, write_certificate

COMMAND = """
import logging
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, which may run the tests, has it ignored
import flows
from prefect import flow, get_run_logger
from prefect.settings import PREFECT_API_URL
from flows.prefect_server import reachable_server

@flow
def small() -> None:
    get_run_logger().info("sent to the server")
    logging.getLogger("preprocessing.folder").warning("told by a room")

with reachable_server():
    print(PREFECT_API_URL.value(), flush=True)
    small()
"""


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers so."""
    with serving(*request.param) as url:
        yield url


@pytest.mark.parametrize("answering", [(200, b"true")], indirect=True)
def test_a_prefect_server_is_one(answering: str) -> None:
    assert _answers(answering)


@pytest.mark.parametrize("answering", [(404, b"no"), (200, b"<html>hello</html>"), (200, b'"true"')], indirect=True)
def test_another_web_server_is_none(answering: str) -> None:
    assert not _answers(answering)


def test_something_that_speaks_no_http_is_none() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def greet() -> None:
            connection, _ = other.accept()
            connection.sendall(b"220 mail.example ready\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        assert not _answers(f"http://127.0.0.1:{other.getsockname()[1]}/api")


def test_nobody_is_none() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert not _answers(f"http://127.0.0.1:{port}/api") and not _answers(None)


def test_a_server_whose_certificate_is_of_a_private_authority_is_not_taken_for_absent(
    tmp_path: Path,
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem")
    with serving(200, b"true", certificate) as url:
        with pytest.raises(
            ServeError, match=r"no safe connection .*CERTIFICATE_VERIFY_FAILED.*PREFECT_API_SSL_CERT_FILE"
        ):
            _answers(url)
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ServeError), reachable_server():
            pass
        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(certificate)}):
            assert _answers(url)
        with temporary_settings({PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True}):
            assert _answers(url)
        with (
            temporary_settings({PREFECT_API_SSL_CERT_FILE: str(tmp_path / "none.pem")}),
            pytest.raises(ServeError, match=r"PREFECT_API_SSL_CERT_FILE: .*none.pem holds no certificates"),
        ):
            _answers(url)


def test_a_file_without_certificates_is_told_before_prefect_reads_it(tmp_path: Path) -> None:
    """Its client reads the file for a server that speaks no TLS as well, but not where nothing is verified."""
    none = str(tmp_path / "none.pem")
    with serving(200, b"true") as url, temporary_settings({PREFECT_API_URL: url, PREFECT_API_SSL_CERT_FILE: none}):
        with pytest.raises(ServeError, match=r"none.pem holds no certificates"), reachable_server():
            pass
        with temporary_settings({PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True}), reachable_server():
            pass


def test_the_variable_that_named_the_authorities_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE, which somebody sets for a Hub, is Prefect's too where it has none of its own."""
    other, none = write_certificate(tmp_path / "other.pem"), tmp_path / "none.pem"
    monkeypatch.delenv("PREFECT_API_SSL_CERT_FILE", raising=False)
    with serving(200, b"true", write_certificate(tmp_path / "certificate.pem")) as url:
        for file, told in ((other, "by the authorities of SSL_CERT_FILE .*other.pem"), (none, "SSL_CERT_FILE: .*none")):
            monkeypatch.setenv("SSL_CERT_FILE", str(file))
            with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(file)}):  # read when Prefect is imported
                with pytest.raises(ServeError, match=rf"(^| ){told}"):
                    _answers(url)
                monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(file))
                with pytest.raises(ServeError, match=told.replace("SSL", "PREFECT_API_SSL", 1)):
                    _answers(url)
                monkeypatch.delenv("PREFECT_API_SSL_CERT_FILE")


def test_a_server_that_does_not_speak_tls_is_not_taken_for_absent() -> None:
    with serving(200, b"true") as url, pytest.raises(ServeError, match="does not speak TLS, write http://"):
        _answers(url.replace("http:", "https:"))


@pytest.mark.parametrize("answering", [(200, b"true")], indirect=True)
def test_a_server_that_goes_away_is_named_with_what_to_do(answering: str) -> None:
    told = rf"{answering} does not answer any more: .*`make ui`.* goes on where"
    with temporary_settings({PREFECT_API_URL: answering}):
        with pytest.raises(ServeError, match=told), reachable_server():
            raise httpx.ConnectError("Connection refused")
        with pytest.raises(ValueError, match="a bug"), reachable_server():
            raise ValueError("a bug")


@pytest.mark.parametrize("asked", ["http://127.0.0.1:9/api", None])
def test_a_server_that_was_asked_for_and_is_not_there_is_named(
    asked: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of `make ui`, to which prefect.toml points, is away most of the time."""
    monkeypatch.setattr("flows.prefect_server._private_server", lambda: "http://127.0.0.1:8/api")
    monkeypatch.setattr("flows.prefect_server._answers", lambda url: False)
    with temporary_settings({PREFECT_API_URL: asked or declared()["PREFECT_API_URL"]}), reachable_server():
        assert PREFECT_API_URL.value() == "http://127.0.0.1:8/api"
    warned = capsys.readouterr().err
    assert f"no Prefect server answers at {asked}, so" in warned if asked else not warned


def server_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The server that a command has started, maybe just now."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for child in psutil.Process(process.pid).children():
            if "uvicorn" in child.cmdline():
                return child
        time.sleep(0.05)
    raise AssertionError(f"no server was started; exit status {process.poll()}")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG exists on Linux only")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_command_takes_its_private_server_along(tmp_path: Path, number: signal.Signals) -> None:
    environment = os.environ | {"PREFECT_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", COMMAND], env=environment, text=True) as process:
        server = server_of(process)
        process.send_signal(number)
        assert process.wait(60) == -number
    server.wait(60)


@pytest.mark.slow
def test_a_private_server_hears_everything_and_ends_with_its_command(tmp_path: Path) -> None:
    environment = os.environ | {"PREFECT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True)
    url = done.stdout.strip()
    assert done.returncode == 0 and url.startswith("http://127.0.0.1:"), done.stderr
    assert "Finished in state Completed()" in done.stderr and "Error" not in done.stderr
    assert not _answers(url) and (tmp_path / "private-server.log").read_text() == ""
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        heard = database.execute("select message from log").fetchall()
        assert ("sent to the server",) in heard and ("told by a room",) in heard
