"""A page stays below the limit: what is too large is rendered again with fewer and smaller pictures.

pytest tests/reports/test_size.py
"""

from __future__ import annotations

import pytest

from reports.size import LIMIT, ROOMS, Room, fitting


@pytest.mark.parametrize("first", range(len(ROOMS)))
def test_the_largest_room_that_fits_is_taken(first: int) -> None:
    tried: list[Room] = []

    def render(room: Room) -> str:
        tried.append(room)
        return "x" * (LIMIT - 1 if room is ROOMS[first] else LIMIT)

    assert len(fitting(render)) == LIMIT - 1
    assert tried == list(ROOMS[: first + 1])


def test_bytes_count_not_characters() -> None:
    pages = iter(["ü" * (LIMIT - 1), "fits"])
    assert fitting(lambda room: next(pages)) == "fits"


def test_what_never_fits_is_written_as_small_as_it_gets() -> None:
    assert fitting(lambda room: "x" * LIMIT + str(room.shots)).endswith(str(ROOMS[-1].shots))


def test_every_smaller_room_says_so() -> None:
    assert ROOMS[0].note == "" and all(room.note for room in ROOMS[1:])
    assert all(a.shots > b.shots and a.scale > b.scale for a, b in zip(ROOMS, ROOMS[1:], strict=False))
