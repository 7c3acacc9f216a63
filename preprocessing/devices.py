"""The devices on which annotators compute. Imports torch, so only declarations with such annotators come here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from preprocessing.errors import PreprocessingError


def devices_here() -> tuple[str, ...]:
    """Every GPU that PyTorch can use, else the CPU once: one process uses all of its threads."""
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)


def check_devices(devices: Sequence[str]) -> None:
    """Raises PreprocessingError naming a device that is unknown or absent."""
    for device in devices:
        try:
            if (found := torch.device(device)).type != "cuda":
                torch.empty(0, device=found)
            elif (found.index or 0) >= (gpus := torch.cuda.device_count()):  # to try one would take memory of it
                raise RuntimeError(f"PyTorch can use {gpus} GPUs")
        except (RuntimeError, AssertionError) as error:
            raise PreprocessingError(f"device {device!r} cannot be used here: {error}".splitlines()[0]) from error


def share_of_threads(processes: int) -> int:
    """How many threads each of so many processes may use."""
    return max(1, torch.get_num_threads() // processes)


def keep_to(device: str, threads: int) -> None:
    """Let this process use so many threads, and memory of no other GPU: each would take some of the first."""
    torch.set_num_threads(threads)
    if (found := torch.device(device)).type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)
