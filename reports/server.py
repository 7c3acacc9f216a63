"""The reports of a folder of runs in a browser: `python -m reports.server --root runs --port 4201`.

`make ui` starts it beside Prefect, so that run pages can link to reports (a page of the UI cannot open a file). It
reads only, answers on 127.0.0.1 to loopback names, and gives away what reports are made of and link to: the index of
runs, the files of `<run>/report` and `<run>/evaluation`, and `<run>/train.log`; no checkpoints, no configuration, no
folder listings.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDERS, LOG = ("report", "evaluation"), "train.log"
NAMES = ("127.0.0.1", "localhost")


class ReportHandler(SimpleHTTPRequestHandler):
    """GET and HEAD of the files of reports below `directory`; everything else does not exist."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".log": "text/plain; charset=utf-8"}  # read, not saved

    def send_head(self) -> Any:
        """The file behind the path, opened, its headers sent; None after an error was sent."""
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:  # another name: a page that rebinds its DNS
            self.send_error(HTTPStatus.FORBIDDEN, "Ask for 127.0.0.1 or localhost")
            return None
        if not is_of_a_report(Path(self.translate_path(self.path)), Path(self.directory)):
            self.send_error(HTTPStatus.NOT_FOUND, "No such report")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a run is evaluated again under the same name
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the browser shows what was not found."""


def is_of_a_report(path: Path, root: Path) -> bool:
    """Whether a file below `root`, links followed, is the index of runs or belongs to a run's report."""
    try:
        parts = path.resolve(strict=True).relative_to(root.resolve()).parts
    except (OSError, ValueError):
        return False
    if not path.is_file():
        return parts == () and (path / "index.html").is_file()
    return parts == ("index.html",) or parts[1:] == (LOG,) or (len(parts) > 2 and parts[1] in FOLDERS)


def make_server(root: Path, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, listening; port 0: any. The caller runs and closes it."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(ReportHandler, directory=str(root)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reports.server", description="Serves reports on 127.0.0.1.")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder that holds the runs (default runs)")
    parser.add_argument("--port", type=int, default=4201, help="(default 4201)")
    given = parser.parse_args()
    try:
        server = make_server(given.root, given.port)
    except OSError as error:
        print(f"error: port {given.port}: {error}", file=sys.stderr)
        return 1
    with server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
