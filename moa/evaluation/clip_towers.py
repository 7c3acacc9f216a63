"""The two towers of a CLIP, whoever packaged them: images and texts in, projected embeddings out.

A folder of `transformers` (openai/clip-vit-large-patch14, zoo/clip) or one of OpenCLIP. PC by a CLIP of other training
data than the model's own image encoder does not favour that encoder, and most of those are OpenCLIP's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from moa.errors import EvaluatorWeightsError
from moa.evaluation.processor import for_processor, processor_name


class Towers(Protocol):
    """What `ClipScorer` asks for. `image_size` in pixels, `limit` in tokens, `width` of the embeddings; `mean` and
    `std` of the pixels 0..1, one for each channel."""

    name: str
    image_size: int
    mean: list[float]
    std: list[float]
    limit: int
    width: int

    def to(self, device: torch.device) -> None: ...

    def token_count(self, text: str) -> int:
        """Tokens of the text, start and end included, before anything is cut."""
        ...

    def images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels `[B, 3, image_size, image_size]` to `[B, width]`."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """`[B, width]`."""
        ...


class TransformersTowers:
    """A `CLIPModel` with its tokenizer and image processor. Raises `EvaluatorWeightsError` for a processor that crops
    away more than the longer side."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name = Path(model.config.name_or_path or "CLIP").name
        self.image_size = int(processor.crop_size["height"])
        if processor.size["shortest_edge"] != self.image_size:
            raise EvaluatorWeightsError(
                f"{model.config.name_or_path}: its processor resizes to {processor.size['shortest_edge']} px and crops "
                f"to {self.image_size}; the protocol needs both equal"
            )
        self.mean, self.std = list(processor.image_mean), list(processor.image_std)
        self.limit = min(model.config.text_config.max_position_embeddings, tokenizer.model_max_length)
        self.width = int(model.config.projection_dim)

    @classmethod
    def from_folder(cls, folder: Path) -> TransformersTowers:
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        return cls(
            CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
        )

    def to(self, device: torch.device) -> None:
        vision = self.model.to(device).vision_model
        if isinstance(vision.encoder.layers[-1], CLIPEncoderLayer):
            vision.encoder.layers[-1] = LastLayer(vision.encoder.layers[-1])
        if device.type == "cpu":
            vectors = torch.backends.cpu.get_cpu_capability()
            self.model.vision_model = for_processor(vision, processor_name(), vectors)

    def token_count(self, text: str) -> int:
        return len(self.tokenizer(text).input_ids)

    def images(self, pixels: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=self.limit, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        return self.model.text_projection(self.model.text_model(**tokens).pooler_output)


class LastLayer(nn.Module):
    """The last layer of a vision tower for its class token alone, from which the embedding is made: all tokens give
    keys and values, one asks. 3 % of the work of ViT-L/14 is left out."""

    def __init__(self, layer: CLIPEncoderLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensor, attention_mask: None = None, **_: Any) -> Tensor:
        """`[B, tokens, d]` to `[B, 1, d]`, what transformers' layer has in its first row."""
        layer, attention = self.layer, self.layer.self_attn
        first, normed = states[:, :1], layer.layer_norm1(states)
        query, key, value = (
            project(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project, tokens in (
                (attention.q_proj, normed[:, :1]),
                (attention.k_proj, normed),
                (attention.v_proj, normed),
            )
        )
        attended = scaled_dot_product_attention(query, key, value, scale=attention.scale)
        first = first + attention.out_proj(attended.transpose(1, 2).flatten(2))
        return first + layer.mlp(layer.layer_norm2(first))


class OpenClipTowers:
    """A model of OpenCLIP; its tokenizer is a function from texts and a length to padded ids."""

    def __init__(self, model: Any, tokenizer: Callable[..., Tensor], name: str) -> None:
        shape = model.visual.preprocess_cfg
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        size = model.visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])
        self.mean, self.std = list(shape["mean"]), list(shape["std"])
        self.limit = int(model.context_length)
        self.width = int(model.text_projection.shape[-1])

    @classmethod
    def from_folder(cls, folder: Path) -> OpenClipTowers:
        """Raises `EvaluatorWeightsError` for a model that wants pictures in another way than the protocol's."""
        import open_clip
        from safetensors.torch import load_file

        prepared = json.loads((folder / "open_clip_config.json").read_text("utf-8")).get("preprocess_cfg", {})
        for field, wanted in (("resize_mode", "shortest"), ("interpolation", "bicubic")):
            if prepared.get(field, wanted) != wanted:
                raise EvaluatorWeightsError(
                    f"{folder / 'open_clip_config.json'}: {field} is {prepared[field]!r}; the protocol needs {wanted!r}"
                )
        place = f"local-dir:{folder}"
        model = open_clip.create_model(place, load_weights=False)
        model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
        return cls(model, open_clip.get_tokenizer(place), folder.name)

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    def token_count(self, text: str) -> int:
        """Counts up to one more than the limit."""
        empty, tokens = self.tokenizer(["", text], context_length=self.limit + 1)
        return int((tokens != empty[-1]).nonzero().max()) + 1  # the end's place; padding follows

    def images(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts), context_length=self.limit)
        return self.model.encode_text(tokens.to(next(self.model.parameters()).device))


FOLDERS: dict[str, tuple[Callable[[Path], Towers], str, tuple[str, ...]]] = {
    # the file that tells the kind: how it is loaded, its weights, what else has to be there
    "open_clip_config.json": (OpenClipTowers.from_folder, "open_clip_model.safetensors", ()),
    "config.json": (
        TransformersTowers.from_folder,
        "model.safetensors",
        ("preprocessor_config.json", "tokenizer_config.json"),
    ),
}
