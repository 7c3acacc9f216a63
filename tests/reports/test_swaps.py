"""Which people and prompts a page swaps, and which images it compares.

pytest tests/reports/test_swaps.py
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from reports.swaps import GAIN, SwapGrid, swap_grid

PROMPTS = {"hat": "accessory", "cap": "accessory", "beach": "context", "moon": "context", "ink": "style"}


class Album:
    """The images of two methods at two seeds; those in `lost` were never asked for."""

    def __init__(self, people: str = "abc", lost: tuple[str, ...] = (), prior: bool = True) -> None:
        self.seed = 3
        self.shown = SimpleNamespace(method="moa")
        self.prior = SimpleNamespace(method="prior") if prior else None
        self.evaluation = SimpleNamespace(folder=Path("there"))
        self.thumbs = SimpleNamespace(difference=self._difference)
        self.rows = pd.DataFrame(
            {"method": method, "subject": who, "prompt_id": prompt, "category": category, "seed": seed, "word": "man"}
            | {"ip": 0.9 if seed == 4 and who == "a" else 0.5, "image": f"{method}-{who}-{prompt}-{seed}.png"}
            for method, who, (prompt, category), seed in product(("prior", "moa"), people, PROMPTS.items(), (3, 4))
            if f"{method}-{who}-{prompt}-{seed}" not in lost
        )

    def prompts(self, rows: pd.DataFrame) -> list[str]:
        return list(PROMPTS)

    def row(self, method: str, subject: str, prompt: str, seed: int) -> Any:
        found = (row for row in self.rows.itertuples() if row.image == f"{method}-{subject}-{prompt}-{seed}.png")
        return next(found, None)

    def at(self, method: str, subject: str, prompt: str, seed: int, edge: int, columns: tuple[str, ...]) -> Any:
        row = self.row(method, subject, prompt, seed)
        return row and SimpleNamespace(prompt=f"a man, {prompt}", image=row.image)

    def reference(self, subject: str) -> str:
        return f"reference of {subject}"

    def _difference(self, file: Path, other: Path, edge: int, gain: float) -> str:
        assert file.parent == other.parent == Path("there") and gain == GAIN
        return f"{file.stem} - {other.stem}"


def grid(album: Album, **options: int) -> SwapGrid:
    found = swap_grid(album, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_prompt_of_each_category_from_the_last_to_the_first() -> None:
    assert [row.prompt for row in grid(Album(), prompts=3).rows] == ["a man, ink", "a man, beach", "a man, hat"]
    found = grid(Album(), prompts=2)
    assert [row.prompt for row in found.rows] == ["a man, ink", "a man, hat"] and found.seed == 3
    assert found.subjects == [(who, f"reference of {who}") for who in "abc"]


def test_people_are_chosen_by_what_is_shown_at_the_seed() -> None:
    """At the other one the first is far from the median."""
    assert [who for who, _ in grid(Album(), subjects=2).subjects] == ["a", "b"]


def test_each_image_is_compared_with_the_prior_and_with_its_left_neighbour() -> None:
    row = grid(Album()).rows[0]
    assert row.prior is not None and row.prior.image == "prior-a-ink-3.png"
    assert [shot.image for shot in row.shots if shot] == [f"moa-{who}-ink-3.png" for who in "abc"]
    assert [one.image for one in row.to_prior] == [f"moa-{who}-ink-3 - prior-a-ink-3" for who in "abc"]
    assert [one.image for one in row.to_neighbour] == [None, "moa-b-ink-3 - moa-a-ink-3", "moa-c-ink-3 - moa-b-ink-3"]
    assert row.to_neighbour[0].said == ""
    assert row.to_neighbour[1].said == "Absolute difference, 3 times amplified: b minus a"


def test_what_is_missing_leaves_its_place_empty() -> None:
    row = grid(Album(lost=("moa-b-ink-3",))).rows[0]
    assert [shot is None for shot in row.shots] == [False, True, False]
    assert [one.image is None for one in row.to_prior] == [False, True, False]
    assert [one.image for one in row.to_neighbour] == [None, None, None]
    alone = grid(Album(prior=False)).rows[0]
    assert alone.prior is None and alone.to_prior == [] and len(alone.to_neighbour) == 3


def test_one_person_cannot_be_swapped() -> None:
    assert swap_grid(Album(people="a")) is None  # type: ignore[arg-type]
