"""A shot: one generated image in the page, with its scores, its description and the link to the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.formats import MethodSummary
from reports.images import Thumb, Thumbnails
from reports.run_folder import Evaluation

OUTCOMES = {
    "scored": "scored",
    "no_face": "no face found",
    "no_reference_face": "no face in the reference",
    "missing": "image missing",
    "unreadable": "image unreadable",
}


@dataclass(frozen=True)
class Shot:
    """One cell of a grid. `ip`, `pc` and `change` are None where they were not measured; `alt` describes the image in
    words."""

    method: str
    label: str
    tone: str
    subject: str
    word: str
    prompt_id: str
    category: str
    prompt: str
    seed: int
    outcome: str
    ip: float | None
    pc: float | None
    change: float | None
    image: Thumb

    @property
    def key(self) -> str:
        """The same for the images of all methods at one subject, prompt and seed."""
        return f"{self.subject}|{self.prompt_id}|{self.seed}"

    @property
    def trouble(self) -> str:
        """What went wrong with this image, in words, or ""."""
        return self.image.problem or ("" if self.outcome == "scored" else OUTCOMES[self.outcome])

    @property
    def scores(self) -> str:
        """The scores in words: "IP 0.612, PC 0.241"."""
        named = (("IP", self.ip), ("PC", self.pc), ("change outside", self.change))
        return ", ".join(f"{name} {value:.3f}" for name, value in named if value is not None)

    @property
    def alt(self) -> str:
        """The text of the image for those who cannot see it."""
        trouble = f" ({self.trouble})" if self.trouble else ""
        return f"{self.label}: {self.prompt}; subject {self.subject}, seed {self.seed}. {self.scores}{trouble}"


def tones(methods: Sequence[MethodSummary]) -> dict[str, str]:
    """A colour name for each method: its kind, then kind-2, kind-3 (later ones share the third)."""
    seen: dict[str, int] = {}
    named = {}
    for method in methods:
        seen[method.kind] = number = seen.get(method.kind, 0) + 1
        named[method.method] = method.kind if number == 1 else f"{method.kind}-{min(number, 3)}"
    return named


class ShotMaker:
    """Turns keys of one evaluation into shots."""

    def __init__(self, evaluation: Evaluation, rows: pd.DataFrame, thumbs: Thumbnails) -> None:
        self._folder, self._thumbs = evaluation.folder, thumbs
        self._labels = {method.method: method.label for method in evaluation.methods}
        self._tones = tones(evaluation.methods)
        self._rows = {(row.method, row.subject, row.prompt_id, row.seed): row for row in rows.itertuples(index=False)}

    def at(self, method: str, subject: str, prompt: str, seed: int, edge: int) -> Shot | None:
        """The shot of that key, its thumbnail at most `edge` pixels, or None where no such image was asked for."""
        row = self._rows.get((method, subject, prompt, seed))
        return None if row is None else self._shot(row, edge)

    def reference(self, subject: str, edge: int) -> Thumb:
        """The reference image of a subject, as the model saw it."""
        return self._thumbs.thumb(self._folder / "references" / f"{subject}.png", edge)

    def _shot(self, row: Any, edge: int) -> Shot:
        has_file = isinstance(row.image, str) and row.image
        image = (
            self._thumbs.thumb(self._folder / row.image, edge)
            if has_file
            else Thumb("", 0, 0, "", problem="image missing")
        )
        return Shot(
            method=row.method,
            label=self._labels.get(row.method, row.method),
            tone=self._tones.get(row.method, "ablation-3"),
            subject=row.subject,
            word=row.word,
            prompt_id=row.prompt_id,
            category=row.category,
            prompt=row.prompt,
            seed=int(row.seed),
            outcome=row.outcome,
            ip=_number(row.ip),
            pc=_number(row.pc),
            change=_number(row.context_change_outside),
            image=image,
        )


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
