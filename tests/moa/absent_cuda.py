"""What Python sees of a GPU that is not there (tests/moa/absent_gpu.py): calls that name `cuda`, `torch.cuda`,
`torch.autocast("cuda")`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, LAZY = torch.device("cuda", 0), torch.device("lazy", 0)
NAME = "a GPU that is not there"
# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float16, and those to float32
NARROW: set[Any] = {
    F.linear, F.conv2d, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm,
    torch.bmm, torch.baddbmm, torch.addmm, torch.einsum, F.scaled_dot_product_attention,
}  # fmt: skip
WIDE: set[Any] = {
    F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, F.cross_entropy, F.mse_loss,
    F.normalize, torch.sum, Tensor.sum, torch.norm, torch.exp, Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow,
    Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.prod, torch.cumsum, F.binary_cross_entropy_with_logits,
}  # fmt: skip


class Calls(TorchFunctionMode):
    """`cuda` in arguments becomes the device that stands for it; what only a real one could do is done here."""

    def __init__(self, wait: Callable[[str], None]) -> None:
        super().__init__()
        self.wait = wait

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        first = args[0] if args else None
        resident = isinstance(first, Tensor) and first.device.type == "cuda"
        if func is Tensor.tolist and resident:
            self.wait("values are read")
            return first.held.tolist()  # type: ignore[union-attr]
        if func is Tensor.numpy and resident:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func in (Tensor.data_ptr, Tensor.storage, Tensor.untyped_storage) and resident:
            return func(first.held)  # type: ignore[union-attr]
        if func is torch.tensor and any(isinstance(leaf, Tensor) for leaf in tree_leaves(first)):
            args = (tree_map_only(Tensor, Tensor.item, first), *args[1:])
        if func is Tensor.cuda:
            return first.to(LAZY)  # type: ignore[union-attr]
        if func is Tensor.pin_memory:
            if resident:
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned")
            pinned = func.__get__(first) and first.clone()  # type: ignore[union-attr]
            pinned.pinned = True
            return pinned
        if func == Tensor.data.__set__ and args[1].device.type == "cuda":  # type: ignore[attr-defined]
            return _set_data(*args)
        if (generator := kwargs.get("generator")) is not None:
            there = resident if "device" not in kwargs else _named(kwargs["device"]) == LAZY
            if there != isinstance(generator, Generator):
                raise RuntimeError(f"Expected a '{CUDA if there else 'cpu'}' generator but found {generator.device}")
        args, kwargs = _autocast_arguments(func, args, kwargs)
        return func(*map(_named, args), **{name: _named(value) for name, value in kwargs.items()})


def _set_data(tensor: Any, value: Any) -> None:
    """`tensor.data = value`, on the device: afterwards both share memory."""
    if tensor.device.type == "cuda" and tensor.dtype == value.dtype and tensor.shape == value.shape:
        tensor.held = value.held
        return
    made: Any = value.detach()
    if isinstance(tensor, nn.Parameter):
        made = nn.Parameter(made, requires_grad=False)
    flag = tensor.requires_grad
    torch.utils.swap_tensors(tensor, made)
    tensor.requires_grad_(flag)


def _named(value: Any) -> Any:
    kind = value.partition(":")[0] if isinstance(value, str) else getattr(value, "type", "")
    return LAZY if kind == "cuda" and isinstance(value, str | torch.device) else value


class _Autocast(ContextDecorator):
    """`torch.autocast("cuda", ...)`: the state is here, `_autocast_arguments` goes by it."""

    dtype: torch.dtype | None = None  # of the block we are in

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        self.next = (dtype or torch.float16) if enabled else None

    def __enter__(self) -> None:
        self.before, _Autocast.dtype = _Autocast.dtype, self.next

    def __exit__(self, *error: Any) -> None:
        _Autocast.dtype = self.before


def _autocast_arguments(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    wanted = _Autocast.dtype
    if wanted is None or not (func in NARROW or (func in WIDE and not kwargs.get("dtype"))):
        return args, kwargs
    dtype = wanted if func in NARROW else torch.float32

    def cast(tensor: Tensor) -> Tensor:
        known = tensor.device.type == "cuda" and tensor.dtype in (torch.float16, torch.bfloat16, torch.float32)
        return tensor.to(dtype) if known else tensor

    return tree_map_only(Tensor, cast, (args, kwargs))


class Generator(torch.Generator):
    """What `torch.Generator("cuda")` would be."""

    device = CUDA  # type: ignore[assignment]


@contextmanager
def seeming_cuda(wait: Callable[[str], None]) -> Iterator[None]:
    """Inside the block torch says that there is one GPU; `wait` is told for what the host would wait."""
    calls, run_backward = Calls(wait), torch.autograd._engine_run_backward

    def backward(*args: Any, **options: Any) -> Any:
        with calls:  # which is off in the call that has led here; our own backward passes are Python
            return run_backward(*args, **options)

    autocast, is_enabled, get_dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    def make_autocast(device_type: str, *args: Any, **options: Any) -> Any:
        return (_Autocast if device_type == "cuda" else autocast)(device_type, *args, **options)

    changed: dict[Any, dict[str, Any]] = {
        torch: {
            "autocast": make_autocast,
            "inference_mode": torch.no_grad,  # its tensors cannot be told how they share memory
            "is_autocast_enabled": lambda kind="cuda": bool(_Autocast.dtype) if kind == "cuda" else is_enabled(kind),
            "get_autocast_dtype": lambda kind: _Autocast.dtype or torch.float16 if kind == "cuda" else get_dtype(kind),
        },
        torch.cuda: {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: NAME,
            "is_bf16_supported": lambda including_emulation=True: True,
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: wait("torch.cuda.synchronize"),
        },
        torch.autograd: {"_engine_run_backward": backward},
        torch.amp: {"autocast": make_autocast},
        torch.accelerator: {
            "is_available": lambda: True,
            "current_accelerator": lambda *_, **__: CUDA,
            "current_stream": lambda device=None: SimpleNamespace(is_capturing=lambda: False),
        },
    }
    with ExitStack() as stack:
        for place, values in changed.items():
            for name, value in values.items():
                stack.enter_context(patch.object(place, name, value))
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        with calls:
            yield
