"""One buffer for all gradients; ranks that end with their launcher; one rank per GPU."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from moa import distributed
from moa.distributed import GradientBuffer, Ranks, StopRequest, ranks
from moa.errors import TrainConfigError


def launched(
    monkeypatch: pytest.MonkeyPatch, *, gpus: int, rank: int = 0, world: int = 4, local: int = 0, per_node: int = 4
) -> SimpleNamespace:
    """This process as a rank that torchrun has started on a machine with `gpus` GPUs. What it then asks for: its
    `current` GPU, and how it `joined` the process group."""
    calls = SimpleNamespace(current=None, joined={})
    for name, value in {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": per_node}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "somebody")
    monkeypatch.setattr(distributed, "die_with_parent", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(calls, "current", device))
    group = SimpleNamespace(
        init_process_group=lambda backend, **options: calls.joined.update(backend=backend, **options),
        destroy_process_group=lambda: None,
    )
    monkeypatch.setattr(distributed, "dist", group)
    return calls


def test_gradient_buffer_is_where_the_gradients_are() -> None:
    layer, unused = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.ones(5))
    parameters = [*layer.parameters(), unused]
    buffer = GradientBuffer(parameters, extra=2)
    for _ in range(2):
        layer(torch.ones(4, 3)).sum().backward()
    assert buffer.gradients.tolist() == [8.0] * 8 + [0.0] * 5
    buffer.extra.fill_(100.0)  # logged sums and a flag: neither part of the norm nor scaled
    assert buffer.clip_(1000.0).item() == pytest.approx(8 * math.sqrt(8))
    assert buffer.gradients.tolist() == [8.0] * 8 + [0.0] * 5
    assert buffer.clip_(1.0).item() == pytest.approx(8 * math.sqrt(8))
    assert torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in parameters])).item() == pytest.approx(1.0)
    assert buffer.extra.tolist() == [100.0, 100.0]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux only")
def test_a_rank_dies_with_its_launcher() -> None:
    rank = "import moa.distributed as d, time; d.die_with_parent(); print('ready', flush=True); time.sleep(600)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert process.stdout.read() == ""  # the pipe closes when its last holder, the rank, is gone


def test_more_ranks_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, gpus=2)
    with pytest.raises(TrainConfigError, match="4 ranks on a machine with 2 GPU.*--nproc_per_node 2"), ranks():
        pass


def test_on_two_machines_each_rank_has_a_gpu_of_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = launched(monkeypatch, gpus=2, rank=3, local=1, per_node=2)
    with ranks() as here:
        assert (here.rank, here.world, here.first, here.device) == (3, 4, False, torch.device("cuda", 1))
    assert calls.current == calls.joined["device_id"] == here.device


@pytest.mark.parametrize(("others", "own", "agreed"), [(1, False, True), (0, True, True), (0, False, False)])
def test_one_rank_that_says_so_is_enough(others: int, own: bool, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: tensor.add_(others))
    assert Ranks(rank=1, world=3, device=torch.device("cpu")).any(own) is agreed


def test_the_first_ranks_number_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: summed.append(tensor.item()))
    first, second = (Ranks(rank, world=2, device=torch.device("cpu")) for rank in range(2))
    assert first.from_first(7) == 7
    second.from_first(9)
    assert summed == [7, 0]


def test_a_stop_is_heard_while_it_is_listened_for() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().listening() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("gpus", "backend", "hours"), [(0, "gloo", 5), (4, "nccl", 0)])
def test_ranks_on_cpus_wait_while_another_encodes_a_part(
    gpus: int, backend: str, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 images of 512 pixels at half a minute each; Stable Diffusion's autoencoder took more on two loaded cores."""
    calls = launched(monkeypatch, gpus=gpus)
    with ranks():
        pass
    waits = calls.joined["timeout"]
    assert calls.joined["backend"] == backend
    assert waits > timedelta(hours=hours) and (backend == "gloo" or waits < timedelta(hours=1))


def test_a_lone_process_is_rank_0_whatever_is_left_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 1 it would take all steps and write nothing."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "7")
    with ranks() as here:
        assert here.first and here.world == 1


def test_ranks_of_another_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainConfigError, match="WORLD_SIZE is 2, but torchrun did not start this process"), ranks():
        pass
