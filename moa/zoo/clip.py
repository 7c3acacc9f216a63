"""Recipe of the text-image model: a small `CLIPModel` with its own BPE vocabulary.

It serves three times, as OpenAI's CLIP does for Stable Diffusion: its text tower is the text encoder of the base
model, its image tower the image encoder of MoA, and both together measure prompt consistency. So it learns from whole
pictures with captions and from subject crops with descriptions of the person; the crops are prepared exactly as MoA's
image encoder sees them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from moa.zoo.fit import fit
from moa.zoo.hardware import autocast, device
from moa.zoo.pictures import Pictures, to_unit

TEXT_LENGTH = 32
WIDTH = 128
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocabulary: int = 1024) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from `texts`; written to `folder` as vocab.json and merges.txt."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(pattern=Regex(CLIP_PATTERN), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _as_clip_tokenizer(json.loads(bpe.to_str())["model"], folder)


def _as_clip_tokenizer(model: dict, folder: Path) -> CLIPTokenizer:
    """CLIP's vocabulary order: symbols, symbols with end-of-word, merges, the two special tokens last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokens = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    return tokenizer


def image_processor() -> CLIPImageProcessor:
    """64 px pictures, values -1..1."""
    return CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP of the miniature world (about 1.4 M parameters)."""
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = {
        **shared,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shared, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids `[B, TEXT_LENGTH]`, padded and cut."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids


def texts_of(pictures: Pictures) -> list[str]:
    """Every caption and description, the corpus of the vocabulary."""
    return [text for meta in pictures.meta for text in (meta["caption"], meta["attributes"]["description"])]


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, texts: list[str]) -> Tensor:
    """Symmetric cross-entropy of CLIP over unit vectors `[B, D]`; equal texts share their target evenly."""
    groups = np.unique(texts, return_inverse=True)[1]
    same = torch.from_numpy(groups[:, None] == groups[None, :]).float()
    target = (same / same.sum(dim=1, keepdim=True)).to(image.device)
    logits = scale.exp().clamp(max=100.0) * image @ text.T
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def train_clip(
    pictures: Pictures,
    folder: Path,
    *,
    steps: int,
    batch: int = 128,
    seed: int = 0,
    start: tuple[CLIPModel, CLIPTokenizer] | None = None,
) -> tuple[CLIPModel, CLIPTokenizer]:
    """Half of each batch are whole pictures, half subject crops. With `start` the weights of an earlier model are
    trained further; the vocabulary is made anew."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts_of(pictures), folder / "tokenizer")
    clip = new_clip(tokenizer)
    if start is not None:
        copy_weights(*start, clip, tokenizer)

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        scenes, captions = pictures.draw_scenes(batch // 2, generator)
        crops, descriptions = pictures.draw_subjects(batch // 2, generator)
        texts = captions + descriptions
        pixels = jitter(to_unit(np.concatenate((scenes, crops))), generator).to(device())
        with autocast():
            out = clip(input_ids=tokenize(tokenizer, texts).to(device()), pixel_values=pixels)
        return {"loss": contrastive_loss(out.image_embeds.float(), out.text_embeds.float(), clip.logit_scale, texts)}

    peak = 7e-4 if start else 1e-3
    return fit(clip, loss, folder=folder, steps=steps, peak=peak, seed=seed).eval(), tokenizer


@torch.no_grad()
def copy_weights(old: CLIPModel, old_tokenizer: CLIPTokenizer, new: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Every weight of `old` into `new`; embeddings of tokens by their text, tokens that `old` lacks stay random."""
    name = "text_model.embeddings.token_embedding.weight"
    weights, known = old.state_dict(), old_tokenizer.get_vocab()
    table = new.state_dict()[name].clone()
    for token, position in tokenizer.get_vocab().items():
        if token in known:
            table[position] = weights[name][known[token]]
    new.load_state_dict(weights | {name: table})


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random shift and zoom by a few pixels and a little noise, so that layout and encoder artefacts do not matter.
    `[B, 3, H, W]`."""
    count = len(pixels)
    zoom = 1 + 0.24 * (torch.rand(count, generator=generator) - 0.5)
    shift = 0.16 * (torch.rand(count, 2, generator=generator) - 0.5)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom, zoom, shift
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return moved + 0.04 * torch.randn(moved.shape, generator=generator)


@torch.no_grad()
def retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Pictures, count: int = 100, sets: int = 10, seed: int = 0
) -> float:
    """Share of pictures whose own caption is nearest among `count` pictures with different captions; mean over `sets`
    random choices of them."""
    first: dict[str, int] = {}
    for k, meta in enumerate(pictures.meta):
        first.setdefault(meta["caption"], k)
    pixels = to_unit(pictures.images[list(first.values())])
    out = clip(input_ids=tokenize(tokenizer, list(first)), pixel_values=pixels)
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in range(sets):
        chosen = torch.randperm(len(first), generator=generator)[:count]
        nearest = (out.image_embeds[chosen] @ out.text_embeds[chosen].T).argmax(dim=1)
        shares.append((nearest == torch.arange(len(chosen))).float().mean())
    return float(torch.stack(shares).mean())
