"""One connection to the local Hub: who may ask, how every refusal is told, how answers are sent.

Errors carry the `X-Error-Code` that makes the stock client raise its own exceptions, and a status that says whether
trying again may help: the client does so for minutes after a 5xx other than 507. A disk that is full (507), holds
another user's files (403) or has lost some of its own (410) waits for a person, so it is told at once, with the path
and the reason.
"""

from __future__ import annotations

import errno
import hmac
import json
import logging
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qs, urlsplit

from moa.errors import StoreError
from moa.hub import store as reasons
from moa.hub.loopback import LOOPBACK_NAMES
from moa.hub.request import Body, Route, find_route
from moa.hub.store import Store

if TYPE_CHECKING:
    from moa.hub.server import HubServer

_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), reasons.STORAGE_FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), reasons.STORAGE_DENIED),
    errno.ENOENT: reasons.STORAGE_DAMAGED,  # a file that another one names
}
_STATUS = {
    reasons.REPO_NOT_FOUND: 404,
    reasons.REVISION_NOT_FOUND: 404,
    reasons.ENTRY_NOT_FOUND: 404,
    reasons.CONFLICT: 409,
    reasons.STALE_PARENT: 412,
    reasons.INVALID: 400,
    reasons.STORAGE_DENIED: 403,
    reasons.STORAGE_DAMAGED: 410,
    reasons.STORAGE_FAILED: 500,
    reasons.STORAGE_FULL: 507,
}
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of reading a bad request
_CHUNK = 1 << 20
logger = logging.getLogger(__name__)


class HubConnection(BaseHTTPRequestHandler):
    """A method named in `moa.hub.request.ROUTES`, of a subclass, answers each request."""

    protocol_version = "HTTP/1.1"
    server: HubServer
    timeout = 120  # seconds an idle connection is kept
    wbufsize = -1
    disable_nagle_algorithm = True

    def dispatch(self) -> None:
        """Find the route, check the right to use it, answer; every refusal becomes the protocol's error."""
        self._answered = False
        try:
            self.body = Body(self.rfile, self.headers)
        except StoreError as error:
            self.send_error(400, str(error))  # and hangs up
            return
        try:
            address = urlsplit(self.path)
            self.query = parse_qs(address.query)
            route = find_route(self.command, address.path)
            if route is None:
                raise StoreError(reasons.INVALID if self.command == "PUT" else reasons.ENTRY_NOT_FOUND, "No such page")
            if self._allowed(route):
                self.answer(route)
        except StoreError as error:
            self.send_error_json(_STATUS[error.kind], error.kind, str(error))
        except OSError as error:
            if self._answered or isinstance(error, (ConnectionError, TimeoutError)):  # nothing can be told any more
                raise
            kind = _DISK.get(error.errno or 0, reasons.STORAGE_FAILED)
            place = error.filename2 or error.filename or self.store.root
            logger.warning("%s: %s", place, error.strerror)
            self.send_error_json(_STATUS[kind], kind, f"{place}: {error.strerror}")
        except _MALFORMED as error:
            logger.debug("malformed request", exc_info=True)
            self.send_error_json(400, reasons.INVALID, f"Malformed request: {type(error).__name__}")
        finally:
            self.close_connection = self.close_connection or not self.body.finished

    do_GET = do_HEAD = do_POST = do_PUT = dispatch  # noqa: N815 - names given by BaseHTTPRequestHandler

    def answer(self, route: Route) -> None:
        """Call the method of a route."""
        getattr(self, route.method)(**route.arguments)

    def send_json(self, value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        data = json.dumps(value).encode()
        self.send_head(status, len(data), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error_json(self, status: int, code: str, message: str) -> None:
        """An error as the client understands it: `X-Error-Code` decides the exception it raises."""
        self.body.drain()  # closing on unread bytes would reset the connection before the client has read the answer
        told = {"X-Error-Code": code, "X-Error-Message": _header(message)}
        self.send_json({"error": message}, status=status, headers=told)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        """Status and headers of an answer whose body has `length` bytes."""
        self._answered = True
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        if not self.body.finished:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_part(self, file: BinaryIO, start: int, stop: int) -> None:
        """The bytes [start, stop) of a file, after their head."""
        file.seek(start)
        while start < stop and (chunk := file.read(min(_CHUNK, stop - start))):
            start += len(chunk)
            self.wfile.write(chunk)
        self.close_connection = self.close_connection or start < stop  # a file cut short: the client sees an early end

    def log_message(self, format: str, *args: object) -> None:
        # the path without its query: signatures and tokens stay out of logs
        logger.debug("%s %s %s", self.client_address[0], self.command, getattr(self, "path", "").partition("?")[0])

    @property
    def store(self) -> Store:
        return self.server.store

    def _allowed(self, route: Route) -> bool:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if self.server.bound_name in LOOPBACK_NAMES and host not in LOOPBACK_NAMES:
            self.send_error_json(403, reasons.INVALID, "This Hub answers to loopback names only")
            return False
        if "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self.send_error_json(403, reasons.INVALID, "This Hub does not answer to web pages of other sites")
            return False
        if self.server.token is None or route.method == "lfs_upload":  # upload addresses carry their own signature
            return True
        given = self.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            return True
        message = "Invalid credentials in Authorization header" if given else "Invalid username or password."
        self.send_error_json(401, "Unauthorized", message)
        return False


def _header(text: str) -> str:
    """A text as the value of a header: one line, its UTF-8 bytes as the Latin-1 characters `http.server` writes."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line.encode(errors="replace").decode("latin-1")
