"""A Hub whose disk is full, holds another user's files or is damaged: told at once, by path and reason."""

from __future__ import annotations

import errno
import http.client
import os
from pathlib import Path

import pytest

from moa.errors import AccessDeniedError, HubStorageError, HubUnavailableError
from moa.hub.download import download
from moa.hub.promote import promote
from moa.hub.publish import publish
from moa.hub.store import STORAGE_DAMAGED, STORAGE_DENIED, STORAGE_FAILED, STORAGE_FULL, Store
from tests.moa.full_disk import full_disk
from tests.moa.hub.faulty_hub import Fault
from tests.moa.hub.pipeline_folder import make_card
from tests.moa.hub.test_server import call

REPO = "lab/moa"
WRITING = ["create_repo", "add_branch", "lfs_upload", "commit"]


def failing(number: int, path: str | None = None) -> Fault:
    """The disk says no."""

    def fault(handler, route) -> bool:
        raise OSError(number, os.strerror(number), path)

    return fault


def send(hub, pipeline):
    return publish(pipeline, repo_id=REPO, endpoint=hub.endpoint, token=None, branch="run-a", card=make_card())


@pytest.mark.parametrize("endpoint", WRITING)
def test_a_full_disk_of_the_hub_is_told_at_the_first_answer(hub, pipeline, endpoint):
    hub.faults = {endpoint: [failing(errno.ENOSPC)]}
    with pytest.raises(HubStorageError) as failure:
        send(hub, pipeline)
    for part in (
        REPO,
        hub.endpoint,
        "507",
        str(hub._server.store.root),
        "No space left",
        "free space",
        "run this again",
    ):
        assert part in str(failure.value)
    asked = hub.seen.count(endpoint)
    assert asked == 1 or (asked, endpoint) == (2, "lfs_upload")  # of the other large file, where it was under way
    assert send(hub, pipeline).commit, "once there is room, the same call goes on"


def test_a_disk_that_fills_up_within_a_file_is_told_and_nothing_is_left_of_it(hub, pipeline):
    with full_disk(after=1000), pytest.raises(HubStorageError, match="507.*File too large"):
        send(hub, pipeline)
    assert list(hub._server.store.incoming.iterdir()) == []


@pytest.mark.parametrize("endpoint", [*WRITING, "model_info", "tree", "resolve"])
def test_another_users_files_in_the_hub_are_told_at_the_first_answer(hub, pipeline, endpoint):
    hub.faults = {endpoint: [failing(errno.EACCES, "/srv/hüb/refs.json")] * 30}
    with pytest.raises(HubStorageError, match="/srv/hüb/refs.json: Permission denied.*right to") as failure:
        send(hub, pipeline)
    assert "HF_TOKEN" not in str(failure.value) and hub.endpoint in str(failure.value)


def test_a_promotion_tells_of_a_full_disk_too(hub, pipeline):
    publication = send(hub, pipeline)
    hub.faults = {"commit": [failing(errno.EDQUOT)]}
    with pytest.raises(HubStorageError, match="507.*quota"):
        promote(publication, tag="v1", token=None)
    hub.faults = {}
    assert promote(publication, tag="v1", token=None).commit


def test_a_refusal_of_access_says_why(hub, pipeline):
    hub.faults = {"commit": [lambda handler, route: handler.send_error_json(403, "Forbidden", "over your quota")]}
    with pytest.raises(AccessDeniedError, match=r"\(403: over your quota\).*HF_TOKEN"):
        send(hub, pipeline)


def test_what_may_pass_is_tried_again_and_its_reason_is_told(hub, pipeline):
    hub.faults = {"commit": [failing(errno.EIO)]}
    assert send(hub, pipeline).commit
    (pipeline / "new.txt").write_text("new")
    hub.faults = {"commit": [failing(errno.EIO, "/srv/hub/refs.json")] * 20}
    with pytest.raises(HubUnavailableError, match=r"gave up .*\(500: /srv/hub/refs.json: Input/output error\)"):
        send(hub, pipeline)


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOSPC, 507, STORAGE_FULL),
        (errno.EDQUOT, 507, STORAGE_FULL),
        (errno.EACCES, 403, STORAGE_DENIED),
        (errno.EROFS, 403, STORAGE_DENIED),
        (errno.ENOENT, 410, STORAGE_DAMAGED),
        (errno.EIO, 500, STORAGE_FAILED),
    ],
)
def test_each_reason_has_its_status(hub, number, status, code):
    hub.faults = {"whoami": [failing(number, "/srv/hub/x")]}
    answered, headers, body = call(hub, "GET", "/api/whoami-v2")
    assert (answered, headers["X-Error-Code"]) == (status, code)
    assert headers["X-Error-Message"] == f"/srv/hub/x: {os.strerror(number)}" and headers["X-Error-Message"] in str(
        body
    )


def test_a_client_that_sends_gigabytes_first_still_reads_the_answer(hub):
    hub.faults = {"lfs_upload": [failing(errno.ENOSPC)]}
    assert call(hub, "PUT", f"/lfs/{'0' * 64}?size=1&signature=0", bytes(100 << 20))[0] == 507


@pytest.mark.parametrize("call_that_fails", ["fsync", "replace"])
def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch, call_that_fails):
    store = Store(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"moa.atomic.os.{call_that_fails}", full)
    with pytest.raises(OSError, match="No space"):
        store.put_bytes(b"data")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_or_lost_file_of_the_hub_is_named_and_no_half_answer(hub, pipeline):
    publication = send(hub, pipeline)
    root = hub._server.store.root
    for blob in (root / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    status, headers, body = call(hub, "GET", f"/{REPO}/resolve/{publication.commit}/model_index.json")
    assert status == 410 and "blobs" in headers["X-Error-Message"] and b"No such file" in body
    (root / "models" / REPO / "refs.json").write_text("{")
    status, headers, _ = call(hub, "GET", f"/api/models/{REPO}")
    assert status == 410 and "refs.json is damaged" in headers["X-Error-Message"]
    (root / "models" / REPO / "refs.json").unlink()
    assert call(hub, "GET", f"/api/models/{REPO}")[0] == 410


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 1)])
def test_a_lost_or_cut_file_of_the_hub_is_told_to_the_client_at_the_first_answer(hub, pipeline, tmp_path, damage):
    publication = send(hub, pipeline)
    path = blob_of(hub, publication, "model_index.json")
    damage(path)
    hub.seen.clear()
    with pytest.raises(HubStorageError, match="lost or damaged.*restore them there from a copy") as failure:
        download(REPO, publication.commit, hub.endpoint, tmp_path / "cache")
    assert str(path) in str(failure.value) and hub.endpoint in str(failure.value)
    files = len(publication.files) + 1  # and .gitattributes
    assert hub.seen.count("model_info") == 1 and hub.seen.count("resolve") < 2 * files  # asked for, fetched: each once
    with pytest.raises(HubStorageError, match="lost or damaged"):  # with a damaged copy in the cache, too
        download_again_over_a_damaged_copy(hub, publication, path, tmp_path / "other")


def download_again_over_a_damaged_copy(hub, publication, path: Path, cache: Path) -> None:
    path.write_bytes(b'{"_class_name": "MoAPipeline"}')
    folder = download(REPO, publication.commit, hub.endpoint, cache)
    (folder / "model_index.json").resolve().write_bytes(b"x")
    path.unlink()
    download(REPO, publication.commit, hub.endpoint, cache)


def blob_of(hub, publication, name: str) -> Path:
    return hub._server.store.blob_path(publication.files[name].sha256.removeprefix("sha256:"))


def test_a_file_cut_short_while_it_is_sent_ends_the_connection(hub, pipeline):
    """Its length was promised: the next answer would be taken for the rest of it."""
    publication = send(hub, pipeline)

    def cut(handler, route) -> bool:
        send_head = handler.send_head

        def cut_first(*arguments) -> None:
            os.truncate(blob_of(hub, publication, "model_index.json"), 1)
            send_head(*arguments)

        handler.send_head = cut_first
        return True

    hub.faults = {"resolve": [cut]}
    with pytest.raises(http.client.IncompleteRead):
        call(hub, "GET", f"/{REPO}/resolve/{publication.commit}/model_index.json")


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775)])
def test_a_team_shares_a_root_as_its_umask_says(tmp_path, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "hub")
        store.create_repo(REPO, private=True)
        store.add_ref(REPO, "tags", "v1", "main")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "hub").rglob("*")}
    assert all(mode == (folder_mode if path.is_dir() else file_mode) for path, mode in modes.items())
    assert {path.name for path in modes} >= {"refs.json", "repo.json", "lock", "blobs", "incoming"}


def test_what_another_users_upload_left_keeps_nobody_from_reading(tmp_path, monkeypatch):
    store = Store(tmp_path)
    (store.incoming / "theirs").write_bytes(b"half")
    os.utime(store.incoming / "theirs", (0, 0))

    def denied(path: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", denied)
    Store(tmp_path)
