"""How far a transfer is, in megabytes. Large files are told one by one as they are through, small ones not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LARGE = 10_000_000  # bytes; a file of this size takes long enough for a word
_MEGABYTE = 1_000_000
Tell = Callable[[int, int, str], None]  # megabytes done, megabytes in all, what was done last


@dataclass
class Meter:
    """Bytes of files that are through, of `total`; a file that is sent again counts once. `tell` may be None."""

    total: int
    tell: Tell | None
    _through: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, size: int) -> None:
        """`size` bytes are through; `what` says of which file, and in which direction."""
        self._through[what] = size
        if self.tell:
            self.tell(sum(self._through.values()) // _MEGABYTE, self.total // _MEGABYTE, f"MB: {what}")


def second_half(tell: Tell, first: int) -> Tell:
    """What a transfer tells that comes after one of `first` bytes and is as long."""
    before = first // _MEGABYTE
    return lambda done, _, what: tell(before + done, 2 * before, what)
