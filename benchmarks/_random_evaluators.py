"""Measuring models with random weights, of the sizes of the real ones: `benchmarks/evaluation.py` compares evaluators,
not models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from facenet_pytorch import InceptionResnetV1
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from moa.evaluation.faces import FacenetFaces, face_crop
from moa.evaluation.subjects import SuiteSubject


def random_embedder(people: Sequence[SuiteSubject]) -> torch.nn.Module:
    """InceptionResnetV1 with random weights and the batch-norm statistics of the people's faces."""
    embedder = InceptionResnetV1().eval()
    photographs = [person.photo for person in people]
    found = FacenetFaces(embedder).detect(photographs)
    crops = np.stack([face_crop(photo, faces[0]) for photo, faces in zip(photographs, found, strict=True)])
    for module in embedder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = None  # the statistics of the one batch, not a moving average
    with torch.no_grad():
        embedder(torch.from_numpy(crops))
    return embedder.eval()


def random_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of the size of openai/clip-vit-large-patch14."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": len(tokenizer)}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 14}, projection_dim=768)
    return CLIPModel(config).eval()
