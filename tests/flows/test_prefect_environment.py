"""Whether the server of `make ui` is there: something else at its port is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.prefect_environment import _answers


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """An HTTP server that answers every request with the given status and body."""
    status, body = request.param

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


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
