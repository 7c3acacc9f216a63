"""The command line of every flow: `python -m flows.<verb> --preset miniature [--set a.b=c] [--name NAME] [--dry-run]`.

Exit status 0, also when the gate rejects the candidate; 1 when the flow failed, after one line that says why, or when a
dry run found problems; 2 for arguments that do not resolve, before any work starts; 3 when the flow came to its end but
something could not be scored, after one line that names it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import yaml
from prefect import Flow

from flows.begin import require_earlier
from flows.errors import FlowError
from flows.failures import AGAIN, sentence
from flows.hub import asks_prefect
from flows.hub_answers import silent_hub
from flows.overrides import dated
from flows.prefect_server import reachable_server
from flows.preflight import Problem, find_problems, refuse
from flows.presets import PRESETS
from flows.remembered import DEFAULT_PRESET, recall
from flows.server_state import mark_interrupted
from flows.settings import LifecycleConfig
from flows.stage import INCOMPLETE
from flows.trained import refuse_other_training
from preprocessing.config import load_dataset
from preprocessing.errors import PreprocessingError
from preprocessing.sources import open_source


def run(flow: Flow[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Runs a flow from the command line, prints what it returns, and returns the exit status."""
    given = _parser(flow).parse_args(arguments)
    try:
        config = recall(given.preset, given.overrides, dated(given.name, datetime.now(UTC)))
    except FlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        if given.dry_run:
            with reachable_server() if asks_prefect(config) else nullcontext():
                return dry_run(config, flow.name)
        refuse(silent_hub(config, flow.name), flow.name)
        with reachable_server():
            options: dict[str, Any] = {"preset": config.preset, "overrides": given.overrides, "name": given.name}
            mark_interrupted()  # of commands that were killed, which nobody else tells the server
            state: Any = flow(**options, return_state=True)
            print(state.result())
    except KeyboardInterrupt:
        print(f"interrupted. {AGAIN}", file=sys.stderr)
        return 130
    except Exception as error:
        if (told := sentence(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1
    if state.name == INCOMPLETE:
        print(f"warning: {state.message}", file=sys.stderr)
        return 3
    return 0


def dry_run(config: LifecycleConfig, stage: str) -> int:
    """Prints the resolved configuration, then every problem with its remedy and the number of pictures; returns the
    exit status."""
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))
    refuse_other_training(config)
    problems = _not_done(config, stage) + find_problems(config, stage) + silent_hub(config, stage)
    for problem in problems:
        print(f"* {problem}", file=sys.stderr)
    print(_pictures(config, stage), end="", file=sys.stderr)
    print(f"{stage} of the run {config.name}: {len(problems) or 'no'} problems", file=sys.stderr)
    return int(bool(problems))


def _pictures(config: LifecycleConfig, stage: str) -> str:
    """A line with the number of pictures that the stage would read; nothing where there is none, or they cannot be
    listed, which is a problem."""
    if stage not in ("preprocess", "lifecycle"):
        return ""
    try:
        dataset = load_dataset(config.preprocess.dataset)
        return f"pictures: {open_source(dataset, config.preprocess.source_root).count(dataset)}\n"
    except PreprocessingError:
        return ""


def _not_done(config: LifecycleConfig, stage: str) -> list[Problem]:
    """What an earlier stage has to do first."""
    try:
        require_earlier(config, stage)
    except FlowError as error:
        return [Problem(str(error), "")]
    return []


def _parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    about = inspect.cleandoc(flow.description or "").partition("\nArgs:")[0].strip()  # the arguments are ours
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow.name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset",
        metavar="PRESET",
        help=f"one of {', '.join(PRESETS)} (default: the run's; a new run needs it, but for {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help="one field, remembered by the run; --dry-run shows all",
    )
    parser.add_argument(
        "--name", help="folder of the run below runs/, {date} and {time} for those of now, UTC (default: the preset's)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and all problems; do nothing")
    return parser
