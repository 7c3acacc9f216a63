"""A disk that is full, for this process only and for real: the kernel refuses bytes beyond a size of file."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Whoever writes a file beyond `after` bytes gets "File too large", from Python and from libraries alike.

    Python ignores the signal that the kernel sends along. What is printed goes nowhere: pytest keeps it in files too,
    and a progress bar that cannot write keeps its lock for ever.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
