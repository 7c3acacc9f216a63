"""A GPU that is not there: its tensors have the values of a CPU's, and the manners of CUDA's.

    with AbsentGPU() as gpu:
        pipe.to("cuda")
        pipe("a man", subjects)
    assert not gpu.waits

What CUDA refuses is refused: operations that mix devices, `numpy()`, a generator of another device. Forward and
backward passes run, under `torch.autocast("cuda")` too, with the CPU's kernels, so that their values can be compared
with the CPU's. Left to a real GPU: its kernels, its memory and speed, several of them, `torch.compile`.

A tensor of the device is a `Resident`, whose `held` is on the CPU. Autograd takes its device for `lazy`, which belongs
to no hardware and whose backward passes run on the CPU; Python is told `cuda:0` (tests/moa/absent_cuda.py).
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

from tests.moa.absent_cuda import CUDA, LAZY, seeming_cuda

aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # by indices that may be a CPU's
FILLED = {aten.fill, aten.fill_, aten.index_put, aten.index_put_, aten._index_put_impl_}  # with a scalar of a CPU's
LIBRARIES = tuple(map(str, (Path(torch.__file__).parent, Path(__file__).with_name("absent_"))))


class AbsentGPU:
    """Inside its `with` block there is a GPU; `waits` names each operation for which the host would wait, with the line
    that asked for it: values that are read, copies that are not asynchronous, shapes that depend on values."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def __enter__(self) -> AbsentGPU:
        self._stack = ExitStack()
        self._stack.enter_context(_Watch(self))
        self._stack.enter_context(seeming_cuda(self._wait))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def move(self, value: Any) -> Any:
        """The tensor, module (changed in place) or dataclass of them on the device; the copies do not count."""
        before = list(self.waits)
        if isinstance(value, Tensor | nn.Module):
            value = value.to(CUDA)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.move(getattr(value, f.name)) for f in dataclasses.fields(value)}
            value = dataclasses.replace(value, **fields)
        self.waits[:] = before
        return value

    def _wait(self, why: str) -> None:
        frame = sys._getframe()
        while frame.f_back and frame.f_code.co_filename.startswith(LIBRARIES):
            frame = frame.f_back
        file = Path(frame.f_code.co_filename)
        self.waits.append(f"{file.parent.name}/{file.name}:{frame.f_lineno}: {why}")


class Resident(Tensor):
    """A tensor of the device."""

    held: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Any:
        """As libraries call the class of a parameter."""
        return nn.Parameter(data, requires_grad)

    @classmethod
    def of(cls, held: Tensor) -> Resident:
        size, stride, offset = held.size(), held.stride(), held.storage_offset()
        self = Tensor._make_wrapper_subclass(cls, size, stride, offset, dtype=held.dtype, device=LAZY)
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Resident({self.held!r})"

    def __format__(self, form: str) -> str:
        return self.item().__format__(form)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = Resident.of(copy.deepcopy(self.held.detach()))
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied)
        return memo.setdefault(id(self), copied.requires_grad_(self.requires_grad))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)


class _Watch(TorchDispatchMode):
    """Keeps account of what the host would wait for."""

    def __init__(self, gpu: AbsentGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _run(func, args, kwargs)
        given = _tensors((*args, *kwargs.values()))
        here = [each for each in given if not isinstance(each, Resident)]
        if len(here) < len(given) and func is aten._local_scalar_dense.default:
            self.gpu._wait("a value is read")
        if len(here) < len(given) and _shape_depends_on_values(func, args):
            self.gpu._wait(f"the shape of what {func} gives depends on values")
        if func in CROSSING and len({isinstance(each, Resident) for each in (*given, result)}) == 2:
            pinned = isinstance(result, Resident) and all(getattr(each, "pinned", False) for each in here)
            if not pinned or not (kwargs.get("non_blocking") or args[2:3] == (True,)):
                self.gpu._wait("a copy to the device" if isinstance(result, Resident) else "a copy from the device")
        elif (
            len(here) < len(given)
            and func.overloadpacket in INDEXED
            and any(p is each for p in _tensors(args[1]) for each in here)
        ):
            self.gpu._wait("indices are copied to the device")
        return result


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on what the tensors hold; what comes of the device's is the device's."""
    given = _tensors((*args, *kwargs.values()))
    there = any(isinstance(each, Resident) for each in given)
    if there and func not in CROSSING:
        _refuse_mixtures(func, args, given)
    held_args, held_kwargs = _held(args), {name: _held(value) for name, value in kwargs.items()}
    if kwargs.get("device") is not None:
        there = kwargs["device"].type in ("cuda", "lazy")
        if there:
            held_kwargs["device"] = torch.device("cpu")
    elif func is aten.copy_.default:
        there = isinstance(args[0], Resident)
    result = func(*held_args, **held_kwargs)
    if not there or not isinstance(result, Tensor | tuple | list):
        return result
    made = Resident.of(result) if isinstance(result, Tensor) else tree_map_only(Tensor, Resident.of, result)
    return return_and_correct_aliasing(func, args, kwargs, made) if _aliases(func) else made


def _held(value: Any) -> Any:
    if isinstance(value, Resident):
        return value.held
    return type(value)(map(_held, value)) if isinstance(value, list | tuple) else value


def _tensors(values: Any) -> list[Tensor]:
    """Those among the arguments of an operation, which are nested in lists at most."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


@cache
def _aliases(func: Any) -> bool:
    """Whether what it gives shares memory with what it gets."""
    return any(result.alias_info is not None for result in func._schema.returns)


def _refuse_mixtures(func: Any, args: Any, given: list[Tensor]) -> None:
    """CUDA takes a CPU's tensor only as a scalar of an elementwise operation, and as indices."""
    here = [each for each in given if not isinstance(each, Resident)]
    if here and func.overloadpacket in INDEXED and isinstance(args[0], Resident):
        places = _tensors(args[1])
        here = [each for each in here if not any(each is place for place in places)]
    if not here:
        return
    name = func.overloadpacket._qualified_op_name
    scalars = torch.Tag.pointwise in func.tags or func.overloadpacket in FILLED or "::_foreach" in name
    if any(each.dim() > 0 or not scalars for each in here):
        found = f"cuda:0 and {here[0].device}, in {name}"
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {found}")


def _shape_depends_on_values(func: Any, args: Any) -> bool:
    if func.overloadpacket in INDEXED:
        return any(place.dtype in (torch.bool, torch.uint8) for place in _tensors(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags or func.overloadpacket._qualified_op_name == "torchvision::nms"
