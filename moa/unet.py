"""`MoAUNet2DConditionModel`: a diffusers U-Net whose attention layers are mixtures of two experts.

    unet = MoAUNet2DConditionModel.from_unet(base_unet, MoAConfig(image_dim=768))
    unet(latents, t, text, cross_attention_kwargs={"moa": MoAInput(...)})

Without "moa" it is the base model, bit for bit, so every diffusers pipeline accepts it. What MoA adds are the
parameters with a path component named `moa` (`is_moa_key`): `moa.*` is eq. 8, `<layer>.moa.*` the expert and router of
a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from moa.backward import FrozenConv2d, RecomputedGEGLU
from moa.conditioning import MoAContext, MoAInput, MultimodalPrompt, multimodal_prompts
from moa.config import MoAConfig
from moa.errors import ConditioningError, UnsupportedBaseError
from moa.layers import MoAAttention, MoABranch, PriorAttention

LORA_LOADED = "LoRA layers are loaded into {}: to keep them fuse_lora(), then unload_lora_weights()"
NO_MOA = (
    "this folder holds a U-Net without MoA weights ({}): load it with UNet2DConditionModel and use "
    "MoAUNet2DConditionModel.from_unet, or moa.adapter.load_adapter"
)
LEAN: dict[type, type] = {nn.Conv2d: FrozenConv2d, GEGLU: RecomputedGEGLU}  # layers of the prior -> the same, leaner


@dataclass(frozen=True)
class MoALayer:
    """One mixture layer, in the order of the forward pass."""

    index: int  # l of eq. 8 and 10
    name: str  # module path, e.g. "down_blocks.0.attentions.1.transformer_blocks.0.attn2"
    block: str  # "down_blocks.0", "mid_block", "up_blocks.3"
    is_cross: bool
    heads: int
    dim: int
    in_router_loss: bool  # in L of eq. 10: all but the first down block and the last up block


class MoAUNet2DConditionModel(UNet2DConditionModel):
    """The base U-Net with one `moa` child in each attention layer and one at the root."""

    moa: MultimodalPrompt
    _skip_layerwise_casting_patterns = ["norm", "router"]  # a router reads the precision of its weights

    def __init__(self, moa_config: dict[str, Any], **base: Any) -> None:
        super().__init__(**base)
        self.register_to_config(moa_config=dict(moa_config))
        self.provenance: dict[str, Any] = {}  # of the adapter in use, as it was given to `save_adapter`
        self._install()

    # diffusers reads the options of a model from this signature; `**base` alone would lose them on reload.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *inspect.signature(UNet2DConditionModel.__init__).parameters.values(),
            inspect.Parameter("moa_config", inspect.Parameter.KEYWORD_ONLY),
        ]
    )

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, config: MoAConfig) -> MoAUNet2DConditionModel:
        """The mixture whose prior is `unet` and whose personalization experts are copies of it.

        The prior's tensors are shared with `unet`, not copied, and frozen; what MoA adds is trainable, on the same
        device and of the same dtype. Raises `UnsupportedBaseError` for a base this method does not fit.
        """
        check_base(unet)
        with init_empty_weights():
            model = cls(moa_config=config.model_dump(mode="json"), **_base_config(unet))
        missing, unknown = model.load_state_dict(unet.state_dict(), strict=False, assign=True)
        if strange := [*unknown, *(name for name in missing if not is_moa_key(name))]:
            raise UnsupportedBaseError(
                f"the base U-Net's tensors are not those of its configuration ({len(strange)}, e.g. {strange[0]}): "
                "remove what was loaded into it or wrapped around it, and load it again after MoA is attached"
            )
        model._install()
        model.freeze_prior()
        return model.train(unet.training)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, for folders that hold this model; a plain U-Net folder is refused, not half loaded."""
        wanted = kwargs.pop("output_loading_info", False)
        try:
            model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        except TypeError as error:
            if "moa_config" not in str(error):
                raise
            raise UnsupportedBaseError(NO_MOA.format("its configuration says nothing of MoA")) from None
        if missing := report["missing_keys"]:
            raise UnsupportedBaseError(NO_MOA.format(f"{len(missing)} are missing, e.g. {min(missing)}"))
        model.freeze_prior()
        return (model, report) if wanted else model

    @property
    def moa_config(self) -> MoAConfig:
        return MoAConfig.model_validate(dict(self.config["moa_config"]))

    def moa_layers(self) -> list[MoALayer]:
        """The mixture layers in the order of the forward pass; `index` is the position in this list."""
        return [layer for layer, _ in self._layers()]

    def moa_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that is trained."""
        return ((name, p) for name, p in self.named_parameters() if is_moa_key(name))

    def moa_state_dict(self) -> dict[str, Tensor]:
        """Everything an adapter stores: the parameters and buffers MoA adds."""
        return {name: tensor for name, tensor in self.state_dict().items() if is_moa_key(name)}

    def freeze_prior(self) -> None:
        """Only what MoA adds requires gradients."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_moa_key(name))

    def to_base_unet(self) -> UNet2DConditionModel:
        """The prior alone as a stock diffusers U-Net (`ControlNetModel.from_unet` wants one); shares its tensors.

        Copies that `fuse_qkv_projections` has made of them stay behind. Raises `UnsupportedBaseError` while LoRA layers
        or an IP-Adapter are loaded, and for layers that a quantizer has replaced.
        """
        if getattr(self, "peft_config", None):
            raise UnsupportedBaseError(LORA_LOADED.format("this U-Net"))
        if self.encoder_hid_proj is not None:
            raise UnsupportedBaseError("an IP-Adapter is loaded into this U-Net: call unload_ip_adapter() first")
        with init_empty_weights():
            base = UNet2DConditionModel(**_base_config(self))
        own = self.state_dict()
        if lost := [name for name in base.state_dict() if name not in own]:
            raise UnsupportedBaseError(
                f"layers of this U-Net were wrapped or replaced ({len(lost)} tensors are gone, e.g. {lost[0]}): load "
                "it again, and take to_base_unet() or save it before they are"
            )
        base.load_state_dict({name: own[name] for name in base.state_dict()}, assign=True)
        return base.train(self.training)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in diffusers; `cross_attention_kwargs["moa"]` may hold a `MoAInput` for the same batch.

        sample [B, C, H, W], encoder_hidden_states [B, T, D]. Raises `ConditioningError` when the input does not fit.
        """
        options = dict(cross_attention_kwargs or {})
        moa: MoAInput | None = options.pop("moa", None)
        if moa is not None:
            moa = moa.for_batch(encoder_hidden_states.shape[0])
            options["moa"] = context = self._context(moa, sample, timestep, encoder_hidden_states)
            computed = context.cache is None or context.cache.start(context.batch)
            if moa.recorder is not None:
                moa.recorder.start(attention=computed)
        output = super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            class_labels=class_labels,
            timestep_cond=timestep_cond,
            attention_mask=attention_mask,
            cross_attention_kwargs=options or None,
            **kwargs,
        )
        if moa is not None and moa.recorder is not None and moa.recorder.history:
            moa.recorder.finish(timestep, moa.with_subjects)
        return output

    def _context(self, moa: MoAInput, sample: Tensor, timestep: Tensor | float, text: Tensor) -> MoAContext:
        """Compute the prompts of all layers for this timestep (eq. 7 and 8), on the rows that need them."""
        config, device, batch = self.config["moa_config"], sample.device, sample.shape[0]
        if moa.features.shape[-1] != config["image_dim"]:
            raise ConditioningError(
                f"subject features have width {moa.features.shape[-1]}, this model was made for "
                f"{config['image_dim']}: use the image encoder it was trained with"
            )
        if not torch.compiler.is_compiling():  # it would be compiled anew for another position
            moa.check_positions(text.shape[1])
        rows = moa.rows.to(device) if isinstance(moa.rows, Tensor) else moa.rows
        positions = moa.positions.to(device)[rows]
        empty = positions < 0
        features = moa.features.to(device)[rows].masked_fill(empty[..., None], 0.0)
        text = text[rows]
        slots = positions.clamp(min=0)[..., None].expand(-1, -1, text.shape[-1])
        timesteps = torch.as_tensor(timestep, dtype=torch.float32, device=device).expand(batch)[rows]
        tokens = self.moa(features, text.gather(1, slots), timesteps)
        places = positions.masked_fill(empty, text.shape[1])
        prompts = multimodal_prompts(text, tokens, places)
        return MoAContext(
            batch=batch,
            rows=rows,
            prompts=dict(zip(self._cross_layers, prompts.unbind(0), strict=True)),
            positions=places,
            latent_size=(sample.shape[-2], sample.shape[-1]),
            recorder=moa.recorder,
            cache=moa.cache if config["architecture"] == "moa" else None,  # a single branch has nothing to lean on
        )

    def _install(self) -> None:
        """Turn the attention layers into mixtures and initialise what MoA adds from the prior as it is now."""
        config = self.moa_config
        layers = self._layers()
        for _, block in _blocks_in_forward_order(self):
            for _, attention in _attentions(block):
                attention.__class__ = PriorAttention
        for layer, attention in layers:
            attention.__class__ = MoAAttention
            attention.moa = MoABranch(attention, config, layer.index)
        for module in self.modules():
            module.__class__ = LEAN.get(type(module), type(module))
        self._cross_layers = tuple(layer.index for layer, _ in layers if layer.is_cross)
        prompt = MultimodalPrompt(config, self.config["cross_attention_dim"], self._cross_layers)
        weight = self.conv_in.weight
        self.moa = prompt if weight.is_meta else prompt.to(device=weight.device, dtype=weight.dtype)

    def _layers(self) -> list[tuple[MoALayer, Any]]:
        only_cross = not self.moa_config.self_attention
        first, last = "down_blocks.0", f"up_blocks.{len(self.up_blocks) - 1}"
        found: list[tuple[MoALayer, Any]] = []
        for block, module in _blocks_in_forward_order(self):
            for name, attention in _attentions(module):
                if only_cross and not attention.is_cross_attention:
                    continue
                layer = MoALayer(
                    index=len(found),
                    name=f"{block}.{name}",
                    block=block,
                    is_cross=attention.is_cross_attention,
                    heads=attention.heads,
                    dim=attention.query_dim,
                    in_router_loss=block not in (first, last),
                )
                found.append((layer, attention))
        return found


def is_moa_key(name: str) -> bool:
    """True for the parameters and buffers MoA adds to a U-Net: those with a path component `moa`."""
    return "moa" in name.split(".")


def check_base(unet: UNet2DConditionModel) -> None:
    """Raises `UnsupportedBaseError` unless `unet` is a Stable Diffusion 1.x/2.x kind of U-Net."""
    config = unet.config
    if isinstance(unet, MoAUNet2DConditionModel):
        raise UnsupportedBaseError("this U-Net is a mixture already: take its to_base_unet() to start another one")
    if getattr(unet, "peft_config", None):
        raise UnsupportedBaseError(LORA_LOADED.format("the base U-Net") + ", or load them after MoA is attached")
    for field in ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type"):
        if config.get(field) is not None:
            raise UnsupportedBaseError(
                f"the base U-Net has {field}={config[field]!r} (SDXL, unCLIP or an IP-Adapter loaded into it): this "
                "package supports Stable Diffusion 1.x and 2.x bases; load other adapters after MoA is attached"
            )
    if not isinstance(config["cross_attention_dim"], int):
        raise UnsupportedBaseError(
            f"the base U-Net has cross_attention_dim={config['cross_attention_dim']}: blocks must share one text width"
        )
    if not any(a.is_cross_attention for _, block in _blocks_in_forward_order(unet) for _, a in _attentions(block)):
        raise UnsupportedBaseError(
            "the base U-Net has no transformer block with cross-attention: nothing to personalize"
        )


def _blocks_in_forward_order(unet: UNet2DConditionModel) -> list[tuple[str, nn.Module]]:
    """diffusers registers mid_block after up_blocks; the forward pass runs it before."""
    down = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    up = [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    return [*down, *([("mid_block", unet.mid_block)] if unet.mid_block is not None else []), *up]


def _attentions(block: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in block.named_modules():
        if isinstance(module, BasicTransformerBlock):
            for child in ("attn1", "attn2"):
                if getattr(module, child) is not None:
                    yield f"{name}.{child}", getattr(module, child)


def _base_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    names = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {name: value for name, value in unet.config.items() if name in names}
