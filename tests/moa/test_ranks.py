"""Real processes under torchrun: they train like one, skip and stop together, and die with their launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from moa import checkpoint
from moa.train_config import TrainConfig
from tests.moa.training import MakeConfig, metrics, poison, run, tensors

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
POISONED = str(Path(__file__).with_name("poisoned_rank.py"))
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts Python on the configuration in another process; whatever the test left running is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(config: TrainConfig, *program: str) -> subprocess.Popen[str]:
        config.run_folder.mkdir(parents=True, exist_ok=True)
        path = config.run_folder / "config.json"
        path.write_text(config.model_dump_json())
        command = [sys.executable, *program, str(path)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        running.append(
            subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()  # ranks die with torchrun
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Reads the output up to a line with `text`."""
    while text not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


@pytest.mark.slow
def test_two_ranks_skip_together_and_train_like_one(
    make_config: MakeConfig, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """poisoned_rank.py poisons step 2 on rank 1 alone."""
    alone, pair = (make_config(steps=4, ema_decay=0.9, out=make_config().out / name) for name in ("alone", "pair"))
    process = launch(pair, *TORCHRUN, POISONED)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines() if line.startswith('{"event"')]
    assert [e["step"] for e in events if e["event"] == "skipped"] == [2]
    poison(monkeypatch, {2})
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, 4).items(), tensors(pair, 4).values(), strict=True):
        # A router starts at zero, its first gradients are small differences of large sums: rounding shows there most.
        atol = 5e-6 if ".router." in name else 1e-6
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=atol, msg=name)
    for one, two in zip(metrics(alone), metrics(pair), strict=True):
        assert one["step"] in (1, 3, 4) and one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.slow
def test_sigterm_saves_on_all_ranks_and_one_rank_finishes_the_work(make_config: MakeConfig, launch: Launch) -> None:
    """torchrun passes SIGTERM on to the whole process group of each rank, loader processes included."""
    whole = make_config(steps=100_000, checkpoint_every=100_000, num_workers=1)
    process = launch(whole, *TORCHRUN, "-m", "moa.train")
    wait_for(process, '"step": 5,')
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert '"event": "stopped"' in out, err
    found = checkpoint.latest(whole.run_folder / "checkpoints")
    assert found.step >= 5
    steps = found.step + 2
    assert run(whole.model_copy(update={"steps": steps, "num_workers": 0})) == 0
    alone = make_config(steps=steps, out=make_config().out / "alone")
    run(alone)
    for (name, expected), tensor in zip(tensors(alone, steps).items(), tensors(whole, steps).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_sigterm_to_a_single_process_exits_143(make_config: MakeConfig, launch: Launch) -> None:
    config = make_config(steps=100_000, checkpoint_every=100_000)
    process = launch(config, "-m", "moa.train")
    wait_for(process, '"loss"')
    process.terminate()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "stopped" and checkpoint.latest(config.run_folder / "checkpoints").step == last["step"]
