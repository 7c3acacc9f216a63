"""Scores images of two people: one row per (method, pair, prompt, seed), the table of pairs.

The published protocol for several people looks for all faces of an image, matches them with the references and takes
the smaller of the two similarities, so that one good likeness cannot make up for a bad one. Who is matched with whom
is `metrics.match_faces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from moa.evaluation import metrics
from moa.evaluation.generate import Method, pair_path
from moa.evaluation.measure import Measurement
from moa.evaluation.score import Scorer
from moa.evaluation.score_tables import PAIRS
from moa.evaluation.subjects import SuiteSubject, choose_pairs
from moa.evaluation.suite import PairPrompt

# A false face would be matched like a true one, and a detector's largest-first order does not protect two people.
# MTCNN: the 16 faces of the 15 CelebA photographs have 0.996 and more, a false one in a picture of two people had 0.76.
# Miniature model, 240 pictures: 0.7 keeps 97 % of 341 true faces and 3 of 6 false ones.
PROBABILITY = {"facenet": 0.9, "miniature": 0.7}
SIZE = 1 / 3  # of the height of the image's largest face; false faces are small, two people of one picture are alike


@dataclass(frozen=True)
class _Cell:
    """One row to be: an image and the two people it is scored for."""

    method: Method
    first: SuiteSubject
    second: SuiteSubject
    prompt: PairPrompt
    seed: int

    @property
    def image(self) -> str:
        return pair_path(self.method, self.first, self.second, self.prompt.id, self.seed)

    @property
    def usable(self) -> bool:
        return self.first.usable and self.second.usable

    @property
    def text(self) -> str:
        return self.prompt.for_words(self.first.word, self.second.word)


def score_pairs(scorer: Scorer, methods: Sequence[Method]) -> pd.DataFrame | None:
    """The rows of all methods, in the order of methods, pairs, prompts, seeds; None for a suite without pairs."""
    declared = scorer.suite.pairs
    if declared is None:
        return None
    cells = [
        _Cell(method, first, second, prompt, seed)
        for method in methods
        for first, second in choose_pairs(scorer.suite, scorer.subjects)
        for prompt in declared.prompts
        for seed in declared.seeds
    ]
    measured = scorer.measured(list(dict.fromkeys(cell.image for cell in cells if cell.usable)))
    probability = PROBABILITY[scorer.suite.evaluators.faces.kind]
    rows = []
    for cell in cells:
        found = measured[cell.image] if cell.usable else "no_reference"
        rows.append(_row(cell, found, scorer.references, scorer.texts[cell.text], probability))
    return PAIRS.of(rows)


def true_faces(found: Measurement, probability: float) -> np.ndarray:
    """Unit embeddings `[F, d]` of the faces of an image that are no false alarms: sure enough, and not tiny."""
    heights = [face.box[3] - face.box[1] for face in found.faces]
    kept = [
        identity
        for face, height, identity in zip(found.faces, heights, found.identities, strict=True)
        if face.probability >= probability and height >= SIZE * max(heights)
    ]
    return np.array(kept)


def _row(
    cell: _Cell,
    found: Measurement | str,
    references: dict[str, np.ndarray | None],
    text: np.ndarray,
    probability: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": cell.method.name,
        "first": cell.first.id,
        "second": cell.second.id,
        "first_word": cell.first.word,
        "second_word": cell.second.word,
        "prompt_id": cell.prompt.id,
        "prompt": cell.text,
        "seed": cell.seed,
        "image": cell.image,
    }
    if isinstance(found, str):
        return row | {"outcome": found}
    faces = true_faces(found, probability)
    row |= {"faces": len(faces), "pc": metrics.prompt_consistency(found.clip, text)}
    first, second = references[cell.first.id], references[cell.second.id]
    if first is None or second is None:
        return row | {"outcome": "no_reference_face"}
    row["reference_similarity"] = float(np.dot(first, second))
    match = metrics.match_faces(faces, np.stack([first, second]))
    if match is None:
        return row | {"outcome": "too_few_faces", "ip": 0.0, "assigned": 0.0}
    return row | {"outcome": "scored"} | asdict(match)
