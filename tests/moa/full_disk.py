"""A disk that is full, for this process only and for real: the kernel refuses bytes beyond a size of file."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Whoever writes a file beyond `after` bytes gets "File too large", from Python and from libraries alike.

    Python ignores the signal that the kernel sends along.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
