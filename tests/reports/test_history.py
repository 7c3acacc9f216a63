"""The index of runs: newest first, figures of each, broken runs named.

pytest tests/reports/test_history.py
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from reports import history
from reports.__main__ import main
from reports.build import build_report
from reports.errors import RunNotFoundError
from reports.history import Entry, build_history
from reports.yardstick import largest_group
from tests.reports.fake_run import METHODS, PROMPTS, gate, make_run
from tests.reports.page_reader import Page


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `runs` and `data`. Not to be changed."""
    root = tmp_path_factory.mktemp("two")
    run, younger = make_run(root), make_run(root, "week-02", seeds=[1])
    (run / "lifecycle.json").unlink()
    build_report(run)
    begun(run, 1_000_000)
    begun(younger, 1_086_400)
    (run.parent / "hub").mkdir()
    return root


@pytest.fixture
def runs(two_runs: Path, tmp_path: Path) -> Path:
    """Two runs, week-02 a day younger, and a folder that is none."""
    pictures = shutil.ignore_patterns("*.png")  # an index opens none
    shutil.copytree(two_runs, tmp_path / "root", ignore=pictures)  # with the times of all files
    return tmp_path / "root" / "runs"


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
    drawn = [svg.attributes["aria-label"] for svg in page.all("svg")]
    assert len(drawn) == 2 and drawn[0].startswith("IP over the runs of suite miniature v")
    figures = {method["kind"]: (method["label"], method["ip"]["mean"]) for method in summary["methods"][:2]}
    assert all(f"week-01, {label}: {mean:.3f}" in drawn[0] for label, mean in figures.values()) and "moa" in figures
    compared = next(part for part in summary["comparisons"] if part["before"] == "champion")
    for name in ("ip", "pc"):
        assert f"{compared[name]['mean']:+.3f}".replace("-", "−") in rows[1].text
    assert "7 of 9" in rows[1].text
    assert "Claims over time" in page.text and "&amp;nbsp;" not in index.read_text()
    claims = [tr for tr in page.all("tr") if tr.inside("div", **{"aria-label": CLAIMS})]
    assert [tr.text[:7] for tr in claims[1:]] == ["week-02", "week-01"] and claims[0].text.count("C10") == 1
    assert all(tr.text.split("✕ no")[0].count("✓ yes") == 4 for tr in claims[1:])  # C5 alone is false


def test_names_of_runs_keep_their_ends_where_they_differ(tmp_path: Path) -> None:
    names = [f"photographs-stable-diffusion-week-{number:02d}" for number in range(1, 7)]
    page = Page(build_history(small_runs(tmp_path, *names))[0])
    drawn = [text.text for text in page.all("text") if text.text.startswith("…")]
    assert drawn == [f"…ion-week-{number:02d}"[-12:] for number in range(1, 7)] * 2


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


def test_long_reasons_are_folded_and_whole_without_a_script(runs: Path) -> None:
    (runs / "week-02/gate.json").write_text(json.dumps(gate("IP: not above -0.02.", "PC: not above -0.01.")))
    folded = [tag for tag in Page(build_history(runs)[0]).all("details") if tag.inside("tbody")]
    assert len(folded) == 1 and "open" not in folded[0].attributes  # the promoted run has none
    assert [li.text for li in Page(runs / "index.html").all("li") if li.inside("details", **{"class": "reasons"})] == [
        "IP: not above -0.02.",
        "PC: not above -0.01.",
    ]


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


def test_a_link_that_leads_nowhere_costs_its_run_alone(runs: Path) -> None:
    (runs / "week-02/config.json").unlink()
    (runs / "week-02/config.json").symlink_to("another disk")
    assert main(["--history", str(runs)]) == 0
    assert len([tr for tr in Page(runs / "index.html").all("tr") if tr.inside("tbody")]) >= 2


def test_run_without_evaluation_is_listed(runs: Path) -> None:
    (runs / "new").mkdir()
    (runs / "new/config.json").write_text("{}")
    (runs / "new/metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["--history", str(runs)]) == 0
    page = Page(runs / "index.html")
    rows = [tr for tr in page.all("tr") if tr.inside("details") and tr.inside("tbody")]
    assert len(rows) == 1 and rows[0].text.startswith("new") and "There is no evaluation yet" in rows[0].text
    assert len([tr for tr in page.all("tr") if tr.inside("tbody") and not tr.inside("details")]) == 2 + 2


def test_index_does_not_hold_the_tables_of_all_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Entry] = []
    monkeypatch.setattr(history, "render", lambda _, entries, **values: held.extend(entries) or "")
    build_history(runs)
    assert [entry.name for entry in held] == ["week-02", "week-01"] and all(entry.run for entry in held)
    assert all(entry.evaluation.scores is None and entry.evaluation.pairs is None for entry in held if entry.evaluation)
    assert not any(entry.run.evaluations or entry.run.metrics for entry in held if entry.run)


def test_index_reads_no_tables(runs: Path) -> None:
    for table in runs.glob("*/evaluation/miniature/*.parquet"):
        table.write_text("the report of the run says that this is no table")
    index, problems = build_history(runs)
    assert problems == [] and "7 of 9" in Page(index).text


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="holds no run"):
        build_history(tmp_path)
    with pytest.raises(RunNotFoundError, match="is not a folder"):
        build_history(tmp_path / "nowhere")


def test_run_in_the_place_of_the_folder_of_runs_is_refused(runs: Path) -> None:
    (runs / "week-02/export/config.json").write_text("{}")  # an adapter's, which is no run
    with pytest.raises(RunNotFoundError, match="is a run: give the folder that holds the runs"):
        build_history(runs / "week-02")


def test_figures_stand_first_where_a_phone_shows_them(runs: Path) -> None:
    heads = [th.text for th in Page(build_history(runs)[0]).all("th") if th.inside("thead")]
    assert heads[:3] == ["Run", "IP ↑", "PC ↑"]


def small_runs(root: Path, *names: str) -> Path:
    """Runs with one prompt each, the first the oldest; returns their folder."""
    for day, name in enumerate(names):
        begun(make_run(root, name, prompts=PROMPTS[:1], seeds=[1], methods=METHODS[:2]), 1_000_000 + 86_400 * day)
    return root / "runs"


def change(run: Path, file: str, **values: object) -> None:
    """Changes fields of a file of the evaluation."""
    path = run / "evaluation/miniature" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def compared(runs: Path) -> list[str]:
    """The runs of the table of claims over time, newest first."""
    heads = [th.text for th in Page(build_history(runs)[0]).all("th") if th.inside("div", **{"aria-label": CLAIMS})]
    return [text for text in heads if text.startswith("run-")]


CLAIMS = "Claims over time"


@pytest.mark.parametrize(
    ("values", "together"),
    [
        ({"yardstick": "sha256:another"}, False),
        ({"yardstick": None}, False),
        ({"environment": {"expert_interval": 2, "python": "3.12"}}, True),
    ],
)
def test_only_runs_measured_alike_stand_in_one_chart(tmp_path: Path, values: dict[str, object], together: bool) -> None:
    runs = small_runs(tmp_path, "run-1", "run-2")
    assert compared(runs) == ["run-2", "run-1"]
    change(runs / "run-2", "summary.json", **values)
    page = Page(build_history(runs)[0])
    assert len(page.all("svg")) == (2 if together else 0)
    assert compared(runs) == (["run-2", "run-1"] if together else [])  # one run alone has no claims over time
    assert ("makes no image anew: run-2." in page.text) == (values == {"yardstick": None})


def test_of_equally_large_groups_the_newest_runs_is_shown(tmp_path: Path) -> None:
    runs = small_runs(tmp_path, "broken", "run-4", "run-3", "run-2", "run-1")  # the oldest is last by name
    (runs / "broken/metrics.jsonl").write_text("{\n")
    for name in ("run-2", "run-1"):
        change(runs / name, "summary.json", yardstick="sha256:another")
    assert compared(runs) == ["run-1", "run-2"]
    assert "Left out: run-3, run-4;" in Page(runs / "index.html").text


def test_evaluation_begun_again_is_marked_and_not_compared(tmp_path: Path) -> None:
    runs = small_runs(tmp_path, "run-1", "run-2", "run-3")
    (runs / "run-2/evaluation/miniature/manifest.json").unlink()
    assert compared(runs) == ["run-3", "run-1"]
    row = next(tr for tr in Page(runs / "index.html").all("tr") if tr.text.startswith("run-2"))
    assert "being evaluated again, or interrupted" in row.text


@pytest.mark.parametrize(
    ("sticks", "kept"),
    [
        ([None, None, "x"], ["c"]),
        (["x", "y", "y"], ["b", "c"]),
        (["x", "y", None], ["a"]),
        ([None, None, None], []),
    ],
)
def test_those_without_a_yardstick_compare_with_nobody(sticks: list[str | None], kept: list[str]) -> None:
    assert largest_group(["a", "b", "c"], sticks) == kept
