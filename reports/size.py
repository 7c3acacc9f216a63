"""How large a page may get. It holds all pictures of its grids, so their number and size decide; when there are too
many, the page is rendered again with fewer and smaller ones, and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LIMIT = 15_000_000  # bytes


@dataclass(frozen=True)
class Room:
    """What the pictures of a page may take: `shots` in the grids of all suites together, thumbnails shrunk by `scale`.
    `note` tells the reader."""

    shots: int
    scale: float
    note: str = ""


FEWER = "Thumbnails are fewer and smaller than usual, which keeps this page below {:.0f} MB; all originals are linked."
NOTE = FEWER.format(LIMIT / 1e6)
# A shot takes about 5 kB at the first scale: 2,400 of them fit, unless the pictures are noisier than photographs.
ROOMS = (Room(2400, 1.0), Room(1200, 0.8, NOTE), Room(500, 0.7, NOTE), Room(150, 0.5, NOTE))


def fitting(render: Callable[[Room], str]) -> str:
    """The page in the largest room that keeps it below the limit; the smallest room's page if none does."""
    for room in ROOMS:
        page = render(room)
        if len(page.encode()) < LIMIT:
            break
    return page
