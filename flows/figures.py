"""The figures of the shipped zoo, from its weights alone: `python -m flows.figures`, or `make figures`.

1. pictures: datasets/miniature.yaml -> data/miniature      2. the zoo as a pipeline -> runs/zoo/pipeline
3. prior, MoA, ablations and community base on the suite miniature-40 -> runs/zoo/evaluation/miniature-40
4. runs/zoo/report/index.html, with the table of claims, whose path is printed at the end

Nothing is trained. An interrupted call goes on; a finished one is up to date. A plain script, as `flows.zoo`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.child import Child
from flows.prefect_environment import PROJECT
from flows.settings import data_root, runs_root
from flows.zoo import GRACE_SECONDS

ABLATIONS = {"without MoA layers": "single-branch", "without spacetime encoding": "no-spacetime"}
COMMUNITY = {"comic base": "community"}
NOT_ALL_SCORED = 2  # exit status of moa.evaluation.run: the rest is scored, and the report says so


def evaluation_arguments(pipeline: Path, zoo: Path, suite: Path, out: Path, devices: Sequence[str]) -> list[str]:
    """The command line of `moa.evaluation.run`."""
    arguments = ["--pipeline", pipeline, "--suite", suite, "--shards", data_root() / "miniature", "--out", out]
    for option, folders in (("--ablation", ABLATIONS), ("--community", COMMUNITY)):
        arguments += [word for label, name in folders.items() for word in (option, f"{label}={zoo / name}")]
    return [str(word) for word in arguments] + [word for device in devices for word in ("--device", device)]


def write_zoo_pipeline(zoo: Path, folder: Path) -> None:
    """The shipped base, adapter and image encoder as one pipeline folder, at the precision they are shipped in."""
    import torch

    from moa.pipeline import MoAPipeline

    pipeline = MoAPipeline.from_base(zoo / "base", zoo / "moa", zoo / "clip", torch_dtype=torch.float16)
    pipeline.save_pretrained(folder)


def _call(module: str, *arguments: str, accepted: tuple[int, ...] = (0,)) -> int:
    child = Child([sys.executable, "-m", module, *arguments], output=None, folder=PROJECT)
    try:
        status = child.status
    finally:
        child.end(GRACE_SECONDS)
    if status not in accepted:
        sys.exit(status)
    return status


def main() -> int:
    from moa.evaluation.workers import devices_here  # here: torch

    parser = argparse.ArgumentParser(
        prog="python -m flows.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suite = PROJECT / "datasets/suites/miniature-40.yaml"
    parser.add_argument("--suite", type=Path, default=suite, help="its declaration (default miniature-40)")
    parser.add_argument("--zoo", type=Path, default=PROJECT / "zoo", help="the models (default zoo/)")
    given = parser.parse_args()
    run = runs_root() / "zoo"
    _call("preprocessing", str(PROJECT / "datasets/miniature.yaml"), "--out", str(data_root() / "miniature"))
    write_zoo_pipeline(given.zoo, run / "pipeline")
    out = run / "evaluation" / given.suite.stem
    arguments = evaluation_arguments(run / "pipeline", given.zoo, given.suite, out, devices_here(run / "pipeline"))
    status = _call("moa.evaluation.run", *arguments, accepted=(0, NOT_ALL_SCORED))
    _call("reports", str(run))
    return status


if __name__ == "__main__":
    sys.exit(main())
