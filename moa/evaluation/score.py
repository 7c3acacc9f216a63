"""Measures the generated images: one row per (method, subject, prompt, seed), `scores.parquet` and `scores.csv`.

Columns: datasets/FORMAT.md, section 6. References and prompts are embedded once, images in batches, and no image is
kept. A missing or unreadable image costs its own row only: `outcome` says what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from moa.data import file_digest
from moa.errors import ScoresError
from moa.evaluation import metrics
from moa.evaluation.clip import ClipScorer
from moa.evaluation.faces import FaceEvaluator
from moa.evaluation.files import json_digest, write_file
from moa.evaluation.generate import Method, image_path, read_chunk
from moa.evaluation.journal import Journal, Measured
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.suite import Prompt, Suite

Progress = Callable[[int, int, str], None]
KEY = ["method", "subject", "prompt_id", "seed"]
TEXT_COLUMNS = ["method", "subject", "word", "prompt_id", "category", "prompt", "image", "outcome"]
FACE_COLUMNS = ["face_x0", "face_y0", "face_x1", "face_y1", "face_probability", "face_size"]
CONTEXT_COLUMNS = ["context_change_inside", "context_change_outside"]
NUMBER_COLUMNS = ["ip", "pc", *FACE_COLUMNS, *CONTEXT_COLUMNS, "generation_seconds"]
COLUMNS = [*TEXT_COLUMNS[:6], "seed", *TEXT_COLUMNS[6:], *NUMBER_COLUMNS]


@dataclass(frozen=True)
class _Cell:
    """One row to be: an image and the person it is scored for. `prior` is the prior's image of the same prompt and
    seed."""

    method: Method
    subject: SuiteSubject
    prompt: Prompt
    seed: int
    image: str
    prior: str | None

    @property
    def text(self) -> str:
        return self.prompt.for_word(self.subject.word)


class Scorer:
    """Scores the images of one suite below one folder with one pair of measuring models."""

    def __init__(
        self, folder: Path, suite: Suite, subjects: Sequence[SuiteSubject], faces: FaceEvaluator, clip: ClipScorer
    ):
        self.folder, self.suite, self.subjects, self.faces, self.clip = folder, suite, subjects, faces, clip
        self.evaluators = {"faces": faces.describe(), "clip": clip.describe()}
        self.references = self._embed_references()
        texts = sorted({prompt.for_word(subject.word) for prompt in suite.prompts for subject in subjects})
        self.texts = dict(zip(texts, clip.encode_texts(texts), strict=True))

    def score(
        self, methods: Sequence[Method], *, batch_size: int = 16, progress: Progress | None = None
    ) -> pd.DataFrame:
        """The rows of all methods, in the order of methods, subjects, prompts, seeds. `progress(done, total, image)`
        counts images."""
        cells = self._cells(methods)
        by_image: dict[str, list[_Cell]] = {}
        for cell in cells:
            by_image.setdefault(cell.image, []).append(cell)
        images = list(by_image)
        measured: dict[str, Measured] = {}
        with Journal(self.folder / "measurements.jsonl") as journal:
            for start in range(0, len(images), batch_size):
                batch = {image: by_image[image] for image in images[start : start + batch_size]}
                measured |= self._measure(batch, journal)
                if progress:
                    progress(len(measured), len(images), images[min(start + batch_size, len(images)) - 1])
        rows = [self._row(cell, measured) for cell in cells]
        return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBER_COLUMNS, "float64"))

    def _embed_references(self) -> dict[str, np.ndarray | None]:
        """The unit embedding of each person's largest face, None where the photograph shows none."""
        detected = self.faces.detect([subject.photo for subject in self.subjects])
        seen = [(subject, faces[0]) for subject, faces in zip(self.subjects, detected, strict=True) if faces]
        embeddings = self.faces.embed([subject.photo for subject, _ in seen], [face for _, face in seen])
        none = dict.fromkeys((subject.id for subject in self.subjects), None)
        return none | {subject.id: embedding for (subject, _), embedding in zip(seen, embeddings, strict=True)}

    def _cells(self, methods: Sequence[Method]) -> list[_Cell]:
        prior = next((method for method in methods if method.kind == "prior"), None)
        cells = []
        for method in methods:
            for subject in self.subjects:
                for prompt in self.suite.prompts:
                    for seed in self.suite.seeds:
                        key = (subject.id, subject.word, prompt.id, seed)
                        compared = image_path(prior, *key) if prior and method is not prior else None
                        cells.append(_Cell(method, subject, prompt, seed, image_path(method, *key), compared))
        return cells

    def _measure(self, batch: dict[str, list[_Cell]], journal: Journal) -> dict[str, Measured]:
        """What can be said of each image; those the journal does not know are opened and measured together."""
        measured: dict[str, Measured] = {}
        opened: dict[str, tuple[str, Image.Image]] = {}
        for path, cells in batch.items():
            image = _open(self.folder / path)
            if isinstance(image, str):
                measured[path] = {"outcome": image}
                continue
            key = self._journal_key(self.folder / path, cells)
            known = journal.get(key)
            if known is None:
                opened[path] = (key, image)
            else:
                measured[path] = known
        for path, record in self._measure_images({path: image for path, (_, image) in opened.items()}, batch).items():
            journal.add(opened[path][0], record)
            measured[path] = record
        return measured

    def _journal_key(self, path: Path, cells: list[_Cell]) -> str:
        subjects = {cell.subject.id: cell.subject.digest for cell in cells}
        return json_digest([file_digest(path), cells[0].text, subjects, self.evaluators])

    def _measure_images(self, images: dict[str, Image.Image], cells: dict[str, list[_Cell]]) -> dict[str, Measured]:
        """IP for each person the image is scored for, PC, the largest face: one pass of each model over the batch."""
        faces = dict(zip(images, self.faces.detect(list(images.values())), strict=True))
        seen = [path for path in images if faces[path]]
        embedded = self.faces.embed([images[path] for path in seen], [faces[path][0] for path in seen])
        embeddings = dict(zip(seen, embedded, strict=True))
        clips = dict(zip(images, self.clip.encode_images(list(images.values())), strict=True))
        return {
            path: {
                "outcome": None,
                "height": images[path].height,
                "face": [*faces[path][0].box, faces[path][0].probability] if faces[path] else None,
                "ip": {cell.subject.id: self._ip(embeddings.get(path), cell.subject) for cell in cells[path]},
                "pc": metrics.prompt_consistency(clips[path], self.texts[cells[path][0].text]),
                "seconds": read_chunk(self.folder / path).get("seconds"),
            }
            for path in images
        }

    def _ip(self, embedding: np.ndarray | None, subject: SuiteSubject) -> float | None:
        reference = self.references[subject.id]
        return None if reference is None else metrics.identity_preservation(embedding, reference)

    def _row(self, cell: _Cell, measured: dict[str, Measured]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "method": cell.method.name,
            "subject": cell.subject.id,
            "word": cell.subject.word,
            "prompt_id": cell.prompt.id,
            "category": cell.prompt.category,
            "prompt": cell.text,
            "seed": cell.seed,
            "image": cell.image,
        }
        record = measured[cell.image]
        if record["outcome"]:
            return row | {"outcome": record["outcome"]}
        found = "scored" if record["face"] else "no_face"
        row["outcome"] = found if self.references[cell.subject.id] is not None else "no_reference_face"
        row |= {"ip": record["ip"][cell.subject.id], "pc": record["pc"], "generation_seconds": record["seconds"]}
        if record["face"]:
            _, y0, _, y1, _ = record["face"]
            size = (y1 - y0) / record["height"]
            row |= dict(zip(FACE_COLUMNS, [*record["face"], size], strict=True))
        if cell.prior:
            row |= self._context(cell.image, record, cell.prior, measured[cell.prior])
        return row

    def _context(self, image: str, record: Measured, prior: str, prior_record: Measured) -> dict[str, float | None]:
        """Change against the prior, inside and outside the place where either image shows the person; empty without
        one."""
        faces = [found["face"][:4] for found in (record, prior_record) if found.get("face")]
        if not faces or prior_record["outcome"]:
            return {}
        pixels, before = (np.asarray(_open(self.folder / path)) for path in (image, prior))
        height, width = pixels.shape[:2]
        region = np.any([metrics.person_region(face, width, height) for face in faces], axis=0)
        return dict(zip(CONTEXT_COLUMNS, metrics.context_change(pixels, before, region), strict=True))


def write_scores(folder: Path, rows: pd.DataFrame) -> list[Path]:
    """Writes `scores.parquet` and `scores.csv` into `folder`; a null is an empty field in the CSV."""
    return [
        write_file(folder / "scores.parquet", lambda draft: rows.to_parquet(draft, index=False)),
        write_file(folder / "scores.csv", lambda draft: rows.to_csv(draft, index=False)),
    ]


def read_scores(folder: Path) -> pd.DataFrame:
    """The rows of `scores.parquet`. Raises `ScoresError` naming the file, and the column at fault."""
    path = folder / "scores.parquet"
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ScoresError(f"{path}: cannot be read ({error}); run the evaluation again") from error
    missing = [column for column in COLUMNS if column not in rows]
    if missing:
        raise ScoresError(f"{path}: lacks column {missing[0]}; run the evaluation again")
    if rows.duplicated(KEY).any():
        raise ScoresError(
            f"{path}: holds a (method, subject, prompt_id, seed) more than once; run the evaluation again"
        )
    return rows


def _open(path: Path) -> Image.Image | str:
    """The image as RGB, or the outcome that says why not."""
    if not path.is_file():
        return "missing"
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "unreadable"
