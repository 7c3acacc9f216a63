"""What the report server gives away, and what not.    pytest tests/reports/test_server.py"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.server import make_server


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for name in (
        "demo/report/index.html",
        "demo/evaluation/mini/images/a.png",
        "demo/checkpoints/1/model",
        "demo/train.log",
        "demo/ablations/x/train.log",
        "demo/metrics.jsonl",
        "index.html",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "demo/config.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    (root / "demo/report/link").symlink_to(tmp_path / "secret")
    return root


@pytest.fixture
def address(runs: Path) -> Iterator[tuple[str, int]]:
    with make_server(runs, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_port
        server.shutdown()


def get(address: tuple[str, int], path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    "path, content",
    [
        ("/demo/report/index.html", "demo/report/index.html"),
        ("/demo/evaluation/mini/images/a.png", "demo/evaluation/mini/images/a.png"),
        ("/demo/train.log", "demo/train.log"),
        ("/index.html", "index.html"),
        ("/", "index.html"),
    ],
)
def test_reports_their_pictures_and_the_index_are_served(address, path, content):
    assert get(address, path) == (200, content)


@pytest.mark.parametrize(
    "path",
    [
        "/demo/checkpoints/1/model",
        "/demo/config.json",
        "/demo/metrics.jsonl",
        "/demo/ablations/x/train.log",
        "/train.log",
        "/demo/",
        "/demo/report/",
        "/demo/evaluation/mini/images/",
        "/demo/report/link",
        "/demo/report/../checkpoints/1/model",
        "/demo/report/%2e%2e/checkpoints/1/model",
        "/../secret",
        "/%2e%2e/secret",
        "/demo/report/none.html",
    ],
)
def test_nothing_else_exists(address, path):
    status, body = get(address, path)
    assert status == 404 and "secret" not in body


def test_a_foreign_name_is_refused_and_nothing_is_written(address):
    assert get(address, "/index.html", host="evil.example:80")[0] == 403
    assert get(address, "/index.html", host=f"localhost:{address[1]}")[0] == 200
    assert get(address, "/index.html", host="localhost")[0] == 200  # as browsers ask on port 80
    assert get(address, "/index.html", host="localhost.evil.example")[0] == 403
    assert get(address, "/demo/report/index.html", method="PUT")[0] == 501


def test_a_log_is_shown_not_saved(address):
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request("GET", "/demo/train.log")
    assert connection.getresponse().headers["Content-Type"] == "text/plain; charset=utf-8"
