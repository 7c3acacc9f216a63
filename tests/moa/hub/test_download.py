"""Downloads are pinned to a commit and verified byte by byte."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from moa.errors import HubError, HubOfflineError, HubUnavailableError, PublicationMismatchError, RepositoryMissingError
from moa.hub.download import download
from moa.hub.publish import publish
from moa.hub.server import LocalHub
from tests.moa.full_disk import full_disk
from tests.moa.hub.faulty_hub import busy
from tests.moa.hub.pipeline_folder import write_pipeline

REPO = "lab/moa"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def published(hub, pipeline, card):
    return publish(pipeline, repo_id=REPO, endpoint=hub.endpoint, token=None, branch="run-a", card=card)


def test_a_branch_is_pinned_to_the_commit_it_was_at(hub, published, pipeline, card, tmp_path):
    first = download(REPO, "run-a", hub.endpoint, tmp_path)
    assert first.name == published.commit
    write_pipeline(pipeline, b"\0second weights" * 100)
    second = publish(pipeline, repo_id=REPO, endpoint=hub.endpoint, token=None, branch="run-a", card=card)
    assert download(REPO, published.commit, hub.endpoint, tmp_path) == first
    assert download(REPO, "run-a", hub.endpoint, tmp_path).name == second.commit


@pytest.mark.parametrize("answer", [b"<html>Log in, please</html>", b"[]", b"null", b'{"siblings": 3}'])
def test_what_is_no_hub_is_told_as_that(hub, published, tmp_path, answer):
    """Another server has the port, or a gateway asks to log in: an answer, and none of the protocol's."""

    def web_page(handler, route) -> bool:
        handler.send_head(200, len(answer), {"Content-Type": "text/html"})
        handler.wfile.write(answer)
        return False

    hub.faults["model_info"] = [web_page] * 9
    with pytest.raises(HubError, match=rf"{REPO} at {hub.endpoint}: no answer of a Hub \("):
        download(REPO, "run-a", hub.endpoint, tmp_path)


def test_a_mirror_that_sends_on_to_the_network_is_told_when_offline(hub, published, tmp_path, monkeypatch):
    def elsewhere(handler, route) -> bool:
        handler.send_head(307, 0, {"Location": "http://hub.example/x"})
        return False

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.faults["model_info"] = [elsewhere] * 9
    with pytest.raises(HubOfflineError, match="sends on to another machine.*hub.example"):
        download(REPO, "run-a", hub.endpoint, tmp_path)


def test_a_complete_copy_needs_no_hub(hub, published, tmp_path):
    folder = download(REPO, published.commit, hub.endpoint, tmp_path)
    hub.seen.clear()
    assert download(REPO, published.commit, "https://hub.example", tmp_path) == folder
    assert hub.seen == []


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_copy_is_fetched_again(hub, published, tmp_path, damage):
    folder = download(REPO, published.commit, hub.endpoint, tmp_path)
    good, blob = (folder / WEIGHTS).read_bytes(), (folder / WEIGHTS).resolve()
    if damage == "changed":
        blob.write_bytes(bytes(len(good)))  # same size: the client itself would not notice
    else:
        (folder / WEIGHTS).unlink()
    assert (download(REPO, published.commit, hub.endpoint, tmp_path) / WEIGHTS).read_bytes() == good


def test_fetching_a_damaged_copy_again_survives_a_failure(hub, published, tmp_path):
    folder, refused = download(REPO, published.commit, hub.endpoint, tmp_path), []
    good, blob = (folder / WEIGHTS).read_bytes(), (folder / WEIGHTS).resolve()
    blob.write_bytes(bytes(len(good)))

    def busy_for_a_while(handler, route) -> bool:
        if (handler.command, route.arguments["path"]) != ("GET", WEIGHTS) or len(refused) == 2:
            return True
        refused.append(route)
        return busy(handler, route)

    hub.faults = {"resolve": [busy_for_a_while] * 100}
    assert (download(REPO, published.commit, hub.endpoint, tmp_path) / WEIGHTS).read_bytes() == good and refused


def test_wrong_bytes_from_the_hub_are_refused(hub, published, tmp_path):
    store = hub._server.store
    sha256 = published.files[WEIGHTS].sha256.removeprefix("sha256:")
    path = store.blob_path(sha256)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(PublicationMismatchError, match=WEIGHTS):
        download(REPO, published.commit, hub.endpoint, tmp_path)


def test_one_failure_is_survived_and_many_are_a_typed_error(hub, published, tmp_path):
    hub.faults = {"tree": [busy]}
    assert download(REPO, "run-a", hub.endpoint, tmp_path / "one").name == published.commit
    hub.faults = {"model_info": [busy] * 20}
    with pytest.raises(HubUnavailableError, match="look up run-a"):
        download(REPO, "run-a", hub.endpoint, tmp_path / "many")


def test_missing_things_are_named(hub, published, tmp_path):
    with pytest.raises(RepositoryMissingError, match="lab/other.*no such repository"):
        download("lab/other", "main", hub.endpoint, tmp_path)
    with pytest.raises(RepositoryMissingError, match="no such revision"):
        download(REPO, "nowhere", hub.endpoint, tmp_path)


def test_a_hub_that_is_gone_is_a_typed_error(tmp_path):
    with LocalHub(tmp_path / "hub") as hub:
        endpoint = hub.endpoint
    with pytest.raises(HubUnavailableError):
        download(REPO, "main", endpoint, tmp_path / "cache")


def test_a_part_is_fetched_alone_and_completed_when_more_is_wanted(hub, published, tmp_path):
    hub.seen.clear()
    folder = download(REPO, published.commit, hub.endpoint, tmp_path, part="adapter")
    adapter = {path for path in published.files if path.startswith("adapter/")}
    assert files(folder) == adapter and hub.seen.count("resolve") == 2 * len(adapter), "HEAD and GET of each"
    hub.seen.clear()
    assert download(REPO, published.commit, "https://hub.example", tmp_path, part="adapter") == folder
    assert hub.seen == [], "a complete part needs no hub"
    (folder / "adapter/moa.safetensors").unlink()
    download(REPO, published.commit, hub.endpoint, tmp_path, part="adapter")
    assert files(folder) == adapter
    assert files(download(REPO, published.commit, hub.endpoint, tmp_path)) == {*published.files, ".gitattributes"}


def test_one_file_is_a_part_too(hub, published, tmp_path):
    hub.seen.clear()
    folder = download(REPO, published.commit, hub.endpoint, tmp_path, part="README.md")
    assert files(folder) == {"README.md"} and hub.seen.count("resolve") == 2
    assert download(REPO, published.commit, "https://hub.example", tmp_path, part="README.md") == folder
    for part in ("gate.json", "READ"):
        with pytest.raises(RepositoryMissingError, match=f"has no {part}"):
            download(REPO, published.commit, hub.endpoint, tmp_path, part=part)


def test_a_revision_without_the_part_is_named(hub, published, tmp_path):
    with pytest.raises(RepositoryMissingError, match="main has no adapter"):
        download(REPO, "main", hub.endpoint, tmp_path, part="adapter")


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_on_this_side_names_the_cache(hub, published, pipeline, card, tmp_path):
    with (
        full_disk(after=100),
        pytest.raises(HubError, match=r"cache cannot hold lab/moa \(File too large\): free space"),
    ):
        download(REPO, "run-a", hub.endpoint, tmp_path / "cache")
    (tmp_path / "file").write_text("")
    options = {"repo_id": REPO, "endpoint": hub.endpoint, "token": None, "branch": "run-a", "card": card}
    with pytest.raises(HubError, match="file/cache cannot hold lab/moa"):
        publish(pipeline, cache_dir=tmp_path / "file" / "cache", **options)
    assert download(REPO, "run-a", hub.endpoint, tmp_path / "cache").name == published.commit
