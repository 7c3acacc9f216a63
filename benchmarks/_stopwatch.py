"""How the benchmarks measure time: methods take turns, the first round warms up, medians are reported: of the seconds,
and of the shares that methods took of each other's time within a round, as a machine's pace changes between rounds.

On a CPU it is process CPU time on one thread, so other programs on the machine disturb little; on a GPU the time
between two events of its stream.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# Dense bfloat16 peak of a GPU, in TFLOP/s, by a part of its name (data sheets; SXM versions).
PEAK_TFLOPS = {"H100": 989.4, "H200": 989.4, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "4090": 165.2}


def settle(device: torch.device) -> None:
    """One thread and fixed random numbers; a GPU becomes the current one, on whose stream `seconds` records events."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """How long one call takes."""
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def take_turns(ways: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way in each of `rounds` rounds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            taken[name].append(seconds(call, device))
    return {name: values[1:] for name, values in taken.items()}


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each way."""
    return {name: statistics.median(values) for name, values in taken.items()}


def shares(taken: Mapping[str, list[float]], of: str) -> dict[str, float]:
    """How much of the time of the way `of` each way takes: the median over the rounds."""
    return {
        name: round(statistics.median(a / b for a, b in zip(values, taken[of], strict=True)), 3)
        for name, values in taken.items()
    }


def captured(
    call: Callable[[], Any], device: torch.device, before: Callable[[], Any] = lambda: None
) -> Callable[[], None]:
    """The call's kernels as a CUDA graph: the same work, without the time a CPU takes to launch it. `before` each of
    the two calls it takes to get there."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            before()
            call()  # what is made once is made now
        torch.cuda.current_stream().wait_stream(side)
        before()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "device": name, "load_average": round(os.getloadavg()[0], 2)}


def utilisation(flops: float, taken: float, device: torch.device) -> float | None:
    """MFU: the share of the GPU's bfloat16 peak; None where the peak is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return peak and round(flops / taken / (peak * 1e12), 3)
