"""Images of two people: one table of figures, and the pairs beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.album import HERO_EDGE, Album
from reports.evaluation_format import MethodSummary
from reports.images import Thumb
from reports.selection import in_order
from reports.shots import Shot

CAPTION = ("ip", "leakage", "pc")


@dataclass(frozen=True)
class PairGrid:
    """`rows` are (names, references, prompt, shots), shots parallel to `methods`, None where there is no image."""

    methods: list[MethodSummary]
    rows: list[tuple[str, tuple[Thumb, Thumb], str, list[Shot | None]]]
    seed: int
    all_rows: int


def pair_grid(album: Album, pairs: pd.DataFrame, count: int = 6) -> PairGrid | None:
    """Each pair with a prompt of its own, then each with the next prompt, at the first seed. None without a row."""
    if pairs.empty:
        return None
    seed = int(pairs["seed"].min())
    at_seed = pairs[pairs["seed"] == seed]
    found = {(r.method, r.first, r.second, r.prompt_id): r for r in at_seed.itertuples(index=False)}
    methods = [method for method in album.evaluation.methods if method.method in set(at_seed["method"])]
    prompts = in_order(at_seed, "prompt_id")
    people = sorted(set(zip(at_seed["first"], at_seed["second"], strict=True)))
    turns = [(turn, number) for turn in range(len(prompts)) for number in range(len(people))]
    cells = [(people[number], prompts[(number + turn) % len(prompts)]) for turn, number in turns]
    table = []
    for (first, second), prompt in cells[:count]:
        rows = [found.get((method.method, first, second, prompt)) for method in methods]
        names = f"{first} + {second}"
        shots = [album.shot(row, names, HERO_EDGE // 2, CAPTION) if row is not None else None for row in rows]
        text = next((shot.prompt for shot in shots if shot), prompt)
        table.append((names, (album.reference(first), album.reference(second)), text, shots))
    return PairGrid(methods, table, seed, len(cells))
