"""What a MoA pipeline is made of, whichever Stable Diffusion pipeline it extends: its components and their sources.

A MoA pipeline has the components of the diffusers pipeline it extends, a U-Net that is a mixture, and two of its own:
`subject_encoder` and `subject_processor`, which see the subjects. (`image_encoder` and `feature_extractor` stay what
they are in diffusers: an IP-Adapter's encoder, and the processor it shares with the safety checker.)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from moa.errors import PipelineOptionError, UnsupportedBaseError
from moa.pipeline_folder import INDEX, PARTS, read_base, read_pipeline, write_pipeline
from moa.pipeline_source import find_folder

OWN = ("subject_encoder", "subject_processor")
FILES = (INDEX, *(f"{part}/*" for part in PARTS))

# Options of diffusers that change nothing here: the value that says what is the case anyway, and what to do instead.
LOADING: dict[str, tuple[Any, str]] = {
    "use_safetensors": (True, "only safetensors are read"),
    "variant": (None, "weights are stored in one precision, torch_dtype chooses that of the model"),
    "trust_remote_code": (False, "no code of a repository is run"),
    "custom_pipeline": (None, "no code of a repository is run"),
    "device_map": (None, "move the pipeline with to(device) or enable_model_cpu_offload()"),
    "controlnet": (None, "only MoAControlNetPipeline has one"),
}
SAVING: dict[str, tuple[Any, str]] = {
    "safe_serialization": (True, "only safetensors are written"),
    "variant": (None, "weights are stored under one name, in the precision that the pipeline has"),
    "push_to_hub": (False, "publish the folder with moa.hub.publish, which verifies what arrives"),
}


class SubjectComponents:
    """Mixin before a diffusers pipeline class, which it extends by the subjects' components."""

    def __init_subclass__(cls, **options: Any) -> None:
        """diffusers reads what a pipeline is made of from the signature of `__init__`, and moves the parts in the order
        of `model_cpu_offload_seq`; editors and user interfaces read the signature of `__call__`."""
        super().__init_subclass__(**options)
        stock: Any = next((base for base in cls.__mro__[1:] if not issubclass(base, SubjectComponents)), object)
        if not issubclass(stock, DiffusionPipeline):
            return
        if "__call__" not in vars(cls):
            cls.__call__ = _naming_options(cls.__call__, stock.__call__)  # type: ignore[method-assign]
        if "__init__" in vars(cls):
            return

        def __init__(self: Any, *parts: Any, subject_encoder: Any = None, subject_processor: Any = None, **more: Any):
            stock.__init__(self, *parts, **more)
            if self.unet is not None and not hasattr(self.unet, "moa_config"):
                raise UnsupportedBaseError(
                    f"{type(self).__name__} needs a U-Net with MoA, got a {type(self.unet).__name__}: take "
                    "moa.adapter.load_adapter(unet, adapter_folder), or from_base, which does"
                )
            self.register_modules(subject_encoder=subject_encoder, subject_processor=subject_processor)

        own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in OWN]
        __init__.__signature__ = inspect.Signature([*inspect.signature(stock.__init__).parameters.values(), *own])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]
        cls._optional_components = [*stock._optional_components, *OWN]  # type: ignore[attr-defined]
        cls.model_cpu_offload_seq = f"subject_encoder->{stock.model_cpu_offload_seq}"  # type: ignore[attr-defined]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the adapter in use comes from; `save_pretrained` writes it back."""
        return self.unet.provenance  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **components: Any,
    ) -> Self:
        """Load what `save_pretrained` of any MoA pipeline wrote: a local folder, or a Hub repository at `revision`.

        torch_dtype     precision of the model (default float32), whatever that of the files; `dtype` is another name
        components      take the place of the folder's, e.g. `scheduler=`, `vae=`, `safety_checker=None`. A stock U-Net
                        becomes the base of the folder's adapter. `MoAControlNetPipeline` needs `controlnet=`

        Runs no code from the repository and reads no pickle. Raises `PipelineFolderError`, `PipelineOptionError`,
        `AdapterError`, and for a repository `RepositoryMissingError`, `AccessDeniedError`, `HubOfflineError` and
        `HubUnavailableError`.
        """
        given = cls._own(components, LOADING)
        folder = find_folder(
            folder_or_repo,
            FILES,
            revision=revision,
            endpoint=endpoint,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls(**read_pipeline(folder, given, dtype or torch_dtype or torch.float32))

    @classmethod
    def from_base(
        cls,
        base_folder: str | Path,
        adapter_folder: str | Path,
        image_encoder_folder: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **components: Any,
    ) -> Self:
        """Put an adapter on a Stable Diffusion folder; the scheduler becomes UniPC with the base's noise schedule.

        `image_encoder_folder` holds the CLIP model of the subjects' images, and its image processor (or that lies
        beside it in `feature_extractor/`). The other options are those of `from_pretrained`. Raises
        `PipelineFolderError`, `PipelineOptionError`, `AdapterError`, `AdapterGeometryError` and `UnsupportedBaseError`.
        """
        given = cls._own(components, LOADING)
        folders = Path(base_folder), Path(adapter_folder), Path(image_encoder_folder)
        return cls(**read_base(*folders, given, dtype or torch_dtype or torch.float32))

    @classmethod
    def from_pipe(cls, pipeline: Any, *, torch_dtype: torch.dtype | None = None, **components: Any) -> Self:
        """This kind of pipeline with the components of another, which are shared and stay as they are.

        components      take the place of the other's, e.g. `controlnet=`, or `unet=load_adapter(pipe.unet, folder)` and
                        the subjects' two for a stock pipeline
        torch_dtype     casts all of them, in `pipeline` too

        Raises `PipelineOptionError` and `UnsupportedBaseError`.
        """
        safety = {"requires_safety_checker": pipeline.config.get("requires_safety_checker", True)}
        names = inspect.signature(cls.__init__).parameters
        found = {name: part for name, part in {**pipeline.components, **safety}.items() if name in names}
        pipe: Any = cls(**{**found, **cls._own({**found, **components}, {})})
        if hasattr(pipeline, "preparer"):
            pipe.preparer = pipeline.preparer
        return pipe if torch_dtype is None else pipe.to(torch_dtype)

    def save_pretrained(
        self, save_directory: str | Path, *, max_shard_size: int | str = "10GB", **options: Any
    ) -> None:
        """Write a folder that `from_pretrained` of every MoA pipeline reads back.

        It is a plain Stable Diffusion folder, which stock diffusers loads as the base pipeline, with `subject_encoder/`
        and the MoA weights in `adapter/`. Components keep their precision, the adapter is fp16. A ControlNet is not
        part of it: save it by itself. Raises `PipelineOptionError` for options that such a folder cannot have, and
        `UnsupportedBaseError` while LoRA layers or an IP-Adapter are loaded.
        """
        for name in options:
            _refuse_unless_idle(name, options[name], SAVING, "save_pretrained")
        write_pipeline(self, Path(save_directory), max_shard_size=max_shard_size)

    @classmethod
    def _own(cls, components: Mapping[str, Any], idle: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
        """Those of `components` that this kind of pipeline has; raises `PipelineOptionError` for others, and when one
        is missing that no folder holds."""
        names = inspect.signature(cls.__init__).parameters
        for name, value in components.items():
            if name not in names:
                _refuse_unless_idle(name, value, idle, cls.__name__)
        if "controlnet" in names and components.get("controlnet") is None:
            raise PipelineOptionError(
                f"{cls.__name__} needs controlnet=, a ControlNetModel: pipeline folders have none"
            )
        return {name: value for name, value in components.items() if name in names}


def _naming_options(call: Any, stock: Any) -> Any:
    """`call`, which passes the options it does not know on to `stock`, with a signature that names these too."""

    @functools.wraps(call)
    def named(*arguments: Any, **options: Any) -> Any:
        return call(*arguments, **options)

    own, theirs = inspect.signature(call).parameters, inspect.signature(stock).parameters
    passed_on = inspect.Parameter.VAR_KEYWORD
    kept = [parameter for parameter in own.values() if parameter.kind is not passed_on]
    more = [parameter for name, parameter in theirs.items() if name not in own or parameter.kind is passed_on]
    by_name = [p if p.kind is passed_on else p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in more]
    named.__signature__ = inspect.Signature([*kept, *by_name])  # type: ignore[attr-defined]
    return named


def _refuse_unless_idle(name: str, value: Any, idle: Mapping[str, tuple[Any, str]], where: str) -> None:
    if name not in idle:
        raise PipelineOptionError(f"{where} has no option or component {name!r}: leave it out")
    accepted, advice = idle[name]
    if value is not accepted:
        raise PipelineOptionError(f"{where} does not take {name}={value!r}: {advice}")
