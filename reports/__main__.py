"""Renders the report of a run, or the index of all runs.

    python -m reports runs/<name>          writes runs/<name>/report/index.html
    python -m reports --history runs/      writes runs/index.html

Exit status 0; 1 when a file is broken, there is no run, or the page cannot be written (the message names it). The
index is written even when one of its runs is broken, and the status is still 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports.build import build_report
from reports.errors import ReportError
from reports.history import build_history


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="a run folder, or with --history the folder that holds the runs")
    parser.add_argument("--history", action="store_true", help="write the index of all runs instead of one report")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    try:
        page, problems = build_history(options.folder) if options.history else (build_report(options.folder), problems)
    except (ReportError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(page)
    for line in problems:
        print(f"warning: {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
