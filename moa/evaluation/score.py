"""Scores the generated images: one row per (method, subject, prompt, seed), `scores.parquet` and `scores.csv`.

Columns: datasets/FORMAT.md, section 6. Two steps, so that several processes can share the first: `Scorer.measure` asks
the models about images and fills the journal, `Scorer.score` measures what is still missing, compares images with one
another and builds the rows. Kept in memory are embeddings, never pixels. A missing or unreadable image costs its own
row only: `outcome` says what happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from moa.data import file_digest
from moa.evaluation import metrics
from moa.evaluation.clip import ClipScorer
from moa.evaluation.context import Columns, Scene, SceneComparer, diversity_columns
from moa.evaluation.faces import FaceEvaluator
from moa.evaluation.files import json_digest
from moa.evaluation.generate import Method, image_path
from moa.evaluation.journal import Journal
from moa.evaluation.measure import Measurement, measure_images, open_image
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.suite import Prompt, Suite
from moa.evaluation.tables import read_table, write_table

Progress = Callable[[int, int, str], None]
KEY = ["method", "subject", "prompt_id", "seed"]
TEXT_COLUMNS = ["method", "subject", "word", "prompt_id", "category", "prompt", "image", "outcome"]
FACE_COLUMNS = ["face_x0", "face_y0", "face_x1", "face_y1", "face_probability", "face_size"]
CHANGE_COLUMNS = ["context_change_inside", "context_change_outside", "swap_change_inside", "swap_change_outside"]
DIVERSITY_COLUMNS = ["diversity_layout", "diversity_content"]
NUMBER_COLUMNS = ["ip", "pc", "pc_rank", *FACE_COLUMNS, *CHANGE_COLUMNS, *DIVERSITY_COLUMNS, "generation_seconds"]
COLUMNS = [*TEXT_COLUMNS[:6], "seed", *TEXT_COLUMNS[6:], *NUMBER_COLUMNS]


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


class Scorer:
    """Scores the images of one suite below one folder with one pair of measuring models.

    Processes that share the work give themselves different `part` numbers, and call `measure` only; the one without a
    part comes last and scores.
    """

    def __init__(
        self,
        folder: Path,
        suite: Suite,
        subjects: Sequence[SuiteSubject],
        faces: FaceEvaluator,
        clip: ClipScorer,
        *,
        part: int | None = None,
    ):
        self.folder, self.suite, self.subjects, self.faces, self.clip = folder, suite, subjects, faces, clip
        self.evaluators = json_digest({"faces": faces.describe(), "clip": clip.describe()})
        self.journal = Journal(folder / "measurements.jsonl", part)

    def measure(
        self, images: Sequence[str], *, batch_size: int = 16, progress: Progress | None = None
    ) -> dict[str, Measurement | str]:
        """What can be said of each image (path below the folder), or the outcome that says why nothing can: `missing`,
        `unreadable`. `progress(done, total, image)` follows each batch; images the journal knows are not decoded."""
        measured: dict[str, Measurement | str] = {}
        with self.journal:
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                measured |= self._measure_batch(batch)
                if progress:
                    progress(len(measured), len(images), batch[-1])
        return measured

    def score(
        self, methods: Sequence[Method], *, batch_size: int = 16, progress: Progress | None = None
    ) -> pd.DataFrame:
        """The rows of all methods, in the order of methods, subjects, prompts, seeds. `progress(done, total, image)`
        counts images."""
        cells = self._cells(methods)
        images = list(dict.fromkeys(cell.image for cell in cells))
        measured = self.measure(images, batch_size=batch_size, progress=progress)
        compared: dict[str, Columns] = {image: {} for image in images}
        for group in _groups(cells, lambda cell: (cell.method.name, cell.image.rsplit("/", 1)[0])):
            for image, columns in diversity_columns(_images(group), measured).items():
                compared[image] |= columns
        with self.journal:
            comparer = SceneComparer(self.folder, self.faces.person, self.journal)
            for scene in _scenes(cells):
                for image, columns in comparer.columns(scene, measured).items():
                    compared[image] |= columns
        rows = [self._row(cell, measured[cell.image]) | compared[cell.image] for cell in cells]
        return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBER_COLUMNS, "float64"))

    @cached_property
    def references(self) -> dict[str, np.ndarray | None]:
        """The unit embedding of each person's largest face, None where the photograph shows none."""
        detected = self.faces.detect([subject.photo for subject in self.subjects])
        seen = [(subject, faces[0]) for subject, faces in zip(self.subjects, detected, strict=True) if faces]
        embeddings = self.faces.embed([subject.photo for subject, _ in seen], [face for _, face in seen])
        none = dict.fromkeys((subject.id for subject in self.subjects), None)
        return none | {subject.id: embedding for (subject, _), embedding in zip(seen, embeddings, strict=True)}

    @cached_property
    def _texts(self) -> dict[tuple[str, str], np.ndarray]:
        """By category and class word the unit embeddings `[P, d]` of the category's prompts, in the suite's order."""
        words = sorted({subject.word for subject in self.subjects})
        texts = [prompt.for_word(word) for word in words for prompt in self.suite.prompts]
        embedded = self.clip.encode_texts(texts).reshape(len(words), len(self.suite.prompts), -1)
        categories = np.array([prompt.category for prompt in self.suite.prompts])
        return {
            (category, word): embedded[i, categories == category]
            for i, word in enumerate(words)
            for category in set(categories)
        }

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place of each prompt among those of its category."""
        counted: dict[str, int] = defaultdict(int)
        places = {}
        for prompt in self.suite.prompts:
            places[prompt.id] = counted[prompt.category]
            counted[prompt.category] += 1
        return places

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

    def _measure_batch(self, images: Sequence[str]) -> dict[str, Measurement | str]:
        measured: dict[str, Measurement | str] = {}
        opened: dict[str, tuple[str, str, Image.Image]] = {}  # path: digest, key of the journal, image
        for path in images:
            file = self.folder / path
            digest = file_digest(file) if file.is_file() else ""
            key = json_digest([digest, self.evaluators])
            known = self.journal.get(key)
            if known is not None:
                measured[path] = Measurement.from_json(known)
                continue
            image = open_image(file)
            if isinstance(image, str):
                measured[path] = image
            else:
                opened[path] = digest, key, image
        pictures, digests = [image for *_, image in opened.values()], [digest for digest, *_ in opened.values()]
        found = measure_images(pictures, digests, self.faces, self.clip)
        for (path, (_, key, _)), measurement in zip(opened.items(), found, strict=True):
            self.journal.add(key, measurement.to_json())
            measured[path] = measurement
        return measured

    def _row(self, cell: _Cell, found: Measurement | str) -> dict[str, Any]:
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
        texts, own = self._texts[cell.prompt.category, cell.subject.word], self._places[cell.prompt.id]
        row |= {
            "outcome": "scored" if found.faces else "no_face",
            "pc": metrics.prompt_consistency(found.clip, texts[own]),
            "pc_rank": metrics.prompt_rank(found.clip, texts, own),
            "generation_seconds": found.seconds,
        }
        if found.faces:
            box = found.faces[0].box
            size = (box[3] - box[1]) / found.height
            row |= dict(zip(FACE_COLUMNS, [*box, found.faces[0].probability, size], strict=True))
        reference = self.references[cell.subject.id]
        if reference is None:
            return row | {"outcome": "no_reference_face"}
        return row | {"ip": metrics.identity_preservation(next(iter(found.identities), None), reference)}


def write_scores(folder: Path, rows: pd.DataFrame) -> list[Path]:
    """Writes `scores.parquet` and `scores.csv` into `folder`."""
    return write_table(folder, "scores", rows)


def read_scores(folder: Path) -> pd.DataFrame:
    """The rows of `scores.parquet`. Raises `ScoresError` naming the file, and the column at fault."""
    return read_table(folder / "scores.parquet", COLUMNS, KEY)


def _scenes(cells: Iterable[_Cell]) -> list[Scene]:
    """The images to compare with one another: those of personal methods, by method, prompt, seed and class word."""
    personal = (cell for cell in cells if cell.method.kind != "prior")
    groups = _groups(personal, lambda cell: (cell.method.name, cell.prompt.id, cell.seed, cell.subject.word))
    return [Scene(tuple(_images(group)), group[0].prior) for group in groups]


def _groups(cells: Iterable[_Cell], by: Callable[[_Cell], tuple]) -> list[list[_Cell]]:
    groups: dict[tuple, list[_Cell]] = defaultdict(list)
    for cell in cells:
        groups[by(cell)].append(cell)
    return list(groups.values())


def _images(cells: Iterable[_Cell]) -> list[str]:
    """Their images, each once: people with the same word share the prior's."""
    return list(dict.fromkeys(cell.image for cell in cells))
