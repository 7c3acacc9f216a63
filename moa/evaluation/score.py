"""Scores the generated images: one row per (method, subject, prompt, seed), the table of scores, and one per two images
that differ by their subject alone, the table of swaps (`moa.evaluation.score_tables`).

What the models say of each image comes from a `Measurer`; here images are compared with one another and with what was
asked for. A missing or unreadable image costs its own row only, and so does a subject without a reference: `outcome`
says what happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from moa.evaluation import metrics
from moa.evaluation.clip import ClipScorer
from moa.evaluation.context import Columns, Scene, SceneComparer, diversity_columns
from moa.evaluation.generate import Method, image_path
from moa.evaluation.measure import Measurement, Measurer, Progress
from moa.evaluation.score_tables import FACE_COLUMNS, SCORES, SWAPS
from moa.evaluation.subjects import SuiteSubject, choose_pairs
from moa.evaluation.suite import Prompt, Suite

Texts = Mapping[str, np.ndarray]  # unit CLIP embeddings `[d]` of everything that images are compared with


@dataclass(frozen=True)
class _Cell:
    """One row to be: an image and the person it is scored for. `prior` is the image of the prior on the same base at
    the same prompt and seed."""

    method: Method
    subject: SuiteSubject
    prompt: Prompt
    seed: int
    image: str
    prior: str | None


def embed_texts(suite: Suite, subjects: Sequence[SuiteSubject], clip: ClipScorer) -> Texts:
    """All texts of a suite in one go, so that a prompt too long for CLIP is found before images are made. Raises
    `EvaluationError` naming it."""
    words = {subject.word for subject in subjects}
    rivals = {rival for prompt in suite.prompts for rival in suite.rivals(prompt)}
    texts = {rival.replace("{word}", word) for rival in rivals for word in words}
    for first, second in choose_pairs(suite, subjects):
        texts |= {prompt.for_words(first.word, second.word) for prompt in (suite.pairs.prompts if suite.pairs else ())}
    return dict(zip(sorted(texts), clip.encode_texts(sorted(texts)), strict=True))


class Scorer:
    """Scores the images of one suite below the measurer's folder."""

    def __init__(self, suite: Suite, subjects: Sequence[SuiteSubject], measurer: Measurer, texts: Texts):
        self.suite, self.subjects, self.measurer, self.texts = suite, subjects, measurer, texts
        self._measured: dict[str, Measurement | str] = {}

    def measured(self, images: Sequence[str], *, progress: Progress | None = None) -> dict[str, Measurement | str]:
        """What the measurer says of each image, which is asked for once; `progress` follows it."""
        self._measured |= self.measurer([i for i in images if i not in self._measured], progress=progress)
        return {image: self._measured[image] for image in images}

    def score(self, methods: Sequence[Method], *, progress: Progress | None = None) -> pd.DataFrame:
        """The rows of all methods, in the order of methods, subjects, prompts, seeds. `progress(done, total, image)`
        counts images."""
        cells = self._cells(methods)
        usable = [cell for cell in cells if cell.subject.usable]
        images = list(dict.fromkeys(cell.image for cell in usable))
        measured = self.measured(images, progress=progress)
        compared: dict[str, Columns] = {image: {} for image in images}
        for group in _groups(usable, lambda cell: (cell.method.name, cell.image.rsplit("/", 1)[0])).values():
            for image, columns in diversity_columns(_images(group), measured).items():
                compared[image] |= columns
        with self.measurer.journal as journal:
            comparer = SceneComparer(self.measurer.folder, self.measurer.models.faces.person, journal)
            for scene in _scenes(usable):
                for image, columns in comparer.columns(scene, measured).items():
                    compared[image] |= columns
        rows = [
            self._row(cell, measured[cell.image]) | compared[cell.image]
            if cell.subject.usable
            else self._row(cell, "no_reference")
            for cell in cells
        ]
        return SCORES.of(rows)

    def swaps(self, methods: Sequence[Method]) -> pd.DataFrame:
        """The rows of each two people with one word, by method, prompt and seed; null where they cannot be compared."""
        scenes = _swaps([cell for cell in self._cells(methods) if cell.subject.usable])
        measured = self.measured([image for scene in scenes.values() for image in scene.images])
        rows = []
        with self.measurer.journal as journal:
            comparer = SceneComparer(self.measurer.folder, self.measurer.models.faces.person, journal)
            for (method, prompt, seed, _), scene in scenes.items():
                for image, other, (inside, outside) in comparer.between(scene, measured):
                    people = (scene.people[image], scene.people[other])
                    rows.append([method, *people, prompt, seed, image, other, inside, outside])
        return SWAPS.of(rows)

    @cached_property
    def references(self) -> dict[str, np.ndarray | None]:
        """The unit embedding of each person's largest face, None where the photograph shows none or is none."""
        faces, photos = self.measurer.models.faces, {s.id: s.photo for s in self.subjects if s.photo}
        detected = faces.detect(list(photos.values()))
        seen = [(who, found[0]) for who, found in zip(photos, detected, strict=True) if found]
        embeddings = faces.embed([photos[who] for who, _ in seen], [face for _, face in seen])
        none = dict.fromkeys((subject.id for subject in self.subjects), None)
        return none | {who: embedding for (who, _), embedding in zip(seen, embeddings, strict=True)}

    def _cells(self, methods: Sequence[Method]) -> list[_Cell]:
        by_name = {method.name: method for method in methods}
        cells = []
        for method in methods:
            prior = by_name.get(method.compared_with or "")
            for subject in self.subjects:
                for prompt in self.suite.prompts:
                    for seed in self.suite.seeds:
                        key = (subject.id, subject.word, prompt.id, seed)
                        compared = image_path(prior, *key) if prior else None
                        cells.append(_Cell(method, subject, prompt, seed, image_path(method, *key), compared))
        return cells

    def _row(self, cell: _Cell, found: Measurement | str) -> dict[str, Any]:
        """The row of what was measured, or of the outcome that stands in its place."""
        row: dict[str, Any] = {
            "method": cell.method.name,
            "subject": cell.subject.id,
            "word": cell.subject.word,
            "prompt_id": cell.prompt.id,
            "category": cell.prompt.category,
            "prompt": cell.prompt.for_word(cell.subject.word),
            "seed": cell.seed,
            "image": cell.image,
        }
        if isinstance(found, str):
            return row | {"outcome": found}
        texts = self._embedded(self.suite.rivals(cell.prompt), cell.subject.word)
        unasked = [other.text for other in self.suite.prompts if other.text != cell.prompt.text]
        row |= {
            "outcome": "scored" if found.faces else "no_face",
            "pc": metrics.prompt_consistency(found.clip, texts[0]),
            "pc_other": metrics.mean_consistency(found.clip, self._embedded(unasked, cell.subject.word)),
            "pc_rank": metrics.prompt_rank(found.clip, texts),
            "generation_seconds": found.seconds,
        }
        for name, words in cell.prompt.shows:
            if words is not None and found.shown is not None:
                row[f"{name}_shown"] = float(found.shown[name] == words)
        if found.faces:
            box = found.faces[0].box
            size = (box[3] - box[1]) / found.height
            row |= dict(zip(FACE_COLUMNS, [*box, found.faces[0].probability, size], strict=True))
        reference = self.references[cell.subject.id]
        if reference is None:
            return row | {"outcome": "no_reference_face"}
        return row | {"ip": metrics.identity_preservation(next(iter(found.identities), None), reference)}

    def _embedded(self, texts: Sequence[str], word: str) -> np.ndarray:
        """Unit embeddings `[P, d]` of texts for a class word; `[0]` of none."""
        return np.array([self.texts[text.replace("{word}", word)] for text in texts])


def _scenes(cells: Sequence[_Cell]) -> list[Scene]:
    """The images to compare with one another: those of personal methods by method, prompt, seed and class word, and
    those of priors by method, prompt and class word."""
    priors = [cell for cell in cells if cell.method.kind == "prior"]
    seeds = _groups(priors, lambda cell: (cell.method.name, cell.prompt.id, cell.subject.word))
    return [*_swaps(cells).values(), *(Scene("seed_change", tuple(_images(group))) for group in seeds.values())]


def _swaps(cells: Sequence[_Cell]) -> dict[tuple, Scene]:
    """The images of personal methods that differ by their subject alone, by method, prompt, seed and class word."""
    personal = [cell for cell in cells if cell.method.kind != "prior"]
    groups = _groups(personal, lambda cell: (cell.method.name, cell.prompt.id, cell.seed, cell.subject.word))
    return {
        key: Scene("swap_change", tuple(_images(group)), group[0].prior, {c.image: c.subject.id for c in group})
        for key, group in groups.items()
    }


def _groups(cells: Iterable[_Cell], by: Callable[[_Cell], tuple]) -> dict[tuple, list[_Cell]]:
    groups: dict[tuple, list[_Cell]] = defaultdict(list)
    for cell in cells:
        groups[by(cell)].append(cell)
    return groups


def _images(cells: Iterable[_Cell]) -> list[str]:
    """Their images, each once: people with the same word share the prior's."""
    return list(dict.fromkeys(cell.image for cell in cells))
