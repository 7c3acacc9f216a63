"""A local Hub: model repositories in a folder, served as the Hugging Face Hub serves them.

    python -m moa.hub.server --root hub --port 8765        # then HF_ENDPOINT=http://127.0.0.1:8765

For machines without network, and for tests. Binds to 127.0.0.1 unless told otherwise, answers only to loopback names
there, and with a token (environment variable MOA_HUB_TOKEN) asks every request for it. Writes only below --root.
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
from http.server import ThreadingHTTPServer
from pathlib import Path

from moa.errors import HubError
from moa.hub.handler import LOOPBACK_NAMES, HubRequestHandler
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
    """

    handler: type[HubRequestHandler] = HubRequestHandler

    def __init__(self, root: Path, *, port: int = 0, token: str | None = None, host: str = "127.0.0.1"):
        if host not in LOOPBACK_NAMES and not token:
            raise HubError(f"host: binding to {host} opens this Hub to other machines; set {TOKEN_VARIABLE} first")
        self._server = HubServer((host, port), self.handler, Store(root), token)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moa.hub.server", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--host", default="127.0.0.1", help=f"another address than loopback needs {TOKEN_VARIABLE}")
    arguments = parser.parse_args()
    token = os.environ.get(TOKEN_VARIABLE)
    with LocalHub(arguments.root, port=arguments.port, host=arguments.host, token=token) as hub:
        print(f"Hub at {hub.endpoint} over {arguments.root.resolve()}; export HF_ENDPOINT={hub.endpoint}", flush=True)
        try:
            hub.wait()
        except KeyboardInterrupt:
            print("stopped", flush=True)


if __name__ == "__main__":
    main()
