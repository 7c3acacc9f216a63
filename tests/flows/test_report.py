"""How a run page leads to the report.    pytest tests/flows/test_report.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import report
from flows.settings import REPORTS_URL


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the artifacts were made of."""
    found: list[dict[str, Any]] = []
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    monkeypatch.delenv(REPORTS_URL, raising=False)
    monkeypatch.setattr(report, "create_link_artifact", lambda **given: found.append(given))
    monkeypatch.setattr(report, "create_markdown_artifact", lambda **given: found.append(given))
    return found


def test_a_link_where_reports_are_served(made, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(REPORTS_URL, "http://127.0.0.1:4201")
    report.show_report.fn(tmp_path / "demo" / "report" / "index.html")
    assert made[0]["key"] == "report" and made[0]["link"] == "http://127.0.0.1:4201/demo/report/index.html"


def test_the_path_where_nobody_serves_it(made, monkeypatch, tmp_path) -> None:
    place = tmp_path / "demo" / "report" / "index.html"
    report.show_report.fn(place)
    monkeypatch.setenv(REPORTS_URL, "http://127.0.0.1:4201")
    report.show_report.fn(Path("/elsewhere/report/index.html"))
    assert f"`{place}`" in made[0]["markdown"] and "/elsewhere/" in made[1]["markdown"]
