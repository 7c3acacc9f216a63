"""Which images of two people a page shows.

pytest tests/reports/test_pairs.py
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pandas as pd

from reports.pairs import pair_grid

COUPLES = (("ann", "ben"), ("cleo", "dan"))
PROMPTS = ("beach", "park", "snow")


def album(*methods: str) -> Any:
    return SimpleNamespace(
        evaluation=SimpleNamespace(methods=[SimpleNamespace(method=method) for method in methods]),
        reference=lambda who: f"reference of {who}",
        shot=lambda row, names, edge, columns: SimpleNamespace(prompt=row.prompt, method=row.method, names=names),
    )


def pairs(*methods: str, seeds: tuple[int, ...] = (3, 4)) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": method, "first": first, "second": second, "prompt_id": prompt, "seed": seed}
        | {"prompt": f"{first} and {second}, {prompt}"}
        for seed, method, (first, second), prompt in product(reversed(seeds), methods, COUPLES, PROMPTS)
    )


def test_each_pair_comes_with_a_prompt_of_its_own_before_it_comes_again() -> None:
    grid = pair_grid(album("prior", "moa"), pairs("prior", "moa"), count=4)
    assert grid is not None and (grid.seed, grid.all_rows) == (3, 6)
    assert [(names, prompt) for names, _, prompt, _ in grid.rows] == [
        ("ann + ben", "ann and ben, beach"),
        ("cleo + dan", "cleo and dan, park"),
        ("ann + ben", "ann and ben, park"),
        ("cleo + dan", "cleo and dan, snow"),
    ]
    names, references, _, shots = grid.rows[1]
    assert references == ("reference of cleo", "reference of dan")
    assert [(shot.method, shot.names) for shot in shots if shot] == [("prior", names), ("moa", names)]


def test_an_image_that_nobody_asked_for_leaves_its_place_empty() -> None:
    table = pairs("prior", "moa")
    grid = pair_grid(album("prior", "moa", "absent"), table[table["seed"].eq(4) | table["method"].eq("moa")])
    assert grid is not None and [method.method for method in grid.methods] == ["moa"], "at the first seed"
    some = table[~(table["method"].eq("prior") & table["prompt_id"].eq("beach"))]
    grid = pair_grid(album("prior", "moa"), some)
    assert grid is not None and grid.rows[0][2] == "ann and ben, beach"
    assert [shot and shot.method for shot in grid.rows[0][3]] == [None, "moa"]


def test_without_pairs_there_is_no_grid() -> None:
    assert pair_grid(album("moa"), pairs("moa").iloc[:0]) is None
