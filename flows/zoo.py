"""The model zoo of the miniature world, from nothing: `python -m flows.zoo`, or `make zoo` (hours on a CPU).

1. pictures: datasets/miniature-zoo.yaml, datasets/miniature-identities.yaml -> data/
2. frozen models: zoo/base, zoo/clip, zoo/identity (`moa.zoo`)
3. adapters: zoo/moa and the ablation zoo/single-branch, by the ordinary `moa.train`

What is finished is left alone (its `card.json` is there), what was interrupted goes on; delete a model's folder to
train it again. A plain script, no Prefect flow: it runs when the world or a recipe changes, not on a schedule.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from flows.files import read_json, write_json
from flows.prefect_environment import PROJECT
from flows.settings import data_root, runs_root
from moa.config import MoAConfig
from moa.train_config import TrainConfig

ADAPTERS = {
    "moa": (MoAConfig(image_dim=128), 2000),
    "single-branch": (MoAConfig(image_dim=128, architecture="single_branch"), 700),
}


def adapter_config(name: str, zoo: Path, shards: Path) -> TrainConfig:
    """How an adapter of the zoo is trained from scratch: a higher learning rate than warm-started runs use."""
    moa, steps = ADAPTERS[name]
    # Rows without conditions run the frozen prior: they would train nothing of a mixture, but do train a single branch.
    dropout = 0.0 if moa.architecture == "moa" else 0.1
    return TrainConfig(
        shards=shards,
        base=zoo / "base",
        image_encoder=zoo / "clip",
        moa=moa,
        steps=steps,
        global_batch=32,
        learning_rate=5e-4,
        warmup=100,
        ema_decay=0.998,
        lambda_router=1e-3,
        lambda_object=1e-3,
        condition_dropout=dropout,
        max_timestep=1000,
        precision="bf16",
        checkpoint_every=200,
        log_every=20,
    )


def train_adapter(name: str, zoo: Path, shards: Path) -> None:
    """Train one adapter in `runs/zoo-<name>` and copy its export to `zoo/<name>` with a card."""
    target, work = zoo / name, runs_root() / f"zoo-{name}"
    if (target / "card.json").is_file():
        print(f"{target}: up to date")
        return
    config = adapter_config(name, zoo, shards).model_copy(update={"out": work})
    write_json(work / "config.json", config.model_dump(mode="json"))
    _call("moa.train", str(work / "config.json"))
    shutil.copytree(work / "export", target, dirs_exist_ok=True)
    manifest = read_json(target / "manifest.json")
    card = {"recipe": f"flows.zoo {name}", "seed": config.seed, "licence": "CC0-1.0", "quality": {}}
    write_json(target / "card.json", card | {key: manifest[key] for key in ("commit", "inputs", "step")})


def _call(module: str, *arguments: str) -> None:
    """Run a module of the project in a process of its own; its exit status is ours when it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=PROJECT / "zoo", help="where the models go (default zoo/)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of the frozen models (default 1)"
    )
    arguments = parser.parse_args()
    scenes, identities = data_root() / "miniature-zoo", data_root() / "miniature-identities"
    for folder in (scenes, identities):
        _call("preprocessing", str(PROJECT / "datasets" / f"{folder.name}.yaml"), "--out", str(folder))
    places = ["--scenes", scenes, "--identities", identities, "--out", arguments.zoo, "--work", runs_root() / "zoo"]
    _call("moa.zoo", *map(str, places), "--scale", str(arguments.scale))
    for name in ADAPTERS:
        train_adapter(name, arguments.zoo, scenes)


if __name__ == "__main__":
    main()
