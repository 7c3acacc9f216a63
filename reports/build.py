"""`runs/<name>/` -> `runs/<name>/report/index.html`: one HTML file that opens offline and links to the original
images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports import provenance, quality, tables, training
from reports.album import Album
from reports.charts import Chart, Interval, scatter
from reports.claims import ClaimsTable, claims_table
from reports.decision import decision
from reports.files import write_text
from reports.galleries import failure_cards, outcome_tables, ranked_cards
from reports.grids import ablation_grids, grid
from reports.headline import Figure, figures, finding, scope
from reports.hero import hero
from reports.images import Thumbnails
from reports.model_card import model_card
from reports.page import render
from reports.pairs import pair_grid
from reports.router import router_view
from reports.run_folder import Evaluation, Run, read_run
from reports.shots import tones
from reports.size import Room, fitting
from reports.swaps import swap_grid


@dataclass(frozen=True)
class SuiteView:
    """One evaluation, ready for the template. The picture parts are None where there are no rows to show."""

    id: str
    evaluation: Evaluation
    tones: dict[str, str]
    finding: str
    figures: list[Figure]
    scope: str
    claims: ClaimsTable | None
    scatter: Chart | None
    columns: dict[str, list[tables.Column]]
    comparisons: list[tables.ComparisonRow]
    breakdowns: list[tables.BreakdownTable]
    pictures: dict[str, Any] | None
    links: list[tuple[str, str]]
    miniature: bool
    undecided = tables.UNDECIDED

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(id, name) of the sections below the first screen, in their order."""
        shown = self.pictures or {}
        there = [
            ("claims", "Claims", self.claims),
            ("results", "Results", True),
            ("swaps", "Swaps", shown.get("swaps")),
            ("grid", "Grid", shown),
            ("ablation", "Ablations", shown.get("ablations")),
            ("pairs", "Pairs", self.shows_pairs),
            ("router", "Router", shown.get("router")),
            ("gallery", "Gallery", shown),
            ("failures", "Failures", shown),
            ("tables", "Breakdown", True),
        ]
        return [(f"{self.id}-{name}", title) for name, title, present in there if present]

    @property
    def shows_pairs(self) -> bool:
        """Whether there is anything about two people in one picture: figures, images, or published figures alone."""
        published = self.evaluation.suite and self.evaluation.suite.published_pairs
        return bool(self.evaluation.summary.pairs or (self.pictures and self.pictures["pairs"]) or published)


def build_report(run_folder: Path) -> Path:
    """Renders the report of a run and returns its path. Raises `ReportError` when there is no run or a file of it is
    broken."""
    run = read_run(Path(run_folder))
    page = run.folder / "report" / "index.html"
    return write_text(page, fitting(lambda room: render_report(run, page, room)))


def render_report(run: Run, page: Path, room: Room) -> str:
    """The HTML of the report, with links relative to `page`."""
    ordered = sorted(run.evaluations, key=lambda evaluation: evaluation is not run.main)
    data = run.dataset
    with Thumbnails(page.parent, room.scale) as thumbs:
        shots = room.shots // max(len(ordered), 1)
        return render(
            "report.html.j2",
            run=run,
            decision=decision(run),
            size_note=room.note,
            most_methods=max((len(e.summary.methods) for e in ordered), default=0),
            suites=[suite_view(f"suite{index}", e, thumbs, shots) for index, e in enumerate(ordered)],
            card=model_card(run),
            panels=training.panels(run.metrics),
            rejections=quality.rejections(data) if data else None,
            quality_facts=quality.facts(data.quality) if data else [],
            bar_lists=quality.bar_lists(data.quality) if data else [],
            histograms=quality.histograms(data.quality) if data else [],
            facts=provenance.facts(run),
            commands=[(e.summary.suite, provenance.command(e), e.summary.provenance.code_commit) for e in ordered],
            start_again=provenance.start_again(run),
            config=provenance.flatten(run.config),
            lifecycle=provenance.flatten(run.lifecycle),
            limits=provenance.limits(run),
            log_link=thumbs.href(run.folder / "train.log") if (run.folder / "train.log").is_file() else None,
        )


def suite_view(name: str, evaluation: Evaluation, thumbs: Thumbnails, shots: int) -> SuiteView:
    """Everything the template shows of one evaluation; its grid may hold that many shots."""
    rows = evaluation.scores
    files = [evaluation.folder / file for file in ("scores.csv", "swaps.csv", "pairs.csv", "summary.json")]
    return SuiteView(
        id=name,
        evaluation=evaluation,
        tones=tones(evaluation.methods),
        finding=finding(evaluation),
        figures=figures(evaluation),
        scope=scope(evaluation),
        claims=claims_table(evaluation.summary.claims, evaluation.methods),
        scatter=_scatter(evaluation),
        columns={
            "main": tables.measured(tables.MAIN, evaluation.methods),
            "compared": tables.measured(tables.COMPARED, evaluation.summary.comparisons),
            "locality": tables.measured(tables.LOCALITY, evaluation.methods),
            "pairs": tables.measured(tables.PAIRS, evaluation.summary.pairs or []),
        },
        comparisons=tables.comparison_rows(evaluation),
        breakdowns=tables.breakdowns(evaluation, rows),
        pictures=_pictures(Album(evaluation, rows, thumbs, shots)) if rows is not None and len(rows) else None,
        links=[(file.name, thumbs.href(file)) for file in files if file.is_file()],
        miniature=provenance.is_miniature(evaluation),
    )


def _scatter(evaluation: Evaluation) -> Chart | None:
    named = tones(evaluation.methods)
    points = [
        (
            Interval(m.label, named[m.method], m.pc.mean, m.pc.low, m.pc.high),
            Interval(m.label, named[m.method], m.ip.mean, m.ip.low, m.ip.high),
        )
        for m in evaluation.methods
        if m.ip.mean is not None and m.pc.mean is not None
    ]
    return scatter("Identity against prompt consistency", points)


def _pictures(album: Album) -> dict[str, Any]:
    evaluation = album.evaluation
    return {
        "shown": album.shown,
        "hero": hero(album),
        "swaps": swap_grid(album),
        "grid": grid(album),
        "pairs": pair_grid(album, evaluation.pairs) if evaluation.pairs is not None else None,
        "ablations": ablation_grids(album),
        "router": router_view(album, evaluation.router) if evaluation.router else None,
        "galleries": ranked_cards(album),
        "failures": failure_cards(album),
        "outcomes": outcome_tables(album),
        "unscored": [(lost.what, lost.why) for lost in evaluation.summary.unscored],
    }
