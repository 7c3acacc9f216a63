"""A shot: one generated image in the page, with its scores, its description and the link to the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.evaluation_format import MethodSummary
from reports.images import Thumb

OUTCOMES = {
    "scored": "scored",
    "no_face": "no face found",
    "too_few_faces": "fewer than two faces found",
    "no_reference_face": "no face in the reference",
    "no_reference": "reference missing or unreadable",
    "missing": "image missing",
    "unreadable": "image unreadable",
}
# column -> how a caption names it, and what it is
MEASURES = {
    "ip": ("IP", "identity preservation"),
    "pc": ("PC", "prompt consistency"),
    "leakage": ("leak", "similarity of each face to the other person"),
    "context_change_outside": ("Δ", "mean absolute change outside the person, against the prior"),
    "swap_change_outside": ("Δ out", "mean absolute change outside the person, against the other subjects"),
    "swap_change_inside": ("Δ in", "mean absolute change inside the person, against the other subjects"),
}
NEEDS_FACE = ("ip", "leakage")  # mean nothing where no face was found


@dataclass(frozen=True)
class Measure:
    """One figure of a caption: its short name, what it is, and its value."""

    name: str
    title: str
    value: float


@dataclass(frozen=True)
class Shot:
    """One cell of a grid. `measures` are the figures of its caption, those that were taken."""

    suite: str
    method: str
    label: str
    tone: str
    subject: str
    prompt_id: str
    category: str
    prompt: str
    seed: int
    outcome: str
    measures: tuple[Measure, ...]
    image: Thumb

    @property
    def key(self) -> str:
        """The same for the images of all methods at one subject (or pair of them), prompt and seed of a suite."""
        return f"{self.suite}|{self.subject}|{self.prompt_id}|{self.seed}"

    @property
    def trouble(self) -> str:
        """What went wrong with this image, in words, or ""."""
        return self.image.problem or ("" if self.outcome == "scored" else OUTCOMES[self.outcome])

    @property
    def scores(self) -> str:
        """The figures in words: "IP 0.612, PC 0.241"."""
        return ", ".join(f"{measure.name} {measure.value:.3f}" for measure in self.measures)

    @property
    def alt(self) -> str:
        """The text of the image for those who cannot see it."""
        trouble = f" ({self.trouble})" if self.trouble else ""
        return f"{self.label}: {self.prompt}; subject {self.subject}, seed {self.seed}. {self.scores}{trouble}"


def measures(row: Any, columns: Sequence[str]) -> tuple[Measure, ...]:
    """The figures of a row of `scores` or `pairs`; without a face none that needs one."""
    found = []
    for column in columns:
        value = getattr(row, column)
        if not pd.isna(value) and (row.outcome == "scored" or column not in NEEDS_FACE):
            found.append(Measure(*MEASURES[column], float(value)))
    return tuple(found)


def tones(methods: Sequence[MethodSummary]) -> dict[str, str]:
    """A colour name for each method: its kind, then kind-2, kind-3 (later ones share the third)."""
    seen: dict[str, int] = {}
    named = {}
    for method in methods:
        seen[method.kind] = number = seen.get(method.kind, 0) + 1
        named[method.method] = method.kind if number == 1 else f"{method.kind}-{min(number, 3)}"
    return named
