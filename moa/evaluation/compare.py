"""Two evaluations of one suite, paired image by image: is the later model better?

    python -m moa.evaluation.compare runs/a/evaluation/miniature runs/b/evaluation/miniature --out comparison.json

prints, for each method that both have, after - before with 95 % intervals over identities. Format: datasets/FORMAT.md,
section 6. Runs of different suites, versions, people, sampling or measuring models are refused. Exit status: 0
compared, 1 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from moa.errors import EvaluationError, MoAError, ScoresError
from moa.evaluation.files import write_json
from moa.evaluation.generate import Method
from moa.evaluation.score_tables import SCORES
from moa.evaluation.summary import FORMAT as EVALUATION
from moa.evaluation.summary import compare
from moa.evaluation.tables import readable
from moa.evaluation.yardstick import yardstick

FORMAT = "moa-comparison/1"
SHOWN = {
    "ip": "IP",
    "pc": "PC",
    "item_shown": "items shown",
    "scene_shown": "scenes shown",
    "context_change_outside": "scene change",
}


@dataclass(frozen=True)
class Finished:
    """A finished evaluation: its folder, suite.json, summary.json and rows."""

    folder: Path
    suite: dict[str, Any]
    summary: dict[str, Any]
    rows: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """Raises `EvaluationError` naming the file when the evaluation is unfinished, damaged or of another format."""
        if not (folder / "manifest.json").is_file():
            raise EvaluationError(f"{folder}: is no finished evaluation, it lacks manifest.json")
        suite, summary = (_read(folder / name) for name in ("suite.json", "summary.json"))
        if summary.get("format") != EVALUATION:
            raise EvaluationError(
                f"{folder / 'summary.json'}: has format {summary.get('format')}, and only {EVALUATION} can be "
                "compared: evaluate again"
            )
        return cls(folder, suite, summary, SCORES.read(folder))

    def described(self) -> dict[str, Any]:
        origin = {key: self.summary["provenance"].get(key) for key in ("commit", "adapter_digest")}
        return {"folder": str(self.folder), **origin, "precision": self.summary["environment"].get("precision")}

    def yardstick(self) -> dict[str, Any]:
        """What the scores depend on besides the model."""
        evaluators, preparer = (self.summary["provenance"].get(name) for name in ("evaluators", "preparer"))
        return yardstick(self.suite, evaluators or {}, preparer, self.summary["environment"].get("expert_interval"))

    def methods(self) -> dict[str, Method]:
        return {m["method"]: Method(m["method"], m["label"], m["kind"], "") for m in self.summary["methods"]}


def compare_runs(before: Path, after: Path) -> dict[str, Any]:
    """The content of the comparison. Raises `EvaluationError` where the two cannot be compared."""
    one, other = Finished.read(before), Finished.read(after)
    ours, theirs = one.yardstick(), other.yardstick()
    for name in max(ours, theirs, key=len):  # one may name a preparer where the other has none
        part, their = ours.get(name), theirs.get(name)
        if part != their:
            which = "" if name == "people" else f" ({part} and {their})"
            raise EvaluationError(
                f"{before} and {after}: their {name} differ{which}, so their scores do not compare: evaluate the "
                "earlier model again, on what the later one was"
            )
    methods = {name: method for name, method in other.methods().items() if name in one.methods()}
    if not methods:
        raise EvaluationError(f"{before} and {after} have no method in common")
    return {
        "format": FORMAT,
        "suite": one.suite["name"],
        "version": one.suite["version"],
        "before": one.described(),
        "after": other.described(),
        "methods": [
            {"method": name, "label": method.label} | _compared(one.rows, other.rows, method)
            for name, method in methods.items()
        ],
    }


def _compared(before: pd.DataFrame, after: pd.DataFrame, method: Method) -> dict[str, Any]:
    tables = [rows[rows["method"] == method.name] for rows in (before, after)]
    keys = [set(table[SCORES.key].itertuples(index=False, name=None)) for table in tables]
    if keys[0] != keys[1]:
        alone = len(keys[0] ^ keys[1])
        raise ScoresError(
            f"{alone} rows of {method.label} are in one run only: were both finished on the same prompts?"
        )
    return compare(*(readable(table, method) for table in tables))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); run the evaluation again") from error


def _print_table(comparison: dict[str, Any]) -> None:
    before, after = comparison["before"], comparison["after"]
    print(f"{comparison['suite']} {comparison['version']}: {after['folder']} minus {before['folder']}")
    if before["precision"] != after["precision"]:
        print(f"made in {after['precision']} and {before['precision']}: part of the difference may be that")
    columns = {name: said for name, said in SHOWN.items() if any(m[name] for m in comparison["methods"])}
    print(f"{'method':<32} {'n':>6}" + "".join(f" {said:>27}" for said in columns.values()))
    for method in comparison["methods"]:
        print(f"{method['label']:<32} {method['n']:>6}" + "".join(f" {_said(method[name]):>27}" for name in columns))


def _said(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    bounds = "" if found["low"] is None else f" ({found['low']:+.3f} to {found['high']:+.3f})"
    return f"{found['mean']:+.3f}{bounds}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moa.evaluation.compare", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="runs/<name>/evaluation/<suite> of the earlier model")
    parser.add_argument("after", type=Path, help="the same of the later one")
    parser.add_argument("--out", type=Path, help="JSON file to write the comparison into")
    given = parser.parse_args(arguments)
    try:
        comparison = compare_runs(given.before, given.after)
        _print_table(comparison)
        if given.out:
            print(write_json(given.out, comparison))
    except MoAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {given.out} cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
