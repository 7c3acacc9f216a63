"""The reading half of the local Hub's HTTP: which method answers a request, its body, its byte range.

Paths are matched while still quoted, segment by segment, so that a quoted slash in a branch name cannot become a
separator.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import unquote

from moa.errors import StoreError
from moa.hub.store import INVALID

MAX_LINE = 64 << 20  # bytes of one line of a commit: a regular file of the Hub (10 MB) in base64 fits four times
_REPO = r"(?P<owner>[^/]+)/(?P<name>[^/]+?)"
_API = rf"/api/models/{_REPO}"
_REVISION, _PATH = r"(?P<revision>[^/]+)", r"(?P<path>.+)"

ROUTES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (verb, re.compile(pattern), method)
    for verb, pattern, method in (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("GET", _API, "model_info"),
        ("GET", rf"{_API}/revision/{_REVISION}", "model_info"),
        ("GET", rf"{_API}/refs", "refs"),
        ("GET", rf"{_API}/commits/{_REVISION}", "commits"),
        ("GET", rf"{_API}/tree/{_REVISION}(/(?P<folder>.+))?", "tree"),
        ("POST", rf"{_API}/paths-info/{_REVISION}", "paths_info"),
        ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", "add_branch"),
        ("POST", rf"{_API}/tag/{_REVISION}", "add_tag"),
        ("POST", rf"{_API}/preupload/{_REVISION}", "preupload"),
        ("POST", rf"{_API}/commit/{_REVISION}", "commit"),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/verify", "lfs_verify"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
        ("GET", rf"/{_REPO}/resolve/{_REVISION}/{_PATH}", "resolve"),
    )
)


@dataclass(frozen=True)
class Route:
    """The handler method that answers a request, and its unquoted arguments."""

    method: str
    arguments: dict[str, str]


def find_route(verb: str, path: str) -> Route | None:
    """The route of a request; HEAD goes where GET goes. None where there is no such page."""
    verb = "GET" if verb == "HEAD" else verb
    for route_verb, pattern, method in ROUTES:
        if verb == route_verb and (match := pattern.fullmatch(path)):
            arguments = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            if "owner" in arguments:
                arguments["repo_id"] = f"{arguments.pop('owner')}/{arguments.pop('name')}"
            return Route(method, arguments)
    return None


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a `Range` header asks for; all without one; None if it cannot be satisfied (416)."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None


class Body:
    """The body of a request, of known length or chunked. `finished` once nothing of it is left in the connection.

    Raises StoreError for a length that is none, and for any other encoding: nobody knows then where the next request
    begins.
    """

    def __init__(self, connection: io.BufferedIOBase, headers: Message):
        if encoding := headers.get("Transfer-Encoding"):
            if encoding.lower() != "chunked":
                raise StoreError(INVALID, f"Not a transfer encoding of this Hub: {encoding[:40]!r}")
            self._raw: _Chunked | _Sized = _Chunked(connection)
        else:
            self._raw = _Sized(connection, _length(headers.get("Content-Length") or "0", base=10))
        self.reader = io.BufferedReader(self._raw, buffer_size=1 << 20)

    @property
    def finished(self) -> bool:
        return self._raw.finished

    def read_all(self) -> bytes:
        data = self.reader.read(MAX_LINE + 1)
        if len(data) > MAX_LINE:
            raise StoreError(INVALID, "Request body too large")
        return data

    def drain(self) -> None:
        """Read and forget what is left, so that a client that sends before it reads gets to its answer."""
        with contextlib.suppress(StoreError):
            while not self.finished and self.reader.read(1 << 20):
                pass

    def lines(self) -> Iterator[bytes]:
        """The lines of an ndjson body."""
        while line := self.reader.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise StoreError(INVALID, "A line of the request is too large; send large files by LFS")
            if line.strip():
                yield line


def _length(text: str, *, base: int) -> int:
    """A number of bytes as HTTP writes it: digits, without the signs that `int` takes."""
    if not re.fullmatch(r"[0-9]+" if base == 10 else r"[0-9a-fA-F]+", text):
        raise StoreError(INVALID, f"Not a length: {text[:40]!r}")
    return int(text, base)


class _Sized(io.RawIOBase):
    def __init__(self, connection: io.BufferedIOBase, length: int):
        self._connection, self._left = connection, length

    @property
    def finished(self) -> bool:
        return self._left == 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._connection.read(min(len(buffer), self._left))
        if not data and self._left:
            raise StoreError(INVALID, "The request ended early")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


class _Chunked(io.RawIOBase):
    def __init__(self, connection: io.BufferedIOBase):
        self._connection, self._left, self.finished = connection, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left == 0 and not self.finished:
            self._left = _length(self._connection.readline(64).split(b";")[0].strip().decode("latin-1"), base=16)
            if self._left == 0:
                while self._connection.readline(1024).strip():  # trailers
                    pass
                self.finished = True
        data = self._connection.read(min(len(buffer), self._left))
        if not data and not self.finished:
            raise StoreError(INVALID, "The request ended early")
        self._left -= len(data)
        if data and self._left == 0:
            self._connection.readline(2)  # the line end after a chunk
        buffer[: len(data)] = data
        return len(data)
