"""Typed reading: what is refused, and where the error points.

pytest tests/reports/test_files.py
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reports.errors import CorruptFileError, ReportError
from reports.evaluation_format import Summary
from reports.files import read_lines, read_metrics, write_text
from reports.formats import Rejection
from reports.score_tables import SCORES, read_table


def test_a_dropped_photograph_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    path.write_text(json.dumps({"name": os.fsdecode(b"na\xefve.jpg"), "reason": "no_face", "detail": "x"}) + "\n")
    assert [line.reason for line in read_lines(path, Rejection)] == ["no_face"]


def test_resumed_training_keeps_the_later_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}, {"step": 10, "loss": 3.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(metric.step, metric.loss) for metric in read_metrics(path)] == [(10, 3.0), (20, 2.0)]


def test_a_validation_joins_the_line_of_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 10, "loss": 1.0, "router_background": None},
        {"step": 10, "validation_masked": 0.5, "seconds": 3.0},
        {"step": 15, "validation_masked": 0.4},
        {"step": 10, "loss": 3.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [(metric.step, metric.loss, metric.validation_masked) for metric in read_metrics(path)]
    assert found == [(10, 3.0, 0.5), (15, None, 0.4)]


def test_line_still_being_written_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    assert [metric.step for metric in read_metrics(path)] == [10]
    path.write_text('{"step": 10, "lo\n{"step": 20}\n')
    with pytest.raises(CorruptFileError, match="line 1"):
        read_metrics(path)
    path.write_text(5000 * "[" + "\n")
    with pytest.raises(CorruptFileError, match="line 1"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda rows: rows.drop(columns="pc"), "column pc"),
        (lambda rows: rows.assign(ip=1.5), "column ip"),
        (lambda rows: rows.assign(pc="high"), "column pc"),
        (lambda rows: rows.assign(outcome="lost"), "column outcome"),
        (lambda rows: rows.assign(seed=1, prompt_id="beach"), "columns method, subject, prompt_id, seed"),
        (lambda rows: rows.assign(image="../../../etc/passwd"), "column image"),
        (lambda rows: rows.assign(image="/etc/passwd"), "column image"),
        (lambda rows: rows.assign(subject=None), "column subject"),
        (lambda rows: rows.assign(image=7), "column image"),
        (lambda rows: rows.assign(method=True), "column method"),
        (lambda rows: rows.assign(seed=1.5), "column seed"),
        (lambda rows: rows.assign(seed=float("inf")), "column seed"),
        (lambda rows: rows.assign(seed=1e30), "column seed"),
    ],
)
def test_broken_scores_name_the_column(
    complete_run: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], field: str
) -> None:
    rows = pd.read_parquet(complete_run / "evaluation/miniature/scores.parquet")
    change(rows).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(CorruptFileError) as caught:
        read_table(tmp_path, SCORES)
    assert caught.value.field == field
    assert str(tmp_path / "scores.parquet") in str(caught.value)


def test_parquet_and_csv_read_alike(complete_run: Path, tmp_path: Path) -> None:
    folder = complete_run / "evaluation/miniature"
    (tmp_path / "scores.csv").write_bytes((folder / "scores.csv").read_bytes())
    one, other = read_table(folder, SCORES), read_table(tmp_path, SCORES)
    assert one is not None and other is not None
    columns = ["method", "subject", "prompt_id", "seed", "image", "outcome", "ip"]
    pd.testing.assert_frame_equal(one[columns], other[columns], check_dtype=False)


def test_rows_come_in_the_order_of_their_key_and_names_stay_text(complete_run: Path, tmp_path: Path) -> None:
    """A person may be called 007, an image may be none, and CLIP's cosine may be negative."""
    rows = pd.read_parquet(complete_run / "evaluation/miniature/scores.parquet").head(6)
    rows = rows.assign(method="m", subject="007", prompt_id="1", seed=[11.0, 2.0, 10.0, 1.0, 3.0, 0.0], pc=-0.5)
    rows.assign(image=None, outcome="missing", ip=0.0).to_csv(tmp_path / "scores.csv", index=False)
    found = read_table(tmp_path, SCORES)
    assert list(found["seed"]) == [0, 1, 2, 3, 10, 11] and found["seed"].dtype == int
    assert set(found["subject"]) == {"007"} and set(found["prompt_id"]) == {"1"} and found["image"].isna().all()


@pytest.mark.parametrize(("column", "value"), [("ip", -0.1), ("pc", -1.1), ("pc", 1.1)])
def test_scores_below_or_above_their_bounds_are_refused(
    complete_run: Path, tmp_path: Path, column: str, value: float
) -> None:
    rows = pd.read_parquet(complete_run / "evaluation/miniature/scores.parquet")
    rows.assign(**{column: value}).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(CorruptFileError, match=rf"column {column}.* holds {value}, outside"):
        read_table(tmp_path, SCORES)


def test_method_twice_is_refused(complete_run: Path) -> None:
    summary = json.loads((complete_run / "evaluation/miniature/summary.json").read_text())
    summary["methods"].append(summary["methods"][0])
    with pytest.raises(ValueError, match="twice"):
        Summary.model_validate(summary)


def test_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    page = write_text(tmp_path / "index.html", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(page, "\ud800")
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_folder_in_the_place_of_a_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(ReportError, match=r"index\.html is a folder.*rename"):
        write_text(tmp_path / "index.html", "page")


def test_full_disk_is_told_with_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page = write_text(tmp_path / "index.html", "old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space.*index\.html"):
        write_text(page, "new")
    assert page.read_text() == "old" and list(tmp_path.iterdir()) == [page]
