"""The Prefect server that flows report to: that of `make ui` where it answers, else a private one that ends with us.

Prefect would start a private one by itself, but ends it at the end of the interpreter only: a command that was killed
left it behind for good. Here it is a child that the kernel ends with us (flows/child.py).
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import certifi

from flows.child import Child
from flows.errors import ServeError
from flows.failures import AGAIN, is_of_server
from flows.prefect_environment import declared

STOP_SECONDS = 5.0
# As Prefect starts one: no UI, and only the services that a single run needs.
PRIVATE = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


@contextmanager
def reachable_server() -> Iterator[None]:
    """Inside, flows report to a server. Raises ServeError where none answers and none can be started, it goes away, or
    the file of authorities that Prefect's client reads holds none.

    A server that somebody asked for by PREFECT_API_URL and that does not answer is named on stderr: the run is not to
    be seen in its UI.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    _trusted()  # Prefect's client reads the authorities' file whatever the server
    asked = PREFECT_API_URL.value()
    if asked and _answers(asked):
        with _lost_server_told(f"at {asked}", "start it again (`make ui`), or unset PREFECT_API_URL"):
            yield
        return
    if asked and asked != declared()["PREFECT_API_URL"]:
        print(
            f"warning: no Prefect server answers at {asked}, so this run has a private one and is not shown in its UI. "
            "Start it, or unset PREFECT_API_URL",
            file=sys.stderr,
        )
    with (
        temporary_settings({PREFECT_API_URL: _private_server(), PREFECT_UI_URL: ""}),  # there is no UI to point to
        _lost_server_told("of this command", f"see {_private_log()}"),
    ):
        yield


@contextmanager
def _lost_server_told(which: str, remedy: str) -> Iterator[None]:
    """A connection that fails inside, after all that Prefect tried, becomes a ServeError."""
    try:
        yield
    except Exception as error:
        if not is_of_server(error):
            raise
        raise ServeError(f"The Prefect server {which} does not answer any more: {remedy}. {AGAIN}") from error


def _answers(url: str | None) -> bool:
    """Whether a Prefect server is there; whatever else may listen at that port is none.

    Raises ServeError for one that no safe connection can be made to: it is there, and a person can mend that at once.
    """
    if not url:
        return False
    try:
        context = _trusted() if url.startswith("https:") else None
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2, context=context) as answer:
            return json.load(answer) is True
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(reason := getattr(error, "reason", None), ssl.SSLError):
            raise ServeError(
                f"There is no safe connection to the Prefect server at {url} ({reason}), by the "
                f"authorities of {' '.join(_authorities())}. If its certificate is of a private authority, set "
                "PREFECT_API_SSL_CERT_FILE, which comes before SSL_CERT_FILE, to the file of that authority's "
                "certificate; PREFECT_API_TLS_INSECURE_SKIP_VERIFY=true trusts whoever answers. If it does not speak "
                "TLS, write http:// in PREFECT_API_URL, or unset that for a run that is not shown in its UI"
            ) from error
        return False


def _trusted() -> ssl.SSLContext:
    """Whose certificates are trusted: those that Prefect's own client trusts. Raises ServeError for a file of none."""
    from prefect.settings import PREFECT_API_TLS_INSECURE_SKIP_VERIFY

    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    named_by, file = _authorities()
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise ServeError(f"{named_by}: {file} holds no certificates ({error}): name a PEM file, or unset it") from error


def _authorities() -> tuple[str, str]:
    """Who named the file of the authorities that Prefect's client trusts, and its path."""
    from prefect.settings import PREFECT_API_SSL_CERT_FILE

    if not (file := PREFECT_API_SSL_CERT_FILE.value()):
        return "certifi", certifi.where()
    is_default = "PREFECT_API_SSL_CERT_FILE" not in os.environ and file == os.environ.get("SSL_CERT_FILE")
    return "SSL_CERT_FILE" if is_default else "PREFECT_API_SSL_CERT_FILE", file


def _private_server() -> str:
    """Starts a server on a free port of 127.0.0.1 and returns the address of its API when it answers."""
    import prefect
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS as SECONDS

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}/api", _private_log()
    uvicorn = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(prefect.__file__).parent.parent)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    command = [*uvicorn, "--factory", "prefect.server.api.server:create_app", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        server = Child(command, output, PRIVATE | {"PREFECT_API_URL": url})
    atexit.register(server.end, STOP_SECONDS)  # Prefect sends its last logs and events at the exit, just before
    deadline = time.monotonic() + SECONDS.value()
    while server.is_running and time.monotonic() < deadline:
        if _answers(url):
            return url
        time.sleep(0.1)
    raise ServeError(f"The private Prefect server did not start; see {log}.")


def _private_log() -> Path:
    return Path(os.environ["PREFECT_HOME"], "private-server.log")
