"""A local Hub whose answers can be made to fail, for tests of what happens then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moa.hub.handler import HubRequestHandler
from moa.hub.request import Route
from moa.hub.server import LocalHub

Fault = Callable[[HubRequestHandler, Route], bool]


class FaultyHub(LocalHub):
    """A Hub that lets a test interfere: `faults[method]` are called, one for each request of that method.

    A fault returns whether the request is still to be answered. `seen` lists the methods of all requests.
    """

    def __init__(self, root: Path, **options: object):
        hub = self
        self.seen: list[str] = []
        self.faults: dict[str, list[Fault]] = {}

        class Handler(HubRequestHandler):
            def answer(self, route: Route) -> None:
                hub.seen.append(route.method)
                waiting = hub.faults.get(route.method, [])
                if not waiting or waiting.pop(0)(self, route):
                    super().answer(route)

        self.handler = Handler
        super().__init__(root, **options)


def busy(handler: HubRequestHandler, route: Route) -> bool:
    """503, and nothing happens."""
    handler.send_error_json(503, "Busy", "try again")
    return False


def lost_answer(handler: HubRequestHandler, route: Route) -> bool:
    """The request is carried out, and the connection breaks before the client hears of it."""
    handler.send_json = lambda *arguments, **options: None  # type: ignore[method-assign]
    HubRequestHandler.answer(handler, route)
    handler.close_connection = True
    return False
