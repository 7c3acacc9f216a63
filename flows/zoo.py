"""The model zoo of the miniature world, from nothing: `python -m flows.zoo`, or `make zoo` (hours on a CPU, minutes on
a GPU).

1. pictures: datasets/miniature-zoo.yaml, miniature-identities.yaml and miniature-photos.yaml -> data/
2. frozen models: zoo/base, zoo/clip, zoo/attributes, zoo/identity, zoo/community (`moa.zoo`)
3. adapters: zoo/moa and the ablations zoo/single-branch, zoo/no-spacetime, by the ordinary `moa.train` on photos

Models that need nothing of each other are trained side by side, each in a process of its own (STAGES). What is finished
is left alone: its `card.json` is there, as every shipped model's is. To train one again delete its folder (and those of
the models trained on it), or give `--zoo elsewhere`. What was interrupted goes on from its state in `<zoo>/.work`. A
plain script, no Prefect flow: it runs when the world or a recipe changes, not on a schedule.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.child import Child
from flows.files import read_json, write_json
from flows.prefect_environment import PROJECT
from flows.settings import data_root
from moa.config import MoAConfig
from moa.train_config import FREE_KEYS, TrainConfig

PICTURES = ("miniature-zoo", "miniature-identities", "miniature-photos")


@dataclass(frozen=True)
class Phase:
    """One training run of an adapter. The rate of a run is constant; a second run at a lower one ends smoothly."""

    steps: int
    learning_rate: float
    masked_loss_probability: float
    lambda_object: float = 1e-2


MOA = MoAConfig(image_dim=128)
# The first phase teaches the person (foreground only, as the paper trains). In a model this small the person then grows
# over the scene, and what people hold, which is no part of them, is unlearnt; so the later phases look at the whole
# picture, at last nearly always. The weight of the object loss, too, ends at the paper's 1e-4: the tokens of two people
# are pulled apart in few steps by 1e-2, and stay apart. The ablations are trained as long.
PHASES = (
    Phase(1000, 1e-3, 1.0),
    Phase(500, 3e-4, 0.5),
    Phase(700, 4e-4, 0.1),
    Phase(900, 3e-4, 0.1),
    Phase(1260, 3e-4, 0.1, lambda_object=1e-4),
)
ADAPTERS = {
    "moa": MOA,
    "no-spacetime": MOA.model_copy(update={"spacetime": False}),
    "single-branch": MOA.model_copy(update={"architecture": "single_branch"}),
}
MEASURING = threading.Lock()  # held while an adapter is measured (_quality)
RUNNING: set[Child] = set()  # processes that _call waits for
GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL: time to save a state
PART_OF = {"vae": "base"}  # a recipe that makes a part of another one's model
STAGES = (("clip", "vae", "attributes", "identity"), ("base",), (*ADAPTERS, "community"))


@dataclass(frozen=True)
class Job:
    """Where the zoo goes, the factor of all numbers of steps, an earlier zoo to train further, and how many processes
    there may be at a time."""

    zoo: Path
    scale: float = 1.0
    start: Path | None = None
    processes: int = 1

    def threads(self, stage: Sequence[str]) -> int:
        """Of each process of a stage, so that they share the processors."""
        return max(1, self.processes // max(1, len(stage)))

    def finished(self, name: str) -> bool:
        """Whether the model is there, so that nothing is to be trained."""
        return (self.zoo / PART_OF.get(name, name) / "card.json").is_file()


def draw(name: str) -> None:
    """The pictures of one declaration."""
    _call(name, "preprocessing", str(PROJECT / "datasets" / f"{name}.yaml"), "--out", str(data_root() / name))


def train_frozen(name: str, job: Job, threads: int) -> None:
    """One model that adapters find ready: a recipe of `moa.zoo`."""
    scenes, identities = data_root() / PICTURES[0], data_root() / PICTURES[1]
    places = ["--scenes", scenes, "--identities", identities, "--out", job.zoo]
    start = ["--start-from", job.start] if job.start else []
    options = ["--only", name, "--scale", job.scale, *start]
    _call(name, "moa.zoo", *map(str, [*places, *options]), threads=threads)


def adapter_config(moa: MoAConfig, phase: Phase, zoo: Path, shards: Path, init: Path | None) -> TrainConfig:
    """How an adapter of the zoo is trained: from scratch, so at a higher learning rate than warm-started runs use."""
    return TrainConfig(
        shards=shards,
        base=zoo / "base",
        image_encoder=zoo / "clip",
        init=init,
        latent_cache=data_root() / "latents",
        moa=moa,
        steps=phase.steps,
        global_batch=16,
        learning_rate=phase.learning_rate,
        warmup=100,
        ema_decay=0.998,
        lambda_router=5e-4,
        lambda_object=phase.lambda_object,
        condition_dropout=0.1,
        masked_loss_probability=phase.masked_loss_probability,
        max_timestep=1000,
        checkpoint_every=200,
        log_every=20,
    )


def train_adapter(name: str, job: Job, threads: int) -> None:
    """Train an adapter's phases in `<zoo>/.work/<name>-<phase>`, copy the last export to `<zoo>/<name>` with a card. An
    earlier zoo's is trained further, by the last phase."""
    from moa.zoo.fit import state_folder  # here: torch is loaded for this only
    from moa.zoo.hardware import precision

    target, shards = job.zoo / name, data_root() / PICTURES[2]
    export = job.start / name if job.start else None
    moa, chosen = ADAPTERS[name], PHASES[-1:] if job.start else PHASES
    phases = [replace(phase, steps=max(1, round(phase.steps * job.scale))) for phase in chosen]
    works = [job.zoo / ".work" / f"{name}-{number}" for number in range(1, len(phases) + 1)]
    for phase, work in zip(phases, works, strict=True):
        here = {"out": work, "precision": precision(), "num_threads": threads}
        config = adapter_config(moa, phase, job.zoo, shards, export).model_copy(update=here)
        write_json(state_folder(work, _made_from(config)) / "config.json", config.model_dump(mode="json"))
        _call(name, "moa.train", str(work / "config.json"), threads=threads)
        export = work / "export"
    shutil.copytree(works[-1] / "export", target, dirs_exist_ok=True)
    manifest = read_json(target / "manifest.json")
    card = {
        "recipe": f"flows.zoo {name}",
        "seed": 0,
        "steps": [phase.steps for phase in phases],
        "seconds": round(sum(map(_seconds, works))),
        "continued_from": _earlier(job.start / name) if job.start else None,
        "quality": {key: round(x, 4) for key, x in _quality(target, moa, job.zoo, shards).items()},
        "licence": "CC0-1.0",
    }
    write_json(target / "card.json", card | {key: manifest[key] for key in ("commit", "inputs")})
    for work in works:
        shutil.rmtree(work)


def _made_from(config: TrainConfig) -> dict[str, Any]:
    """What the state of a phase depends on: its settings, and the models and pictures that it starts from."""
    settings = config.model_dump(mode="json", exclude=set(FREE_KEYS - {"steps"}))
    records = [config.base / "card.json", config.image_encoder / "card.json", config.shards / "manifest.json"]
    inputs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in records if path.is_file()]
    manifest = read_json(config.init / "manifest.json") if config.init else {}
    return {"settings": settings, "inputs": inputs, "init": manifest.get("digest")}


def _quality(adapter: Path, moa: MoAConfig, zoo: Path, shards: Path) -> dict[str, float]:
    """By one thread at a time: while transformers and diffusers load a model, torch's defaults are others in the whole
    process."""
    from moa.zoo.held_out import measure_adapter  # here: torch is loaded for this only

    with MEASURING:
        return measure_adapter(adapter, moa, zoo / "base", zoo / "clip", shards)


def _earlier(adapter: Path) -> dict[str, object]:
    """What a card says of the adapter it was trained from."""
    card = read_json(adapter / "card.json")
    return {key: card.get(key) for key in ("commit", "steps", "continued_from")}


def _seconds(run: Path) -> float:
    """How long a training took, over all its calls."""
    return float(json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["seconds"])


def _call(name: str, module: str, *arguments: str, threads: int = 0) -> None:
    """Run a module of the project in a process of its own and print what it says behind `name`; its exit status is ours
    when it fails. `threads` 0: as many as it likes."""
    environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    child = Child([sys.executable, "-m", module, *arguments], subprocess.PIPE, environment, PROJECT)
    RUNNING.add(child)
    try:
        with child.output as lines:
            for line in lines:
                print(f"{name}: {line}", end="", flush=True)
    finally:
        RUNNING.remove(child)
        child.end(GRACE_SECONDS)
    if child.status:
        sys.exit(child.status)


def train_stage(stage: Sequence[str], job: Job) -> None:
    """All models of a stage, side by side; a failure lets the others finish and ends the program, Ctrl-C ends all."""
    threads = job.threads(stage)
    with ThreadPoolExecutor(job.processes) as crew:
        made = [crew.submit(train_adapter if x in ADAPTERS else train_frozen, x, job, threads) for x in stage]
        try:
            wait(made)
        except KeyboardInterrupt:
            _end(made)
            raise
    for model in made:
        model.result()


def _end(made: Sequence[Future[None]]) -> None:
    """Ends what is being made: a thread whose process has ended ends, too."""
    while not all([model.cancel() or model.done() for model in made]):
        for child in tuple(RUNNING):
            child.end(GRACE_SECONDS)
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, default=PROJECT / "zoo", help="where the models go (default zoo/)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all numbers of steps (default 1)")
    parser.add_argument(
        "--start-from", type=Path, help="an earlier zoo whose clip, base and adapters are trained further"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="trainings at a time (default: one for each CPU)"
    )
    names = [name for stage in STAGES for name in stage]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="MODEL", help=f"of {', '.join(names)}"
    )
    arguments = parser.parse_args()
    start = arguments.start_from and arguments.start_from.absolute()
    job = Job(arguments.zoo.absolute(), arguments.scale, start, max(1, arguments.processes))
    missing = [[name for name in stage if name in arguments.only and not job.finished(name)] for stage in STAGES]
    for name in names:
        if name in arguments.only and name not in PART_OF and job.finished(name):
            print(f"{job.zoo / name}: up to date; to train it again delete the folder, or give --zoo elsewhere")
    if not any(missing):
        return
    for name in PICTURES:
        draw(name)
    for stage in missing:
        train_stage(stage, job)


if __name__ == "__main__":
    main()
