"""The index of runs: newest first, figures of each, broken runs named.

pytest tests/reports/test_history.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.build import build_report
from reports.errors import RunNotFoundError
from reports.history import build_history
from tests.reports.fake_run import PROMPTS, gate, make_run
from tests.reports.page_reader import Page


@pytest.fixture
def runs(run: Path) -> Path:
    """Two runs, week-02 a day younger, and a folder that is none."""
    younger = make_run(run.parent.parent, "week-02", seeds=[1])
    build_report(run)
    begun(run, 1_000_000)
    begun(younger, 1_086_400)
    (run.parent / "hub").mkdir()
    return run.parent


def begun(run: Path, second: int) -> None:
    """Sets the time of every file of a run; what is written later is younger."""
    for path in run.rglob("*"):
        os.utime(path, (second, second))


def test_runs_are_listed_newest_first_with_figures_and_links(runs: Path) -> None:
    index, problems = build_history(runs)
    assert index == runs.resolve() / "index.html" and problems == []
    page = Page(index)
    rows = [tr for tr in page.all("tr") if tr.inside("tbody")][:2]
    assert [row.text[:7] for row in rows] == ["week-02", "week-01"]
    assert "1970-01-12 13:46" in rows[1].text
    summary = json.loads((runs / "week-01/evaluation/miniature/summary.json").read_text())
    moa = next(method for method in summary["methods"] if method["kind"] == "moa")
    assert f"{moa['ip']['mean']:.3f}" in rows[1].text and f"{moa['ip']['low']:.3f}" in rows[1].text
    assert [a.attributes["href"] for a in page.all("a") if a.inside("tbody")] == ["week-01/report/index.html"]
    assert "no report" in rows[0].text
    assert len(page.all("svg")) == 2
    compared = next(part for part in summary["comparisons"] if part["before"] == "champion")
    assert f"{compared['ip']['mean']:+.3f}".replace("-", "−") in rows[1].text and "7 of 10" in rows[1].text
    assert "Claims over time" in page.text
    verdicts = {tr.text.split()[0]: tr.text for tr in page.all("tr") if "✕ no" in tr.text and tr.text[0] == "C"}
    assert list(verdicts) == ["C5"] and verdicts["C5"].count("✕ no") == 2


def test_a_later_stage_leaves_a_run_in_its_place(runs: Path) -> None:
    for name in ("lifecycle.json", "gate.json", "evaluation/miniature/manifest.json"):  # written again today
        (runs / "week-01" / name).write_text((runs / "week-01" / "config.json").read_text())
    (runs / "week-01/gate.json").write_text(json.dumps(gate()))
    rows = [tr for tr in Page(build_history(runs)[0]).all("tr") if tr.inside("tbody")][:2]
    assert [row.text[:7] for row in rows] == ["week-02", "week-01"] and "1970-01-12 13:46" in rows[1].text


def test_decisions_stand_with_their_reasons(runs: Path) -> None:
    (runs / "week-02/gate.json").write_text(json.dumps(gate("IP: the low end <b>is</b> not above -0.02.")))
    rows = [tr for tr in Page(build_history(runs)[0]).all("tr") if tr.inside("tbody")][:2]
    assert "✕ not promoted" in rows[0].text and "IP: the low end <b>is</b> not above -0.02." in rows[0].text
    assert "✓ promoted" in rows[1].text


def test_folder_that_has_the_name_of_the_index_is_named(runs: Path, capsys: pytest.CaptureFixture) -> None:
    (runs / "index.html").mkdir()
    assert main(["--history", str(runs)]) == 1
    assert "index.html is a folder" in capsys.readouterr().err


def test_broken_run_keeps_its_row(runs: Path, capsys: pytest.CaptureFixture) -> None:
    (runs / "week-02/metrics.jsonl").write_text("{\n")
    assert main(["--history", str(runs)]) == 1
    assert "week-02/metrics.jsonl: line 1" in capsys.readouterr().err
    rows = [tr for tr in Page(runs / "index.html").all("tr") if tr.inside("tbody")]
    assert "line 1" in rows[0].text and "small" in rows[1].text


def test_run_without_evaluation_is_listed(runs: Path) -> None:
    (runs / "new").mkdir()
    (runs / "new/config.json").write_text("{}")
    (runs / "new/metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["--history", str(runs)]) == 0
    assert "not evaluated" in Page(runs / "index.html").text


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="holds no run"):
        build_history(tmp_path)
    with pytest.raises(RunNotFoundError, match="is not a folder"):
        build_history(tmp_path / "nowhere")


def test_history_chart_joins_only_runs_of_one_suite_version(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = make_run(tmp_path, name, prompts=PROMPTS[:1], seeds=[1])
    assert len(Page(build_history(tmp_path / "runs")[0]).all("svg")) == 2
    path = folder / "evaluation/miniature/summary.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert len(Page(build_history(tmp_path / "runs")[0]).all("svg")) == 0
