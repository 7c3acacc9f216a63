"""`MoAConfig`: the architecture of the personalization model. Torch-free.

It is stored in the U-Net's own `config.json` (key `moa_config`) and in every adapter, so weights always carry the
architecture they belong to.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MoAConfig(BaseModel):
    """Which attention layers become mixtures, and how they are conditioned (eq. 5-8 and the ablations of the paper)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_dim: int = Field(gt=0, description="width of the subject features: the image encoder's projection_dim")
    architecture: Literal["moa", "single_branch"] = Field(
        "moa",
        description="single_branch: no prior and no router, one trained copy of the attention layers (ablation 1)",
    )
    router: Literal["linear", "mlp"] = Field(
        "linear", description="network that maps a pixel to 2 expert logits (eq. 5)"
    )
    spacetime: bool = Field(True, description="positional encoding of timestep and layer in eq. 8 (False: ablation 3)")
    self_attention: bool = Field(True, description="False: only the cross-attention layers become mixtures")
    hidden_dim: int | None = Field(None, gt=0, description="hidden width of the MLP of eq. 8; null: the text width")
    fourier_features: int = Field(
        64, gt=0, description="random frequencies of the positional encoding; sin and cos each"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_adapters(cls, fields: Any) -> Any:
        """Adapters that are already published name what has become the only way."""
        if isinstance(fields, dict) and fields.get("unconditional") == "mixture":
            return {name: value for name, value in fields.items() if name != "unconditional"}
        return fields
