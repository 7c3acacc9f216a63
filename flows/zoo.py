"""The model zoo of the miniature world, from nothing: `python -m flows.zoo`, or `make zoo` (hours on a CPU).

1. pictures: datasets/miniature-zoo.yaml, miniature-identities.yaml and miniature-photos.yaml -> data/
2. frozen models: zoo/base, zoo/clip, zoo/attributes, zoo/identity, zoo/community (`moa.zoo`)
3. adapters: zoo/moa and the ablations zoo/single-branch, zoo/no-spacetime, by the ordinary `moa.train` on photos

What is finished is left alone (its `card.json` is there), what was interrupted goes on; delete a model's folder to
train it again. A plain script, no Prefect flow: it runs when the world or a recipe changes, not on a schedule.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from flows.files import read_json, write_json
from flows.prefect_environment import PROJECT
from flows.settings import data_root, runs_root
from moa.config import MoAConfig
from moa.train_config import TrainConfig


@dataclass(frozen=True)
class Phase:
    """One training run of an adapter. The rate of a run is constant; a second run at a lower one ends smoothly."""

    steps: int
    learning_rate: float
    masked_loss_probability: float


MOA = MoAConfig(image_dim=128)
# The first phase teaches the person (foreground only, as the paper trains). In a model this small the person then grows
# over the scene, and what people hold, which is no part of them, is unlearnt; so the later phases look at the whole
# picture, at last nearly always. The ablations are trained as long.
PHASES = (Phase(1000, 1e-3, 1.0), Phase(500, 3e-4, 0.5), Phase(700, 4e-4, 0.1), Phase(900, 3e-4, 0.1))
ADAPTERS = {
    "moa": MOA,
    "no-spacetime": MOA.model_copy(update={"spacetime": False}),
    "single-branch": MOA.model_copy(update={"architecture": "single_branch"}),
}


def adapter_config(moa: MoAConfig, phase: Phase, zoo: Path, shards: Path, init: Path | None) -> TrainConfig:
    """How an adapter of the zoo is trained: from scratch, so at a higher learning rate than warm-started runs use."""
    return TrainConfig(
        shards=shards,
        base=zoo / "base",
        image_encoder=zoo / "clip",
        init=init,
        moa=moa,
        steps=phase.steps,
        global_batch=16,
        learning_rate=phase.learning_rate,
        warmup=100,
        ema_decay=0.998,
        lambda_router=5e-4,
        lambda_object=1e-2,  # the paper's is 1e-4: here 3,100 steps have to pull the tokens of two people apart
        condition_dropout=0.1,
        masked_loss_probability=phase.masked_loss_probability,
        max_timestep=1000,
        precision="bf16",
        num_threads=1,
        checkpoint_every=200,
        log_every=20,
    )


def train_adapter(name: str, zoo: Path, shards: Path, processes: int, scale: float = 1.0) -> None:
    """Train an adapter's phases in `runs/zoo-<name>-<phase>`, copy the last export to `zoo/<name>` with a card."""
    target = zoo / name
    if (target / "card.json").is_file():
        print(f"{target}: up to date")
        return
    moa = ADAPTERS[name]
    export = None
    phases = [replace(phase, steps=max(1, round(phase.steps * scale))) for phase in PHASES]
    for number, phase in enumerate(phases, start=1):
        work = runs_root() / f"zoo-{name}-{number}"
        config = adapter_config(moa, phase, zoo, shards, export).model_copy(update={"out": work})
        write_json(work / "config.json", config.model_dump(mode="json"))
        launcher = ["--standalone", "--nproc-per-node", str(processes), "-m", "moa.train"]
        _call("torch.distributed.run", *launcher, str(work / "config.json"))
        export = work / "export"
    assert export is not None
    shutil.copytree(export, target, dirs_exist_ok=True)
    manifest = read_json(target / "manifest.json")
    card = {
        "recipe": f"flows.zoo {name}",
        "seed": 0,
        "steps": [phase.steps for phase in phases],
        "seconds": round(sum(_seconds(runs_root() / f"zoo-{name}-{k}") for k in range(1, len(phases) + 1))),
        "quality": {key: round(x, 4) for key, x in _quality(target, moa, zoo, shards).items()},
        "licence": "CC0-1.0",
    }
    write_json(target / "card.json", card | {key: manifest[key] for key in ("commit", "inputs")})


def _quality(adapter: Path, moa: MoAConfig, zoo: Path, shards: Path) -> dict[str, float]:
    from moa.zoo.held_out import measure_adapter  # here: torch is loaded for this only

    return measure_adapter(adapter, moa, zoo / "base", zoo / "clip", shards)


def _seconds(run: Path) -> float:
    """How long a training took, over all its calls."""
    return float(json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["seconds"])


def _call(module: str, *arguments: str) -> None:
    """Run a module of the project in a process of its own; its exit status is ours when it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=PROJECT / "zoo", help="where the models go (default zoo/)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all numbers of steps (default 1)")
    parser.add_argument("--start-from", type=Path, help="an earlier zoo whose clip and base are trained further")
    parser.add_argument("--processes", type=int, default=2, help="training processes of the adapters (default 2)")
    arguments = parser.parse_args()
    scenes, identities = data_root() / "miniature-zoo", data_root() / "miniature-identities"
    photos = data_root() / "miniature-photos"
    for folder in (scenes, identities, photos):
        _call("preprocessing", str(PROJECT / "datasets" / f"{folder.name}.yaml"), "--out", str(folder))
    places = ["--scenes", scenes, "--identities", identities, "--out", arguments.zoo, "--work", runs_root() / "zoo"]
    start = ["--start-from", str(arguments.start_from)] if arguments.start_from else []
    _call("moa.zoo", *map(str, places), "--scale", str(arguments.scale), *start)
    for name in ADAPTERS:
        train_adapter(name, arguments.zoo, photos, arguments.processes, arguments.scale)


if __name__ == "__main__":
    main()
