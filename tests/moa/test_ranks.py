"""Real processes under torchrun: they are refused, skip and stop together, and train like one."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from moa import checkpoint
from moa.run_folder import LOCK
from moa.train_config import TrainConfig
from tests.moa.training import MakeConfig, metrics, poison, run, tensors, tiny_config

PROGRAM = str(Path(__file__).with_name("ranks_in_turn.py"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True)
class Launched:
    """What two ranks did with three configurations (ranks_in_turn.py), and what they and their launcher said."""

    refused: TrainConfig
    pair: TrainConfig
    endless: TrainConfig
    returncode: int
    out: str
    err: str


@pytest.fixture(scope="module")
def launched(base: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """torchrun gets SIGTERM when the ranks have done step 5 of the last training. Its folders may be trained on."""
    folder = tmp_path_factory.mktemp("ranks")

    def make(name: str, **changes: object) -> TrainConfig:
        return tiny_config(base, shards=shards, out=folder / name, **changes)

    refused, pair = make("refused"), make("pair", steps=4, ema_decay=0.9)
    endless = make("endless", steps=100_000, checkpoint_every=100_000, num_workers=1)
    configs = (refused, pair, endless)
    for config in configs:
        config.run_folder.mkdir(parents=True)
        (config.run_folder / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, *TORCHRUN, PROGRAM, *(str(config.run_folder / "config.json") for config in configs)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with (
        open(refused.run_folder / LOCK, "a") as lock,
        open(folder / "err", "w+") as err,
        subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=err) as process,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        out, deadline = "", threading.Timer(300, process.kill)  # ranks die with torchrun
        deadline.start()
        try:
            for line in process.stdout:
                out += line
                if '"step": 5,' in line:  # only the endless training has so many
                    process.send_signal(signal.SIGTERM)
            process.wait()
        finally:
            deadline.cancel()
            process.kill()
        return Launched(*configs, process.returncode, out, (folder / "err").read_text())


def statuses(config: TrainConfig) -> list[str]:
    """What the two ranks ended with."""
    return [(config.run_folder / f"status-of-rank-{rank}").read_text() for rank in (0, 1)]


@pytest.mark.slow
def test_two_ranks_are_refused_together_with_a_message(launched: Launched) -> None:
    """By the lock of the run folder, which rank 0 alone tries to take."""
    assert statuses(launched.refused) == ["1", "1"], launched.err
    assert "rank 0: RunFolderError: " in launched.err and "is in use by another training" in launched.err
    assert not (launched.refused.run_folder / "metrics.jsonl").exists()


@pytest.mark.slow
def test_two_ranks_skip_together_and_train_like_one(
    launched: Launched, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ranks_in_turn.py poisons step 2 on rank 1 alone."""
    assert statuses(launched.pair) == ["0", "0"], launched.err
    events = [json.loads(line) for line in launched.out.splitlines() if line.startswith('{"event"')]
    assert [e["step"] for e in events if e["event"] == "skipped"] == [2]
    alone, pair = make_config(steps=4, ema_decay=0.9), launched.pair
    poison(monkeypatch, {2})
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, 4).items(), tensors(pair, 4).values(), strict=True):
        # A router starts at zero, its first gradients are small differences of large sums: rounding shows there most.
        # AdamW takes it for a direction; a whole step is 5e-5.
        atol = 1e-5 if ".router." in name else 1e-6
        torch.testing.assert_close(
            tensor, expected, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
    for one, two in zip(metrics(alone), metrics(pair), strict=True):
        assert one["step"] in (1, 3, 4) and one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.slow
def test_sigterm_saves_on_all_ranks_and_one_rank_finishes_the_work(launched: Launched, make_config: MakeConfig) -> None:
    """torchrun passes SIGTERM on to the whole process group of each rank, loader processes included."""
    assert launched.returncode != 0 and statuses(launched.endless) == ["143", "143"]
    assert '"event": "stopped"' in launched.out, launched.err
    whole = launched.endless
    found = checkpoint.latest(whole.run_folder / "checkpoints")
    assert found.step >= 5
    steps = found.step + 2
    assert run(whole.model_copy(update={"steps": steps, "num_workers": 0})) == 0
    alone = make_config(steps=steps)
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, steps).items(), tensors(whole, steps).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5, msg=name)
