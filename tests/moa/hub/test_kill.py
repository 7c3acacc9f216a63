"""SIGKILL at the worst moments: of the publisher around the commit, and of the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moa.hub.client import hub_client
from moa.hub.download import download
from moa.hub.handler import HubRequestHandler
from moa.hub.publish import publish
from tests.moa.hub.pipeline_folder import make_card

REPO = "lab/moa"
PUBLISHER = """
import sys
from pathlib import Path
from moa.hub.card import CardInput
from moa.hub.publish import publish
folder, endpoint, card = sys.argv[1:]
card = CardInput.model_validate_json(card)
publish(Path(folder), repo_id="lab/moa", endpoint=endpoint, token=None, branch="run-a", card=card)
"""


@pytest.mark.parametrize("committed", [False, True])
def test_a_publisher_killed_at_the_commit_leaves_all_or_nothing(hub, pipeline, card, committed):
    def kill(handler: HubRequestHandler, route) -> bool:
        if committed:
            handler.send_json = lambda *arguments, **options: None  # type: ignore[method-assign]
            HubRequestHandler.answer(handler, route)
        os.kill(publisher.pid, signal.SIGKILL)
        handler.close_connection = True
        return False

    hub.faults = {"commit": [kill]}
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(pipeline), hub.endpoint, card.model_dump_json()],
        stderr=subprocess.DEVNULL,
    )
    assert publisher.wait(60) == -signal.SIGKILL

    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=False) as api:
        left = set(api.list_repo_files(REPO, revision="run-a")) - {".gitattributes"}
        publication = publish(pipeline, repo_id=REPO, endpoint=hub.endpoint, token=None, branch="run-a", card=card)
        assert left == (set(publication.files) if committed else set())
        assert len(api.list_repo_commits(REPO, revision="run-a")) == 2
    assert hub.seen.count("commit") == (1 if committed else 2)


def test_the_command_serves_and_a_killed_server_keeps_what_it_confirmed(pipeline, tmp_path):
    publication = None
    for _ in range(2):
        server, endpoint = start_server(tmp_path / "hub")
        try:
            if publication is None:
                publication = publish(
                    pipeline, repo_id=REPO, endpoint=endpoint, token=None, branch="run-a", card=make_card()
                )
            folder = download(REPO, "run-a", endpoint, tmp_path / "cache")
            assert folder.name == publication.commit
        finally:
            server.kill()
            server.communicate()


def start_server(root: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "moa.hub.server", "--root", str(root), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().split()[2]
