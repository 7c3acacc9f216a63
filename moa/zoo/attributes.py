"""What a picture of one person shows, by classifiers trained for it: the scene, the object and the class word.

`AttributeClassifier.from_pretrained("zoo/attributes")` judges the pictures of the base model (`moa.zoo.following`). It
reads pixels only and shares nothing with the models it judges: no CLIP, no text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moa.zoo.fit import fit
from moa.zoo.folder import read_model, write_model
from moa.zoo.hardware import autocast, device
from moa.zoo.identity import Residual
from moa.zoo.pictures import Pictures, to_unit
from moa.zoo.train_identity import degrade

ATTRIBUTES = ("scene", "item", "word")
Words = dict[str, str]


def words_of(meta: Mapping[str, Any]) -> Words | None:
    """The words that a caption has for each attribute ("" for an object that is not there); None unless the picture
    shows one person."""
    attributes = meta["attributes"]
    if len(attributes["people"]) != 1:
        return None
    person = attributes["people"][0]
    return {"scene": attributes["scene_words"], "item": person["item_words"], "word": person["word"]}


class AttributeClassifier(nn.Module):
    """Pictures `[B, 3, 64, 64]` in -1..1 to logits `[B, len(vocabulary[a])]` for each attribute a.

    `vocabulary` holds the words that each attribute can have.
    """

    def __init__(self, vocabulary: Mapping[str, Sequence[str]], width: int = 24) -> None:
        super().__init__()
        self.vocabulary = {name: tuple(words) for name, words in vocabulary.items()}
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Residual(width),
            nn.Conv2d(width, width * 2, 3, stride=2, padding=1),
            Residual(width * 2),
            nn.Conv2d(width * 2, width * 4, 3, stride=2, padding=1),
            Residual(width * 4),
            nn.Conv2d(width * 4, width * 4, 3, stride=2, padding=1),
            Residual(width * 4),
            nn.GroupNorm(8, width * 4),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(width * 8, len(words)) for name, words in self.vocabulary.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.net(pictures)
        pooled = torch.cat((features.mean(dim=(2, 3)), features.amax(dim=(2, 3))), dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def words(self, pictures: Tensor, batch: int = 64) -> list[Words]:
        """The most likely words of each attribute in each picture."""
        found: list[Words] = []
        for part in pictures.split(batch):
            best = {name: logits.argmax(dim=1).tolist() for name, logits in self(part).items()}
            found += [{name: self.vocabulary[name][best[name][k]] for name in best} for k in range(len(part))]
        return found

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> AttributeClassifier:
        """Load what `save_pretrained` wrote. Raises MissingInputError naming the file that is not there."""
        tensors, config = read_model(folder)
        classifier = cls(config["vocabulary"])
        classifier.load_state_dict(tensors)
        return classifier.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `model.safetensors` (fp16) and `config.json`."""
        write_model(self, folder, vocabulary=self.vocabulary)


def train_attributes(
    pictures: Pictures, folder: Path, *, steps: int, batch: int = 64, seed: int = 0
) -> AttributeClassifier:
    """Cross-entropy of every attribute on the pictures of one person, in all styles, softened and shifted in colour as
    generated pictures are."""
    torch.manual_seed(seed)
    places, described = described_pictures(pictures)
    vocabulary = {name: sorted({words[name] for words in described}) for name in ATTRIBUTES}
    targets = {name: torch.tensor([vocabulary[name].index(words[name]) for words in described]) for name in ATTRIBUTES}
    classifier = AttributeClassifier(vocabulary)

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = torch.randint(len(places), (batch,), generator=generator)
        pixels = degrade(to_unit(pictures.images[places[chosen.numpy()]]), generator)
        if torch.rand(1, generator=generator).item() < 0.5:
            pixels = pixels.flip(-1)
        with autocast():
            logits = classifier(pixels.to(device()))
        wanted = {name: targets[name][chosen].to(device()) for name in ATTRIBUTES}
        errors = {name: F.cross_entropy(logits[name].float(), wanted[name]) for name in ATTRIBUTES}
        return {"loss": torch.stack(list(errors.values())).sum(), **errors}

    return fit(classifier, loss, folder=folder, steps=steps, peak=2e-3, seed=seed, ema=0.998).eval()


def described_pictures(pictures: Pictures) -> tuple[np.ndarray, list[Words]]:
    """Positions of the pictures of one person, and their words."""
    found = [(k, words) for k, meta in enumerate(pictures.meta) if (words := words_of(meta))]
    return np.array([k for k, _ in found]), [words for _, words in found]
