"""Galleries of one method by IP, and the images that could not be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reports.album import GRID_EDGE, Album
from reports.evaluation_format import MethodSummary
from reports.images import Thumb
from reports.selection import failures, galleries
from reports.shots import Shot

CAPTION = ("ip", "pc")


@dataclass(frozen=True)
class Card:
    """A gallery item: reference, the prior's image at that prompt and seed (if there is one), and the image itself."""

    reference: Thumb
    prior: Shot | None
    shot: Shot


def ranked_cards(album: Album, count: int = 4) -> dict[str, list[Card]]:
    """Best, median, worst and random of the shown method; without a scored image, nothing."""
    found = galleries(album.rows, album.shown.method, count)
    return {name: [_card(album, row) for row in rows.itertuples()] for name, rows in found.items() if len(rows)}


def failure_cards(album: Album, count: int = 8) -> list[tuple[MethodSummary, int, list[Card]]]:
    """For each method with unscored images, the shown one first: how many, and some of them."""
    found = []
    for method in sorted(album.evaluation.methods, key=lambda m: m is not album.shown):
        total = int(((album.rows["method"] == method.method) & (album.rows["outcome"] != "scored")).sum())
        if total:
            rows = failures(album.rows, method.method, count)
            found.append((method, total, [_card(album, row) for row in rows.itertuples()]))
    return found


def _card(album: Album, row: Any) -> Card:
    subject, prompt, seed = row.subject, row.prompt_id, int(row.seed)
    shot = album.at(row.method, subject, prompt, seed, GRID_EDGE, CAPTION)
    assert shot is not None  # the row came from the same table
    own = album.evaluation.method(row.method)
    prior = album.evaluation.method(own.compared_with) if own and own.compared_with else album.prior
    beside = prior is not None and prior.method != row.method
    return Card(
        album.reference(subject),
        album.at(prior.method, subject, prompt, seed, GRID_EDGE, CAPTION) if prior and beside else None,
        shot,
    )
