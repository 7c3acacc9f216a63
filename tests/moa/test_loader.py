"""Loader processes: the same samples, and a typed error when one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

import moa.loader
from moa.errors import LoaderError
from moa.loader import load, watched_loaders


class Numbers(Dataset):
    """Sample i is i; `trouble` happens on reading sample 3."""

    def __init__(self, trouble: str = "none"):
        self.trouble = trouble

    def __getitem__(self, i: int) -> int:
        if i == 3 and self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif i == 3 and self.trouble == "hangs":
            time.sleep(60)
        elif i == 3 and self.trouble == "bug":
            raise RuntimeError("a bug of the dataset")
        return i


def loaded(trouble: str = "none", workers: int = 1) -> list[list[int]]:
    lists = [[5, 0], [1], [2, 3], [4]]
    with watched_loaders():
        return list(load(Numbers(trouble), lists, workers=workers, pin_memory=False, collate=list))


@pytest.mark.parametrize("workers", [0, 2])
def test_lists_come_in_their_order_and_nothing_random_is_drawn(workers: int) -> None:
    before = torch.get_rng_state()
    assert loaded(workers=workers) == [[5, 0], [1], [2, 3], [4]]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are started anew where forking is not safe")
def test_processes_are_forked_whatever_python_does() -> None:
    """Started anew, as by Python 3.14, they would import all packages again."""
    batches = load(Numbers(), [[0]], workers=1, pin_memory=False, collate=list)
    assert [type(process).__name__ for process in batches._workers] == ["ForkProcess"] and list(batches) == [[0]]


def test_a_killed_loader_process_is_told() -> None:
    with pytest.raises(LoaderError, match="process ended; memory .* may have run out.*same command continues"):
        loaded("killed")


def test_it_is_told_wherever_this_process_is() -> None:
    with pytest.raises(LoaderError, match="process ended"), watched_loaders():
        batches = load(Numbers("killed"), [[0], [1], [2], [3]], workers=1, pin_memory=False, collate=list)
        assert next(batches) == [0]  # two more are prepared ahead
        assert next(batches) == [1]
        time.sleep(30)  # as a step that does not ask for samples


def test_a_hung_loader_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moa.loader, "PATIENCE", 1.0)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # and then it is not waited for
    with pytest.raises(LoaderError, match="gave no batch for 1 seconds"):
        loaded("hangs")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug of the dataset"):
        loaded("bug")


def test_an_error_nobody_catches_ends_the_process_though_its_loaders_are_alive() -> None:
    """Until now they ignored the SIGTERM of an interpreter that ends, which waited for them for ever."""
    program = (
        "import torch\nfrom moa.loader import load\n"
        "batches = load(torch.arange(9), [[i] for i in range(9)], workers=1, pin_memory=False, collate=list)\n"
        "next(batches)\nraise SystemExit('a bug')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (1, "a bug\n")


def test_a_signal_to_the_process_group_does_not_reach_them_but_the_end_of_their_parent_does() -> None:
    """torchrun sends SIGTERM to a rank's group; the step under way still needs its samples."""
    program = (
        "import os, signal, sys, time, torch\nfrom moa.loader import load\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "batches = load(torch.arange(99), [[i] for i in range(99)], workers=1, pin_memory=False, collate=list)\n"
        "next(batches)\nos.killpg(os.getpgrp(), signal.SIGTERM)\n"
        "print(len(list(batches)) or None, flush=True)\n"
        "batches = load(torch.arange(99), [[i] for i in range(99)], workers=1, pin_memory=False, collate=list)\n"
        "next(batches)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.read() == "98\n"  # to the end: nobody holds the pipe any more
    assert process.wait(timeout=60) == -signal.SIGKILL
