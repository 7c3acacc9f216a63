"""A GPU that is not there: shapes, types and devices are computed, values are not.

    with AbsentGPU() as gpu:
        models, batch = gpu.move(models), gpu.move(batch)
        training_losses(models, batch, config)
    assert not gpu.waits

Operations that mix devices fail as they do on a real one. Backward passes need a real one: `loss.backward()` does not
run here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)


class AbsentGPU:
    """Inside its `with` block tensors have no values; `waits` names each operation for which the host would wait."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._watch = _Watch(self.waits)

    def __enter__(self) -> AbsentGPU:
        self._fake.__enter__()
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)
        self._fake.__exit__(*error)

    def move(self, value: Any) -> Any:
        """The tensor, module (changed in place) or dataclass of them on the device; the copies do not count."""
        before = list(self.waits)
        if isinstance(value, Tensor):
            value = self._fake.from_tensor(value.detach()).to(DEVICE)
        elif isinstance(value, nn.Module):
            for module in value.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        moved = self.move(parameter)
                        module._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else self.move(buffer)
        elif dataclasses.is_dataclass(value):
            fields = {f.name: self.move(getattr(value, f.name)) for f in dataclasses.fields(value)}
            value = dataclasses.replace(value, **fields)
        self.waits[:] = before
        return value


class _Watch(TorchDispatchMode):
    """Notes what would wait for the device: values read from it, copies from and to it that are not said to be async,
    and operations whose result's shape depends on values."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = _devices((args, kwargs))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waits += ["a value is read"] if "cuda" in before else []
            return 1  # nobody knows
        result = func(*args, **kwargs)  # of a shape that depends on values: an error
        after = _devices(result)
        copied = len(before | after) == 2 and func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copied and not kwargs.get("non_blocking"):
            self.waits.append(f"{func} from {before} to {after}")
        return result


def _devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
