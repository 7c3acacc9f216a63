"""`runs/<name>/` -> `runs/<name>/report/index.html`: one HTML file that opens offline and links to the original
images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports import provenance, quality, tables, training
from reports.charts import Interval, scatter
from reports.files import write_text
from reports.grids import Pictures
from reports.headline import Figure, figures, finding
from reports.images import Thumbnails
from reports.page import render
from reports.run_folder import Evaluation, Run, read_run
from reports.shots import tones


@dataclass(frozen=True)
class SuiteView:
    """One evaluation, ready for the template. The picture parts are None where there are no rows to show."""

    id: str
    evaluation: Evaluation
    tones: dict[str, str]
    finding: str
    figures: list[Figure]
    scatter: Any
    breakdowns: list[tables.BreakdownTable]
    pictures: dict[str, Any] | None
    scores_link: str | None
    miniature: bool


def build_report(run_folder: Path) -> Path:
    """Renders the report of a run and returns its path. Raises `ReportError` when there is no run or a file of it is
    broken."""
    run = read_run(Path(run_folder))
    page = run.folder / "report" / "index.html"
    return write_text(page, render_report(run, page))


def render_report(run: Run, page: Path) -> str:
    """The HTML of the report, with links relative to `page`."""
    thumbs = Thumbnails(page.parent)
    ordered = sorted(run.evaluations, key=lambda evaluation: evaluation is not run.main)
    data = run.dataset
    return render(
        "report.html.j2",
        run=run,
        suites=[suite_view(f"suite{index}", evaluation, thumbs) for index, evaluation in enumerate(ordered)],
        panels=training.panels(run.metrics),
        rejections=quality.rejections(data) if data else None,
        quality_facts=quality.facts(data.quality) if data else [],
        bar_lists=quality.bar_lists(data.quality) if data else [],
        histograms=quality.histograms(data.quality) if data else [],
        facts=provenance.facts(run),
        commands=[(e.summary.suite, provenance.command(e), e.summary.provenance.code_commit) for e in ordered],
        config=provenance.flatten(run.config),
        lifecycle=provenance.flatten(run.lifecycle),
        limits=provenance.limits(run),
        log_link=thumbs.href(run.folder / "train.log") if (run.folder / "train.log").is_file() else None,
    )


def suite_view(name: str, evaluation: Evaluation, thumbs: Thumbnails) -> SuiteView:
    """Everything the template shows of one evaluation."""
    rows = evaluation.scores
    named = tones(evaluation.methods)
    points = [
        (
            Interval(m.label, named[m.method], m.pc.mean, m.pc.low, m.pc.high),
            Interval(m.label, named[m.method], m.ip.mean, m.ip.low, m.ip.high),
        )
        for m in evaluation.methods
        if m.ip.mean is not None and m.pc.mean is not None
    ]
    has_rows = rows is not None and len(rows) > 0
    csv = evaluation.folder / "scores.csv"
    return SuiteView(
        id=name,
        evaluation=evaluation,
        tones=named,
        finding=finding(evaluation),
        figures=figures(evaluation),
        scatter=scatter("Identity against prompt consistency", points),
        breakdowns=tables.breakdowns(evaluation, rows),
        pictures=_pictures(Pictures(evaluation, rows, thumbs)) if has_rows and rows is not None else None,
        scores_link=thumbs.href(csv) if csv.is_file() else None,
        miniature=provenance.is_miniature(evaluation),
    )


def _pictures(pictures: Pictures) -> dict[str, Any]:
    rows, methods = pictures.rows, pictures.evaluation.methods
    return {
        "shown": pictures.shown,
        "hero": pictures.hero(),
        "grid": pictures.grid(),
        "ablation": pictures.ablation_grid(),
        "galleries": pictures.galleries(),
        "failures": pictures.failures(),
        "outcomes": tables.outcome_counts(methods, rows),
    }
