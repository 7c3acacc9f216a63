"""A tiny, random BLIP-2 that knows fifteen words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PROMPT = ["a", "photo", "of"]
ANSWERS = ["man", "woman", "beach", "hat", "red", "dog", "tree", "on"]
QUERIES = 4


def tiny_blip2(folder: Path, kind: str, *, old: bool = False) -> str:
    """A random checkpoint; `old` ones know nothing of image tokens, as those saved before transformers 4.46."""
    torch.manual_seed(0)
    words = [*SPECIAL, *PROMPT, *ANSWERS]
    table = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    Blip2Processor(images, tokenizer, num_query_tokens=None if old else QUERIES).save_pretrained(folder)
    size = len(words) + (not old)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = (
        OPTConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2,
                  word_embed_proj_dim=16, max_position_embeddings=64, **ids)
        if kind == "opt"
        else T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, **ids)
    )  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=vision | {"image_size": 16, "patch_size": 8},
        qformer_config=vision | {"encoder_hidden_size": 16, "vocab_size": 8},
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=None if old else len(words),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)
