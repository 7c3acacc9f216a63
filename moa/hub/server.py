"""A local Hub: model repositories in a folder, served as the Hugging Face Hub serves them.

    python -m moa.hub.server --root hub --port 8765        # then HF_ENDPOINT=http://127.0.0.1:8765

For machines without network, and for tests. Binds to 127.0.0.1 unless told otherwise, answers only to loopback names
there, never to what other sites' pages ask a browser to send, and with a token (environment variable MOA_HUB_TOKEN)
asks every request for it. Writes only below --root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path

from moa.errors import HubError
from moa.hub.handler import HubRequestHandler
from moa.hub.loopback import LOOPBACK_NAMES
from moa.hub.store import Store

TOKEN_VARIABLE = "MOA_HUB_TOKEN"
logger = logging.getLogger(__name__)


class HubServer(ThreadingHTTPServer):
    """The listening socket, the store behind it, and the secret that signs upload addresses."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[HubRequestHandler], store: Store, token: str | None):
        self.store, self.token, self.bound_name = store, token, address[0]
        self._secret = secrets.token_bytes(32)
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and hang up: a kept-alive connection would go on being served otherwise."""
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is the client's affair; anything else is logged with its traceback."""
        broken = isinstance(sys.exception(), (ConnectionError, TimeoutError))
        logger.log(
            logging.DEBUG if broken else logging.ERROR, "connection from %s failed", client_address, exc_info=True
        )

    def sign(self, oid: str, size: int) -> str:
        return hmac.new(self._secret, f"{oid}:{size}".encode(), hashlib.sha256).hexdigest()


class LocalHub:
    """A Hub in a thread: `with LocalHub(root) as hub: HfApi(endpoint=hub.endpoint)`.

    Args:
        root: folder of the repositories; kept, so that the next Hub over it continues.
        port: 0 takes a free one.
        token: if given, what clients must send as `Authorization: Bearer`.
        host: address to bind; one other than loopback needs a token.

    Raises HubError for an address that cannot be bound and a root that cannot be written.
    """

    handler: type[HubRequestHandler] = HubRequestHandler

    def __init__(self, root: Path, *, port: int = 0, token: str | None = None, host: str = "127.0.0.1"):
        token = (token or "").strip() or None  # a variable may be empty, and files of secrets end with a line break
        if host not in LOOPBACK_NAMES and not token:
            raise HubError(f"host: binding to {host} opens this Hub to other machines; set {TOKEN_VARIABLE} first")
        try:
            store = Store(root)
        except OSError as error:
            raise HubError(f"root: {root} cannot be written ({error.strerror}); name a folder of yours") from error
        try:
            self._server = HubServer((host, port), self.handler, store, token)
        except (OSError, OverflowError) as error:  # a port above 65535
            reason = getattr(error, "strerror", None) or error
            raise HubError(f"{host}:{port} cannot be bound ({reason}); choose another --host or --port") from error
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://{host}:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Block until the server ends."""
        self._thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moa.hub.server", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--host", default="127.0.0.1", help=f"another address than loopback needs {TOKEN_VARIABLE}")
    given = parser.parse_args(arguments)
    try:
        hub = LocalHub(given.root, port=given.port, host=given.host, token=os.environ.get(TOKEN_VARIABLE))
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with hub:
        print(f"Hub at {hub.endpoint} over {given.root.resolve()}; export HF_ENDPOINT={hub.endpoint}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            hub.wait()
    print("stopped", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
