"""Publishing and promoting over the real client: the round trip, doing it twice, and the ways a Hub can fail."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
import traceback
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from moa.errors import (
    AccessDeniedError,
    HubError,
    HubOfflineError,
    HubUnavailableError,
    HubUntrustedError,
    LicenceRefusedError,
    MissingTokenError,
    NothingToPublishError,
    PublicationMismatchError,
    RepositoryConflictError,
    RepositoryMissingError,
    UnsafeFileError,
    XetUnavailableError,
)
from moa.hub import client
from moa.hub.client import hub_client
from moa.hub.commit import retrying
from moa.hub.download import download
from moa.hub.licences import LICENCES
from moa.hub.promote import promote, restore
from moa.hub.publication import Publication
from moa.hub.publish import _verify, is_current, publish, published_files
from tests.moa.hub.faulty_hub import FaultyHub, busy, lost_answer
from tests.moa.hub.pipeline_folder import make_card, write_pipeline
from tests.web_server import serving, write_certificate

REPO = "lab/moa"
GENERATED = {"README.md", "LICENSE.md", "licences.json"}


def send(hub: FaultyHub, folder: Path, card=None, branch="run-a", **options) -> Publication:
    options = {"token": None, "repo_id": REPO, "endpoint": hub.endpoint} | options
    return publish(folder, branch=branch, card=card or make_card(), **options)


def look(hub: FaultyHub, revision: str) -> tuple[str, set[str]]:
    """Head and files of a revision."""
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=False) as api:
        info = api.model_info(REPO, revision=revision)
        return info.sha, {entry.rfilename for entry in info.siblings} - {".gitattributes"}


def push(hub: FaultyHub, branch: str, data: bytes) -> None:
    """Somebody else's commit, straight into the store so that no fault meets it."""
    store = hub._server.store
    entry = store.put_bytes(data)
    store.commit(
        REPO, branch, lambda files: files.update({"theirs.txt": entry}), parent=None, title="x", description=""
    )


# the round trip


def test_what_comes_back_is_what_was_published(hub, pipeline, tmp_path):
    publication = send(hub, pipeline)
    folder = download(REPO, publication.commit, hub.endpoint, tmp_path / "cache")

    sent = {path.relative_to(pipeline).as_posix(): path for path in pipeline.rglob("*") if path.is_file()}
    assert set(publication.files) == set(sent) | GENERATED
    for name, path in sent.items():
        assert (folder / name).read_bytes() == path.read_bytes()
        assert publication.files[name].sha256 == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert publication.adapter_digest == json.loads((pipeline / "adapter" / "manifest.json").read_text())["digest"]
    (tmp_path / "publication.json").write_text(publication.model_dump_json())
    assert Publication.read(tmp_path / "publication.json") == publication


def test_publishing_leaves_main_and_the_folder_alone(hub, pipeline):
    before = sorted(pipeline.rglob("*"))
    publication = send(hub, pipeline)
    assert sorted(pipeline.rglob("*")) == before
    assert look(hub, "main")[1] == set()
    assert look(hub, "run-a")[0] == publication.commit


def test_one_publication_is_one_commit_however_many_files(hub, pipeline):
    for i in range(300):
        (pipeline / f"extra-{i}.txt").write_text(str(i))
    publication = send(hub, pipeline)
    assert len(publication.files) > 300
    assert hub.seen.count("commit") == 1


def test_publishing_again_sends_nothing(hub, pipeline):
    first = send(hub, pipeline)
    hub.seen.clear()
    assert send(hub, pipeline) == first
    assert not {"preupload", "lfs_batch", "lfs_upload", "commit"} & set(hub.seen)


def test_a_changed_folder_sends_what_changed_and_deletes_what_is_gone(hub, pipeline, tmp_path, monkeypatch):
    (pipeline / "old.txt").write_text("old")
    first = send(hub, pipeline)
    (pipeline / "old.txt").unlink()
    (pipeline / "unet" / "config.json").write_text('{"new": 1}')
    hub.seen.clear()
    sent, commit = [], HfApi.create_commit
    monkeypatch.setattr(
        HfApi, "create_commit", lambda api, repo, todo, **rest: sent.extend(todo) or commit(api, repo, todo, **rest)
    )
    second = send(hub, pipeline)
    assert [operation.path_in_repo for operation in sent] == ["old.txt", "unet/config.json"]
    assert second.commit != first.commit
    assert look(hub, "run-a")[1] == set(second.files) and "old.txt" not in second.files
    assert "lfs_upload" not in hub.seen
    assert (download(REPO, first.commit, hub.endpoint, tmp_path) / "old.txt").read_text() == "old"


def test_a_branch_that_holds_more_is_brought_back(hub, pipeline):
    first = send(hub, pipeline)
    push(hub, "run-a", b"theirs")
    again = send(hub, pipeline)
    assert again.files == first.files and look(hub, "run-a") == (again.commit, set(again.files))


def test_a_new_repository_is_private_unless_asked_otherwise(hub, pipeline):
    for repo_id, options, private in (("lab/a", {}, True), ("lab/b", {"private": False}, False)):
        send(hub, pipeline, repo_id=repo_id, **options)
        with hub_client(hub.endpoint, token=None, repo_id=repo_id, writing=False) as api:
            assert api.model_info(repo_id).private is private


def test_nothing_is_sent_into_a_public_repository_where_a_private_one_is_wanted(hub, pipeline):
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=True) as api:
        api.create_repo(REPO, private=False)
    hub.seen.clear()
    with pytest.raises(HubError, match=f"{REPO} .* is public(?s:.*)settings on the Hub, or .*publish.private=false"):
        send(hub, pipeline)
    assert not {"add_branch", "preupload", "lfs_upload", "commit"} & set(hub.seen)
    assert send(hub, pipeline, private=False).commit


def test_a_private_repository_stays_so_and_it_is_said_once(hub, pipeline, caplog):
    send(hub, pipeline)
    assert "private" not in caplog.text
    send(hub, pipeline, private=False, branch="run-b")
    assert caplog.text.count(f"{REPO} is private already") == 1
    assert hub._server.store.repo(REPO)["private"]


def test_a_publication_is_current_until_its_branch_moves_or_goes(hub, pipeline):
    publication = send(hub, pipeline)
    assert is_current(publication, token=None)
    assert not is_current(publication.model_copy(update={"branch": "run-b"}), token=None)
    assert not is_current(publication.model_copy(update={"repo_id": "lab/other"}), token=None)
    push(hub, "run-a", b"theirs")
    assert not is_current(publication, token=None)


# the Hub fails


@pytest.mark.parametrize("endpoint", ["create_repo", "add_branch", "commit", "model_info", "tree"])
@pytest.mark.parametrize("fault", [busy, lost_answer])
def test_one_failure_anywhere_is_survived(hub, pipeline, endpoint, fault):
    hub.faults = {endpoint: [fault]}
    publication = send(hub, pipeline)
    assert hub.faults[endpoint] == []
    assert look(hub, "run-a") == (publication.commit, set(publication.files))


def test_a_lost_answer_is_not_committed_twice(hub, pipeline):
    hub.faults = {"commit": [lost_answer]}
    publication = send(hub, pipeline)
    assert hub.seen.count("commit") == 1
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=False) as api:
        assert [c.commit_id for c in api.list_repo_commits(REPO, revision="run-a")][0] == publication.commit
        assert len(api.list_repo_commits(REPO, revision="run-a")) == 2


def test_a_server_that_never_answers_runs_into_the_time_limit(hub, pipeline, monkeypatch):
    monkeypatch.setattr(client, "TIME_LIMIT", httpx2.Timeout(5.0, read=0.3))
    release = []
    hub.faults = {"commit": [lambda handler, route: release.append(handler.rfile.read(1)) or stall(handler)]}

    def stall(handler) -> bool:
        handler.connection.settimeout(5)
        while handler.connection.recv(1 << 16):  # until the client hangs up
            pass
        handler.close_connection = True
        return False

    publication = send(hub, pipeline)
    assert hub.seen.count("commit") == 2
    assert look(hub, "run-a")[0] == publication.commit


def test_a_hub_that_stays_down_is_a_typed_error_and_changes_nothing(hub, pipeline):
    hub.faults = {"commit": [busy] * 20}
    with pytest.raises(HubUnavailableError, match="run-a of lab/moa"):
        send(hub, pipeline)
    assert look(hub, "run-a")[1] == set()


def test_a_push_between_look_and_commit_is_a_conflict(hub, pipeline):
    def meanwhile(handler, route) -> bool:
        push(hub, "run-a", b"theirs")
        return True

    hub.faults = {"commit": [meanwhile]}
    with pytest.raises(RepositoryConflictError, match="run-a moved"):
        send(hub, pipeline)
    assert look(hub, "run-a")[1] == {"theirs.txt"}


def test_a_push_while_we_wait_to_retry_is_a_conflict(hub, pipeline):
    def meanwhile(handler, route) -> bool:
        push(hub, "run-a", b"theirs")
        return busy(handler, route)

    hub.faults = {"commit": [meanwhile]}
    with pytest.raises(RepositoryConflictError, match="run-a moved"):
        send(hub, pipeline)
    assert look(hub, "run-a")[1] == {"theirs.txt"}


def test_bytes_that_come_back_changed_are_noticed(hub, pipeline):
    def damage(handler, route) -> bool:
        handler.send_part = lambda file, start, stop: handler.wfile.write(b"x" * (stop - start))
        return True

    hub.faults = {"resolve": [damage] * 1000}
    with pytest.raises(PublicationMismatchError):
        send(hub, pipeline)


def test_bytes_that_the_hub_lists_and_sends_otherwise_are_noticed(hub, pipeline):
    """What came back is held against what was sent, not against the Hub's word."""
    sent = send(hub, pipeline)
    other = {"unet/config.json": sent.files["model_index.json"]}
    with pytest.raises(PublicationMismatchError, match="unet/config.json: came back with other bytes"):
        _verify(sent.model_copy(update={"files": sent.files | other}), None, None, None)
    more = {"unet/lost.json": sent.files["model_index.json"]}
    with pytest.raises(PublicationMismatchError, match="unet/lost.json: came back with other bytes, or not"):
        _verify(sent.model_copy(update={"files": sent.files | more}), None, None, None)


# refusals before anything is sent


def test_nothing_to_publish(hub, pipeline, tmp_path):
    with pytest.raises(NothingToPublishError, match="model_index.json"):
        send(hub, tmp_path / "missing")
    (pipeline / "adapter" / "manifest.json").unlink()
    with pytest.raises(NothingToPublishError, match="adapter/manifest.json"):
        send(hub, pipeline)
    assert hub.seen == []


def test_what_cannot_be_read_is_named_and_not_left_out(hub, pipeline, monkeypatch):
    (pipeline / "unet" / "gone.json").symlink_to(pipeline / "nowhere")
    with pytest.raises(NothingToPublishError, match="unet/gone.json cannot be read"):
        send(hub, pipeline)
    (pipeline / "unet" / "gone.json").unlink()
    scan = os.scandir

    def denied(folder: str) -> object:
        if str(folder).endswith("unet"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(NothingToPublishError, match="unet cannot be read .Permission denied"):
        send(hub, pipeline)
    assert hub.seen == []


def test_a_part_that_is_a_link_to_another_folder_is_published(hub, pipeline, tmp_path):
    (pipeline / "unet").rename(tmp_path / "elsewhere")
    (pipeline / "unet").symlink_to(tmp_path / "elsewhere")
    assert "unet/config.json" in send(hub, pipeline).files


@pytest.mark.parametrize(("file", "content"), [("moa", b"other"), ("moa", None), ("more", b"x")])
def test_an_adapter_that_is_not_the_one_in_its_manifest_is_refused(hub, pipeline, file, content):
    path = pipeline / "adapter" / f"{file}.safetensors"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=f"adapter/{file}.safetensors"):
        send(hub, pipeline)
    assert hub.seen == []


@pytest.mark.parametrize("name", ["weights.bin", "WEIGHTS.PT"])
def test_pickles_are_refused(hub, pipeline, name):
    (pipeline / "unet" / name).write_bytes(b"x")
    with pytest.raises(UnsafeFileError, match=name):
        send(hub, pipeline)
    assert hub.seen == []


def test_hidden_files_and_folders_stay_here(pipeline):
    (pipeline / ".cache").mkdir()
    for name in (".staged.json", ".cache/config.json", "unet/.config.json.swp"):
        (pipeline / name).write_text("{}")
    files = published_files(pipeline, make_card(), REPO, "run-a", "http://127.0.0.1:1")
    assert "unet/config.json" in files and not [name for name in files if "/." in f"/{name}"]


def test_restricted_terms_must_be_accepted(hub, pipeline):
    card = make_card(licences=LICENCES["ffhq_sd15"])
    with pytest.raises(LicenceRefusedError, match="CC BY-NC-SA 4.0"):
        send(hub, pipeline, card)
    assert hub.seen == []
    assert send(hub, pipeline, card, accept_licences=True).commit


def test_main_is_not_a_candidate(hub, pipeline):
    with pytest.raises(HubError, match="branch"):
        send(hub, pipeline, branch="main")
    assert hub.seen == []


def test_a_hub_beyond_this_machine_needs_a_token_and_the_network(pipeline, monkeypatch):
    remote = {"repo_id": REPO, "endpoint": "https://hub.example", "branch": "run-a", "card": make_card()}
    with pytest.raises(HubOfflineError, match="HF_HUB_OFFLINE"):
        publish(pipeline, token="secret", **remote)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(MissingTokenError, match="HF_TOKEN"):
        publish(pipeline, token=None, **remote)


def test_offline_mode_still_guards_the_network(hub):
    """The exemption is for loopback: the same client goes nowhere else."""
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=False), pytest.raises(Exception, match="OFFLINE"):
        HfApi(endpoint="https://hub.example", token=False).model_info("a/b")


def test_a_server_without_xet_is_named_as_such(hub, pipeline, monkeypatch):
    """A mirror beyond this machine without xet; played by the local Hub, which is not recognised as one here."""
    pytest.importorskip("hf_xet", reason="the client without hf_xet never tries xet")
    send(hub, pipeline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(client, "is_loopback", lambda url: False)
    write_pipeline(pipeline, b"\0other weights" * 100)
    with pytest.raises(XetUnavailableError, match="HF_HUB_DISABLE_XET=1"):
        send(hub, pipeline, token="secret")


@pytest.mark.parametrize("repo_id", ["me/moa", "alexet/moa"])
def test_a_refusal_is_no_want_of_xet(repo_id):
    """The Hub's addresses for xet have the word in them, and so may a user's name."""
    request = httpx2.Request("GET", f"https://hub.example/api/models/{repo_id}/xet-write-token/main")
    refusal = HfHubHTTPError(f"403 for {request.url}", response=httpx2.Response(403, request=request))
    assert isinstance(client._translated(refusal, "https://hub.example", repo_id), AccessDeniedError)
    busy = HfHubHTTPError(f"{repo_id} is busy", response=httpx2.Response(503, request=request))
    assert not isinstance(client._translated(busy, "https://hub.example", repo_id), XetUnavailableError)


XET_BUSY = "HTTP status server error (503 Service Unavailable), domain: https://cas-server.xethub.hf.co/v1/xorbs"


@pytest.mark.parametrize(
    ("error", "advice"),
    [  # of hf_xet 1.8, and of earlier ones
        (ConnectionError(f"Server error: Request error: {XET_BUSY}"), False),
        (RuntimeError(f"Data processing error: CAS service error : Reqwest Error: {XET_BUSY}"), False),
        (ConnectionError("Network error: error sending request for url (https://cas-server.xethub.hf.co/x)"), True),
        (TimeoutError("Timeout: operation timed out"), True),
    ],
)
def test_an_xet_storage_that_is_busy_or_away_is_tried_again(error, advice):
    tries = []

    def upload() -> None:
        tries.append(1)
        raise error

    with (
        pytest.raises(HubUnavailableError, match="later") as failure,
        hub_client("http://127.0.0.1:1", token=None, repo_id=REPO, writing=True),
    ):
        retrying(upload, what="commit")
    assert len(tries) > 1 and ("HF_HUB_DISABLE_XET=1" in str(failure.value)) is advice


def test_xet_refusals_and_bugs_are_not_tried_again():
    start = "Network error: Request error:"
    refused = ConnectionError(f"{start} HTTP status client error (403 Forbidden), domain: https://x")
    assert not client.is_transient(refused)
    assert isinstance(client._translated(refused, "https://hub.example", REPO), AccessDeniedError)
    for other in (RuntimeError("a bug"), ValueError("timed out"), HubOfflineError("connection refused")):
        assert not client.is_transient(other) and client._translated(other, "https://hub.example", REPO) is None
    none = ConnectionError(f"{start} error decoding response body, domain: no-url")
    assert isinstance(client._translated(none, "https://hub.example", REPO), XetUnavailableError)


def test_signed_addresses_stay_out_of_messages():
    signed = "https://s3.example/part?X-Amz-Credential=AK&X-Amz-Signature=deadbeef"
    refused = httpx2.Response(400, request=httpx2.Request("PUT", signed))
    text = f"Client error '400 Bad Request' for url '{signed}' (see https://x.example/?a=1)"
    error = HfHubHTTPError(text, response=refused)
    message = str(client._translated(error, "https://hub.example", REPO))
    assert "'https://s3.example/part' (see https://x.example/)" in message and "?" not in message


def test_xet_is_off_for_a_local_hub_only_while_it_is_used(hub, pipeline, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    send(hub, pipeline)
    assert huggingface_hub.constants.HF_HUB_DISABLE_XET is False
    assert "lfs_upload" in hub.seen


def test_the_token_is_in_no_message_and_no_file(tmp_path, pipeline, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "hf_averysecrettoken"
    with FaultyHub(tmp_path / "hub", token=secret) as hub:
        send(hub, pipeline, token=secret)
        hub.faults = {"commit": [busy] * 20}
        (pipeline / "unet" / "config.json").write_text('{"new": 1}')
        with pytest.raises(HubUnavailableError) as failure:
            send(hub, pipeline, token=secret)
    assert secret not in "".join(traceback.format_exception(failure.value)) + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_a_token_from_a_file_with_a_line_break_is_sent_without_it(tmp_path, pipeline):
    with FaultyHub(tmp_path / "hub", token="hf_secret\n") as hub:
        assert send(hub, pipeline, token="hf_secret\n").commit
    with FaultyHub(tmp_path / "open", token="\n") as hub:
        assert send(hub, pipeline).commit, "a variable that is empty asks for no token"


@pytest.mark.parametrize("token", ["hf_secret\nhf_other", "hf_sécret", "hf_secret\0"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_told(hub, pipeline, token):
    with pytest.raises(AccessDeniedError, match="characters that none has; check HF_TOKEN") as refused:
        send(hub, pipeline, token=token)
    assert "cret" not in "".join(traceback.format_exception(refused.value))


# promotion


def test_promotion_makes_main_the_candidate_without_uploading_weights(hub, pipeline, tmp_path):
    publication = send(hub, pipeline)
    hub.seen.clear()
    promotion = promote(publication, tag="v1", token=None)
    assert "lfs_upload" not in hub.seen and hub.seen.count("commit") == 1
    folder = download(REPO, "v1", hub.endpoint, tmp_path / "cache")
    assert folder.name == promotion.commit == look(hub, "main")[0]
    for name, digest in publication.files.items():
        assert "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest.sha256


def test_promoting_again_changes_nothing_and_says_the_same(hub, pipeline):
    publication = send(hub, pipeline)
    first = promote(publication, tag="v1", token=None)
    assert promote(publication, tag="v1", token=None) == first


def test_main_can_go_back_to_what_it_held(hub, pipeline, tmp_path):
    old = send(hub, pipeline)
    first = promote(old, tag="v1", token=None, card=make_card(steps=7), records={"gate.json": b"{}"})
    write_pipeline(pipeline, b"\0second weights" * 100)
    (pipeline / "new.txt").write_text("only in the second")
    second = promote(send(hub, pipeline, branch="run-b"), tag="v2", token=None)
    hub.seen.clear()
    place = {"token": None, "endpoint": hub.endpoint, "message": "Back to v1"}
    back = restore(REPO, first.commit, expected_main=second.commit, **place)
    assert "lfs_upload" not in hub.seen and hub.seen.count("commit") == 1
    assert look(hub, "main") == (back, look(hub, "v1")[1]) and back not in (first.commit, second.commit)
    was, now = (download(REPO, at, hub.endpoint, tmp_path) for at in (first.commit, back))
    assert (now / "gate.json").read_bytes() == b"{}" and not (now / "new.txt").exists()
    assert {path.relative_to(now): path.read_bytes() for path in now.rglob("*") if path.is_file()} == {
        path.relative_to(was): path.read_bytes() for path in was.rglob("*") if path.is_file()
    }
    assert restore(REPO, "v1", **place) == back, "again: nothing to do"
    assert look(hub, "v2")[0] == second.commit, "and nothing is lost"


def test_going_back_moves_no_main_that_somebody_else_moved(hub, pipeline):
    first = promote(send(hub, pipeline), tag="v1", token=None)
    write_pipeline(pipeline, b"\0second weights" * 100)
    second = promote(send(hub, pipeline, branch="run-b"), tag="v2", token=None)
    place = {"token": None, "endpoint": hub.endpoint, "message": "Back"}
    with pytest.raises(RepositoryConflictError, match="main moved"):
        restore(REPO, first.commit, expected_main=first.commit, **place)
    with pytest.raises(RepositoryMissingError, match="no such revision"):
        restore(REPO, "v3", **place)
    assert look(hub, "main")[0] == second.commit


def test_promotion_writes_the_scores_into_the_card_of_main(hub, pipeline, tmp_path):
    publication = send(hub, pipeline)
    metric = {"name": "Identity", "kind": "ip", "suite": "miniature 1", "value": 0.5, "low": 0.4, "high": 0.6}
    promotion = promote(publication, tag="v1", token=None, card=make_card(metrics=[metric]))
    candidate = download(REPO, publication.commit, hub.endpoint, tmp_path)
    main = download(REPO, promotion.commit, hub.endpoint, tmp_path)
    for folder, revision in ((candidate, "run-a"), (main, "v1")):
        text = (folder / "README.md").read_text()
        assert f'from_pretrained("{REPO}", revision="{revision}")' in text and "HF_ENDPOINT" in text
    assert "not been evaluated" in (candidate / "README.md").read_text()
    assert "0.400 to 0.600" in (main / "README.md").read_text()


@pytest.mark.parametrize("endpoint", ["commit", "add_tag", "refs", "paths_info", "commits"])
@pytest.mark.parametrize("fault", [busy, lost_answer])
def test_a_failing_promotion_is_finished_and_main_is_never_half(hub, pipeline, endpoint, fault):
    publication = send(hub, pipeline)
    hub.faults = {endpoint: [fault]}
    promotion = promote(publication, tag="v1", token=None)
    assert look(hub, "main") == look(hub, "v1") == (promotion.commit, set(publication.files))


@pytest.mark.parametrize("listing", ["candidate", "tag", "main"])
def test_a_listing_that_the_client_gave_up_is_asked_for_again(hub, pipeline, listing, monkeypatch):
    """The stock client asks six times, within seconds; a Hub that restarts takes longer."""
    publication = send(hub, pipeline)
    first = promote(publication, tag="v1", token=None)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    before = ("candidate", "tag", "main").index(listing)
    hub.faults = {"tree": [*[lambda *_: True] * before, *[busy] * 6]}
    assert promote(publication, tag="v1", token=None) == first and not hub.faults["tree"]


def test_a_push_to_main_during_promotion_is_a_conflict(hub, pipeline):
    publication = send(hub, pipeline)

    def meanwhile(handler, route) -> bool:
        push(hub, "main", b"theirs")
        return True

    hub.faults = {"commit": [meanwhile]}
    with pytest.raises(RepositoryConflictError, match="main moved"):
        promote(publication, tag="v1", token=None)
    assert look(hub, "main")[1] == {"theirs.txt"}


def test_a_promotion_that_was_decided_on_another_main_is_a_conflict(hub, pipeline):
    publication = send(hub, pipeline)
    seen = look(hub, "main")[0]
    push(hub, "main", b"theirs")
    with pytest.raises(RepositoryConflictError, match=f"main moved from {seen[:10]}"):
        promote(publication, tag="v1", token=None, expected_main=seen)
    assert look(hub, "main")[1] == {"theirs.txt"}
    theirs = look(hub, "main")[0]
    first = promote(publication, tag="v1", token=None, expected_main=theirs)
    assert promote(publication, tag="v1", token=None, expected_main=theirs) == first, "what is there is no conflict"


def test_a_tag_never_moves(hub, pipeline):
    promote(send(hub, pipeline), tag="v1", token=None)
    before = look(hub, "main")
    write_pipeline(pipeline, b"\0second weights" * 100)
    with pytest.raises(RepositoryConflictError, match="tag v1"):
        promote(send(hub, pipeline), tag="v1", token=None)
    assert look(hub, "main") == before


def test_only_what_was_published_can_be_promoted(hub, pipeline):
    publication = send(hub, pipeline)
    with pytest.raises(RepositoryMissingError):
        promote(publication.model_copy(update={"commit": "0" * 40}), tag="v1", token=None)
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=True) as api:
        other = api.create_commit(REPO, [CommitOperationAdd("x.txt", b"x")], commit_message="x", revision="run-a").oid
    with pytest.raises(PublicationMismatchError):
        promote(publication.model_copy(update={"commit": other}), tag="v1", token=None)
    assert look(hub, "main")[1] == set()


def test_a_hub_whose_certificate_is_not_trusted_is_told_as_that_at_once(pipeline, tmp_path, caplog):
    told = r"certificate is not trusted \(self.signed certificate\): .*set SSL_CERT_FILE"
    with serving(200, b"", write_certificate(tmp_path / "c.pem")) as url, pytest.raises(HubUntrustedError, match=told):
        publish(pipeline, repo_id=REPO, endpoint=url, token=None, branch="run-a", card=make_card())
    assert "again in" not in caplog.text


def test_a_hub_that_does_not_answer_is_named_with_its_address():
    asked = httpx2.Request("POST", "https://name:secret@hub.example:8443/api/repos/create")
    assert client.reason_of(httpx2.ConnectError("refused", request=asked)) == "ConnectError, https://hub.example:8443"
    try:
        raise OSError("lost") from httpx2.ConnectError("refused")
    except OSError as error:
        assert client.reason_of(error) == "ConnectError"
