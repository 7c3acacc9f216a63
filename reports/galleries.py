"""Galleries of one method by IP, and the images without a score: of one person and of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.album import GRID_EDGE, Album
from reports.evaluation_format import MethodSummary
from reports.images import Thumb
from reports.selection import failures, galleries, spread
from reports.shots import Shot
from reports.tables import OutcomeTable, outcome_table

CAPTION = ("ip", "pc")


@dataclass(frozen=True)
class Card:
    """A gallery item: references as (subject, picture), the prior's image at that prompt and seed (of one person, if
    there is one), and the image itself."""

    references: list[tuple[str, Thumb]]
    prior: Shot | None
    shot: Shot


@dataclass(frozen=True)
class Failures:
    """Some of the `total` images of a method that were not scored for one reason."""

    method: MethodSummary
    of: str
    why: str
    total: int
    cards: list[Card]


def ranked_cards(album: Album, count: int = 4) -> dict[str, list[Card]]:
    """Best, median, worst and random of the shown method; without a scored image, nothing."""
    found = galleries(album.rows, album.shown.method, count)
    return {name: [_card(album, row) for row in rows.itertuples()] for name, rows in found.items() if len(rows)}


def outcome_tables(album: Album) -> list[OutcomeTable]:
    """What became of the images of one person, and of those of two where the suite has any."""
    return [
        outcome_table(f"What became of the images{of}", album.evaluation.methods, rows) for of, rows in _images(album)
    ]


def failure_cards(album: Album, count: int = 8) -> list[Failures]:
    """For each method and reason, the shown method first, images of one person before those of two: how many there
    are, and some, spread over all of them."""
    made = []
    for of, rows in _images(album):
        for method in sorted(album.evaluation.methods, key=lambda m: m is not album.shown):
            for why, failed in failures(rows, method.method).items():
                some = failed.iloc[spread(range(len(failed)), count)]
                cards = [_pair_card(album, row) if of else _card(album, row) for row in some.itertuples()]
                made.append(Failures(method, of, why, len(failed), cards))
    return made


def _images(album: Album) -> list[tuple[str, pd.DataFrame]]:
    """(of whom, rows) of the images of one person and of two."""
    pairs = album.evaluation.pairs
    return [("", album.rows), *([(" of two people", pairs)] if pairs is not None and len(pairs) else [])]


def _card(album: Album, row: Any) -> Card:
    subject, prompt, seed = row.subject, row.prompt_id, int(row.seed)
    shot = album.at(row.method, subject, prompt, seed, GRID_EDGE, CAPTION)
    assert shot is not None  # the row came from the same table
    own = album.evaluation.method(row.method)
    prior = album.evaluation.method(own.compared_with) if own and own.compared_with else album.prior
    beside = prior is not None and prior.method != row.method
    return Card(
        [(subject, album.reference(subject))],
        album.at(prior.method, subject, prompt, seed, GRID_EDGE, CAPTION) if prior and beside else None,
        shot,
    )


def _pair_card(album: Album, row: Any) -> Card:
    people = (row.first, row.second)
    shot = album.shot(row, " + ".join(people), GRID_EDGE, CAPTION)
    return Card([(person, album.reference(person)) for person in people], None, shot)
