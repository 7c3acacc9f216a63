"""The command line of every flow: `python -m flows.<verb> --preset miniature [--set a.b=c] [--name NAME]`.

Exit status 0, also when the gate rejects the candidate; 1 when the flow failed, after one line that says why; 2 for
arguments that do not resolve, before any work starts; 3 when the flow came to its end but something could not be
scored, after one line that names it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import Flow

from flows.errors import FlowError
from flows.failures import TOLD
from flows.overrides import dated, resolve
from flows.prefect_environment import reachable_server
from flows.presets import PRESETS
from flows.stage import INCOMPLETE


def run(flow: Flow[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Runs a flow from the command line, prints what it returns, and returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow.name}", description=flow.description)
    parser.add_argument("--preset", default="miniature", help=f"one of {', '.join(PRESETS)} (default miniature)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="one field")
    parser.add_argument("--name", help="folder of the run below runs/, {date} for today (default: the preset's)")
    given = parser.parse_args(arguments)
    try:
        resolve(given.preset, given.overrides, dated(given.name, datetime.now(UTC).date()))
    except FlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with reachable_server():
            options: dict[str, Any] = {"preset": given.preset, "overrides": given.overrides, "name": given.name}
            state: Any = flow(**options, return_state=True)
        print(state.result())
    except TOLD as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if state.name == INCOMPLETE:
        print(f"warning: {state.message}", file=sys.stderr)
        return 3
    return 0
