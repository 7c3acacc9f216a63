"""Subject swaps (figures 7 and 9 of the paper): same prompt and seed, one column per subject, and what changes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from reports.album import GRID_EDGE, Album
from reports.images import Thumb
from reports.selection import one_prompt_per_category, spread, typical_subjects
from reports.shots import Shot

CAPTION = ("ip", "swap_change_inside", "swap_change_outside")
GAIN = 3.0  # differences are drawn this many times brighter


@dataclass(frozen=True)
class Difference:
    """|image - other|, amplified; `image` is None where one of the two is missing."""

    said: str
    image: Thumb | None


@dataclass(frozen=True)
class SwapRow:
    """One prompt: the prior's image, the images of `SwapGrid.subjects`, and below each its difference to the prior and
    to its left neighbour."""

    prompt: str
    prior: Shot | None
    shots: list[Shot | None]
    to_prior: list[Difference]
    to_neighbour: list[Difference]


@dataclass(frozen=True)
class SwapGrid:
    """Columns are `subjects`, as (subject, reference)."""

    subjects: list[tuple[str, Thumb]]
    rows: list[SwapRow]
    seed: int
    gain: float = GAIN


def swap_grid(album: Album, subjects: int = 5, prompts: int = 2) -> SwapGrid | None:
    """Subjects of one class word at one seed, so that only the subject differs. None with fewer than two."""
    rows = album.rows[(album.rows["seed"] == album.seed) & (album.rows["method"] == album.shown.method)]
    named = typical_subjects(rows, album.shown.method, subjects)
    if len(named) < 2:
        return None
    chosen = spread(one_prompt_per_category(rows, album.prompts(rows), len(rows))[::-1], prompts)
    table = [_row(album, named, prompt) for prompt in chosen]
    return SwapGrid([(subject, album.reference(subject)) for subject in named], table, album.seed)


def _row(album: Album, subjects: list[str], prompt: str) -> SwapRow:
    seed = album.seed
    prior = album.at(album.prior.method, subjects[0], prompt, seed, GRID_EDGE, ()) if album.prior else None
    shots = [album.at(album.shown.method, subject, prompt, seed, GRID_EDGE, CAPTION) for subject in subjects]
    text = next((shot.prompt for shot in shots if shot), prompt)
    files = [_file(album, album.shown.method, subject, prompt) for subject in subjects]
    base = _file(album, album.prior.method, subjects[0], prompt) if album.prior else None
    to_prior = [
        _difference(album, file, base, f"{name} minus the prior") for name, file in zip(subjects, files, strict=True)
    ]
    beside = [
        _difference(album, file, left, f"{name} minus {other}")
        for (other, left), (name, file) in pairwise(zip(subjects, files, strict=True))
    ]
    return SwapRow(text, prior, shots, to_prior if base else [], [Difference("", None), *beside])


def _file(album: Album, method: str, subject: str, prompt: str) -> Path | None:
    row = album.row(method, subject, prompt, album.seed)
    return album.evaluation.folder / row.image if row is not None and isinstance(row.image, str) else None


def _difference(album: Album, file: Path | None, other: Path | None, said: str) -> Difference:
    made = album.thumbs.difference(file, other, GRID_EDGE, GAIN) if file and other else None
    return Difference(f"Absolute difference, {GAIN:g} times amplified: {said}", made)
