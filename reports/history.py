"""`runs/` -> `runs/index.html`: every run with its headline figures and a link to its report, newest first.

Manifests hold no clock times, so a run's place in time is the modification time of the oldest of its records: a stage
that runs again writes some of them anew, never all. A broken run keeps its row, with the error in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from reports.charts import Chart, Interval
from reports.claims import VERDICTS
from reports.decision import Decision, decision
from reports.errors import ReportError, RunNotFoundError
from reports.evaluation_format import MethodSummary, Statistic
from reports.files import write_text
from reports.images import Thumbnails
from reports.lines import run_chart
from reports.page import render
from reports.run_folder import Evaluation, Run, read_run
from reports.tables import UNDECIDED, ComparisonRow, comparison_row
from reports.yardstick import largest_group, yardstick

RECORDS = ("*.json", "*.jsonl", "train.log", "export/manifest.json", "evaluation/*/manifest.json")
Mark = tuple[str, str, str]  # class of the style sheet, mark, words


@dataclass(frozen=True)
class Entry:
    """One row: a readable run (`run`), or what is wrong with it (`problem`). `report` is a link, or "" without a
    report. Neither `run` nor `evaluation` keeps its tables: those of hundreds of runs would fill the memory."""

    name: str
    when: datetime
    run: Run | None
    evaluation: Evaluation | None
    shown: MethodSummary | None
    prior: MethodSummary | None
    report: str
    problem: str = ""

    @property
    def suite(self) -> str:
        """Suite and version of the evaluation shown, or "" without one."""
        return f"{self.evaluation.summary.suite} v{self.evaluation.summary.version}" if self.evaluation else ""

    @property
    def verdicts(self) -> dict[str, Mark]:
        """The verdict on each claim of the evaluation shown, by the claim's id."""
        claims = self.evaluation.summary.claims if self.evaluation else []
        return {claim.id: VERDICTS[claim.verdict] for claim in claims}

    @property
    def tally(self) -> str:
        """How many claims were found true of those that were measured, or "" where none was."""
        measured = [kind for kind, _, _ in self.verdicts.values() if kind != "unmeasured"]
        return f"{measured.count('yes')} of {len(measured)}" if measured else ""

    @property
    def decision(self) -> Decision | None:
        """What the gate decided."""
        return decision(self.run) if self.run else None

    @property
    def step_forward(self) -> ComparisonRow | None:
        """The paired comparison with the champion, the model this run was to replace."""
        champion = self.evaluation.first("champion") if self.evaluation else None
        if self.evaluation is None or champion is None:
            return None
        found = [c for c in self.evaluation.summary.comparisons if c.before == champion.method]
        return comparison_row(self.evaluation, found[0]) if found else None

    @property
    def date(self) -> str:
        return self.when.strftime("%Y-%m-%d %H:%M")


def build_history(runs_folder: Path) -> tuple[Path, list[str]]:
    """Writes the index and returns its path with the problems of runs that could not be read.

    Raises `RunNotFoundError` when the folder is not there, is itself a run, or holds none.
    """
    runs_folder = Path(runs_folder).resolve()
    page = runs_folder / "index.html"
    if not runs_folder.is_dir():
        raise RunNotFoundError(f"{runs_folder} is not a folder: give the folder that holds the runs, usually runs/")
    if any((runs_folder / name).is_file() for name in ("lifecycle.json", "config.json")):
        raise RunNotFoundError(f"{runs_folder} is a run: give the folder that holds the runs, usually runs/")
    found = [_entry(folder, page) for folder in sorted(runs_folder.iterdir()) if _is_run(folder)]
    if not found:
        raise RunNotFoundError(f"{runs_folder} holds no run: run the lifecycle first")
    entries = sorted(found, key=lambda entry: (entry.when, entry.name), reverse=True)
    evaluated = [entry for entry in entries if entry.problem or entry.evaluation]
    comparable = _comparable(evaluated)
    write_text(
        page,
        render(
            "history.html.j2",
            entries=entries,
            evaluated=evaluated,
            unevaluated=[entry for entry in entries if entry not in evaluated],
            charts=[chart for chart in (_chart(comparable, name) for name in ("ip", "pc")) if chart],
            claims=_claims(comparable),
            undecided=UNDECIDED,
            compared=comparable,
            left_out=[entry.name for entry in evaluated if entry.evaluation and entry not in comparable],
            unsaid=[entry.name for entry in evaluated if entry.evaluation and not entry.evaluation.summary.yardstick],
        ),
    )
    return page, [entry.problem for entry in entries if entry.problem]


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).exists() for name in ("lifecycle.json", "config.json", "evaluation"))


def _entry(folder: Path, page: Path) -> Entry:
    found = (path for pattern in RECORDS for path in folder.glob(pattern))
    records = [path for path in found if path.is_file()] or [folder]  # one may be a link that leads nowhere
    when = datetime.fromtimestamp(min(path.stat().st_mtime for path in records), UTC)
    index = folder / "report" / "index.html"
    report = Thumbnails(page.parent).href(index) if index.is_file() else ""
    try:
        run = read_run(folder, tables=False)
    except ReportError as problem:
        return Entry(folder.name, when, None, None, None, None, report, str(problem))
    main = run.main and replace(run.main, scores=None, pairs=None, router=None)
    run = replace(run, evaluations=[], metrics=[])
    shown = main.shown if main else None
    return Entry(folder.name, when, run, main, shown, main.prior if main else None, report)


def _comparable(entries: list[Entry]) -> list[Entry]:
    """The largest group of runs whose scores compare, of equally large ones that of the newest run; oldest first."""
    sticks = [yardstick(entry.evaluation) if entry.evaluation else None for entry in entries]
    return largest_group(entries, sticks)[::-1]


def _chart(entries: list[Entry], name: str) -> Chart | None:
    """One score over the runs, of the shown method and of its prior; nothing for fewer than two."""
    series = [
        [_interval(method, name, tone) for method in methods]
        for tone, methods in (
            ("moa", [entry.shown for entry in entries]),
            ("prior", [entry.prior for entry in entries]),
        )
    ]
    title = f"{name.upper()} over the runs of suite {entries[0].suite}" if entries else ""
    return run_chart(title, [entry.name for entry in entries], series)


def _interval(method: MethodSummary | None, name: str, tone: str) -> Interval | None:
    found: Statistic | None = getattr(method, name) if method else None
    if method is None or found is None or found.mean is None:
        return None
    return Interval(method.label, tone, found.mean, found.low, found.high)


def _claims(entries: list[Entry]) -> dict[str, str]:
    """Claim by id, of all that these runs know; nothing for fewer than two runs."""
    if len(entries) < 2:
        return {}
    return {claim.id: claim.claim for entry in entries if entry.evaluation for claim in entry.evaluation.summary.claims}
