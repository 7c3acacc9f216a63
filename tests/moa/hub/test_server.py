"""The local Hub as the stock client and plain HTTP see it: endpoints, errors, what it refuses, what survives."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from moa.errors import AccessDeniedError, HubError, StoreError
from moa.hub.client import hub_client
from moa.hub.git_names import git_sha1, pointer_of
from moa.hub.server import LocalHub, main
from moa.hub.store import LEFT_OVER, Store

REPO = "lab/model"


def call(hub: LocalHub, verb: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, bytes]:
    """One request by hand; returns status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    connection.request(verb, path, body=data, headers=headers)
    response = connection.getresponse()
    answer = response.status, dict(response.headers), response.read()
    connection.close()
    return answer


@pytest.fixture
def api(hub):
    with hub_client(hub.endpoint, token=None, repo_id=REPO, writing=True) as client:
        client.create_repo(REPO)
        yield client


def add(api: HfApi, files: dict[str, bytes], **options) -> str:
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(REPO, operations, commit_message="add", **options).oid


def test_files_come_back_as_they_were_sent_by_either_way(api, tmp_path):
    large = bytes(range(256)) * 4096
    sha = add(api, {"a/config.json": b"{}", "a/weights.safetensors": large, "empty.txt": b""})

    entries = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True) if hasattr(entry, "size")}
    assert entries["a/config.json"].lfs is None
    assert entries["a/weights.safetensors"].lfs.sha256 == hashlib.sha256(large).hexdigest()
    for path, data in {"a/config.json": b"{}", "a/weights.safetensors": large, "empty.txt": b""}.items():
        assert Path(api.hf_hub_download(REPO, path, revision=sha, cache_dir=tmp_path)).read_bytes() == data


def test_files_are_listed_by_the_ids_of_git(api):
    add(api, {"hello.txt": b"hello", "w.safetensors": b"hello"})
    oids = {entry.path: entry.blob_id for entry in api.get_paths_info(REPO, ["hello.txt", "w.safetensors"])}
    assert oids == {
        "hello.txt": git_sha1(b"hello"),
        "w.safetensors": git_sha1(pointer_of(hashlib.sha256(b"hello").hexdigest(), 5)),
    }


def test_tree_lists_one_level_or_all(api):
    add(api, {"a/b/c.txt": b"c", "a/d.txt": b"d", "ab.txt": b"e"})
    assert {entry.path for entry in api.list_repo_tree(REPO)} == {".gitattributes", "a", "ab.txt"}
    assert {entry.path for entry in api.list_repo_tree(REPO, "a")} == {"a/b", "a/d.txt"}
    assert {entry.path for entry in api.list_repo_tree(REPO, "a", recursive=True)} == {"a/b", "a/b/c.txt", "a/d.txt"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "missing"))


def test_errors_are_the_ones_the_client_knows(api):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("lab/other")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "nothing.txt")
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit(REPO, [CommitOperationDelete("nothing.txt")], commit_message="delete")
    for repeat in (lambda: api.create_repo(REPO), lambda: api.create_branch(REPO, branch="main")):
        with pytest.raises(HfHubHTTPError) as conflict:
            repeat()
        assert conflict.value.response.status_code == 409


def test_stale_parent_is_refused_and_changes_nothing(api):
    first = add(api, {"a.txt": b"1"})
    second = add(api, {"a.txt": b"2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError) as stale:
        add(api, {"a.txt": b"3"}, parent_commit=first)
    assert stale.value.response.status_code == 412
    assert api.model_info(REPO).sha == second


def test_branches_and_tags_are_independent_names(api):
    first = add(api, {"a.txt": b"1"})
    api.create_branch(REPO, branch="run-x")
    api.create_tag(REPO, tag="v1", revision=first)
    second = add(api, {"a.txt": b"2"}, revision="run-x")
    assert api.model_info(REPO, revision="main").sha == api.model_info(REPO, revision="v1").sha == first
    assert api.model_info(REPO, revision="run-x").sha == second
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "run-x": second}
    assert [commit.commit_id for commit in api.list_repo_commits(REPO, revision="run-x")][:2] == [second, first]


def test_deleting_a_folder_deletes_its_files_only(api):
    add(api, {"a/x.txt": b"1", "a/y.txt": b"2", "ab.txt": b"3"})
    api.create_commit(REPO, [CommitOperationDelete("a/")], commit_message="delete")
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "ab.txt"}


def test_a_byte_range_is_answered_with_that_range(api, hub):
    sha = add(api, {"digits.txt": b"0123456789"})
    path = f"/{REPO}/resolve/main/digits.txt"
    for asked, expected in {"bytes=2-4": b"234", "bytes=7-": b"789", "bytes=-3": b"789", "bytes=8-99": b"89"}.items():
        status, headers, body = call(hub, "GET", path, Range=asked)
        assert (status, body) == (206, expected)
        assert headers["X-Repo-Commit"] == sha and headers["Content-Range"].endswith("/10")
    assert call(hub, "GET", path, Range="bytes=10-")[0] == 416
    status, headers, body = call(hub, "HEAD", path)
    assert (status, headers["Content-Length"], headers["Accept-Ranges"], body) == (200, "10", "bytes", b"")


@pytest.mark.parametrize("path", ["../escape", "a/../../b", "/etc/passwd", "a//b", ".git/config", "a\\b", "a/./b", ""])
def test_file_paths_that_leave_the_repository_are_refused(api, hub, path):
    before = api.model_info(REPO).sha
    lines = [
        {"key": "header", "value": {"summary": "attack"}},
        {"key": "file", "value": {"content": "eA==", "path": path, "encoding": "base64"}},
    ]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    assert call(hub, "POST", f"/api/models/{REPO}/commit/main", body)[0] == 400
    assert api.model_info(REPO).sha == before


@pytest.mark.parametrize(
    "path",
    [
        "/lab/model/resolve/main/../../../../../repo.json",
        "/lab/model/resolve/main/%2e%2e%2f%2e%2e%2frepo.json",
        "/..%2f..%2fblobs/model/resolve/main/x",
        "/api/models/lab/..%2f..%2fother",
        "/api/models/lab/model/revision/..%2frefs",
        "/lfs/..%2f..%2frepo.json",
    ],
)
def test_addresses_that_leave_the_store_find_nothing(api, hub, path):
    status, _, body = call(hub, "GET", path)
    assert status in (400, 404)
    assert b"private" not in body


def test_a_file_cannot_be_a_folder_too(api):
    add(api, {"a": b"1"})
    with pytest.raises(HfHubHTTPError):
        add(api, {"a/b": b"2"})


def test_uploads_must_be_signed_and_be_what_they_announce(api, hub):
    data, other = b"weights", b"tampered"
    oid = hashlib.sha256(data).hexdigest()
    request = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    _, _, body = call(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", request)
    href = json.loads(body)["objects"][0]["actions"]["upload"]["href"]
    target = href.removeprefix(hub.endpoint)
    assert call(hub, "PUT", f"/lfs/{oid}?size=7&signature=0", data)[0] == 403
    assert call(hub, "PUT", target, other)[0] == 400
    assert call(hub, "POST", f"/{REPO}.git/info/lfs/objects/verify", request["objects"][0])[0] == 400
    assert call(hub, "PUT", target, data)[0] == 200
    assert call(hub, "POST", f"/{REPO}.git/info/lfs/objects/verify", request["objects"][0])[0] == 200
    _, _, body = call(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", request)
    assert "actions" not in json.loads(body)["objects"][0]


def test_of_an_upload_no_more_is_written_than_was_announced(tmp_path):
    """A stream that does not end would fill the disk."""

    class Endless:
        written = 0

        def read(self, size: int) -> bytes:
            self.written += size
            assert self.written < 10 << 20
            return bytes(size)

    store = Store(tmp_path)
    with pytest.raises(StoreError, match="other bytes than announced"):
        store.put_stream(Endless(), "0" * 64, 7)
    assert not store.has_blob("0" * 64) and list(store.incoming.iterdir()) == []


def test_chunked_bodies_are_read(hub):
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
    pieces = [b'{"name": "chun', b'ked", "organization": "lab"}']
    connection.request("POST", "/api/repos/create", body=iter(pieces), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert call(hub, "GET", "/api/models/lab/chunked")[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"not json\n", b'{"key": "file"}\n', b'{"key": "mystery", "value": {"path": "x"}}\n']
)
def test_malformed_commits_are_refused_and_the_server_lives(api, hub, body):
    before = api.model_info(REPO).sha
    status = call(hub, "POST", f"/api/models/{REPO}/commit/main", body)[0]
    assert status == (200 if body == b"" else 400)  # an empty commit changes nothing, which is no error
    assert api.model_info(REPO).sha == before


@pytest.mark.parametrize("body", [{"content": 1}, ["content"], "content", {}, b"[" * 100_000])
def test_a_body_of_another_shape_is_the_clients_mistake(hub, body):
    assert call(hub, "POST", "/api/validate-yaml", body)[0] == 400


@pytest.mark.parametrize(
    "request_head",
    [
        "POST /api/repos/create HTTP/1.1\r\nContent-Length: -1",
        "POST /api/repos/create HTTP/1.1\r\nContent-Length: x",
        "POST /api/repos/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5",
        "POST /api/repos/create HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        "GET http://[ HTTP/1.1",
    ],
)
def test_what_cannot_be_read_is_refused_at_once(hub, request_head):
    """A negative length would be read as "until the end", which does not come."""
    parts = urlsplit(hub.endpoint)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(f"{request_head}\r\n\r\n".replace("HTTP/1.1", "HTTP/1.1\r\nHost: localhost").encode())
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_metadata_of_a_card_is_checked_before_anything_is_uploaded(api):
    with pytest.raises(ValueError, match="not YAML"):
        add(api, {"README.md": b"---\nlicense: [\n---\ntext"})


def test_with_a_token_every_request_needs_it(tmp_path):
    with LocalHub(tmp_path, token="secret") as hub:
        assert call(hub, "GET", "/api/whoami-v2")[0] == 401
        for wrong in (None, "guess"):
            with (
                pytest.raises(AccessDeniedError),
                hub_client(hub.endpoint, token=wrong, repo_id=REPO, writing=True) as api,
            ):
                api.create_repo(REPO)
        with hub_client(hub.endpoint, token="secret", repo_id=REPO, writing=True) as api:
            assert api.whoami()["name"] == "local"
            api.create_repo(REPO)
            add(api, {"w.safetensors": b"\0weights"})  # the upload address carries its own signature


def test_only_loopback_names_are_answered(hub):
    """A web page whose name was made to resolve to 127.0.0.1 sends its own name as host."""
    assert call(hub, "GET", "/api/whoami-v2", Host="evil.example")[0] == 403
    assert call(hub, "GET", "/api/whoami-v2", Host=f"localhost:{urlsplit(hub.endpoint).port}")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_other_sites_pages_send_is_refused(hub, sent):
    """A form or a script without preflight may POST anywhere; browsers say where it comes from."""
    body = json.dumps({"name": "theirs", "organization": "lab"}).encode()
    headers = {"Content-Type": "text/plain", "Host": "127.0.0.1", **sent}
    assert call(hub, "POST", "/api/repos/create", body, **headers)[0] == 403
    assert call(hub, "GET", "/api/models/lab/theirs")[0] == 404
    assert call(hub, "GET", "/api/whoami-v2", **sent)[0] == 403


def test_what_a_person_types_into_a_browser_is_answered(hub):
    assert call(hub, "GET", "/api/whoami-v2", **{"Sec-Fetch-Site": "none"})[0] == 200


def test_an_open_address_needs_a_token(tmp_path):
    with pytest.raises(HubError, match="MOA_HUB_TOKEN"):
        LocalHub(tmp_path, host="0.0.0.0")


def test_the_command_line_says_in_a_line_what_is_wrong(hub, tmp_path, capsys):
    taken = str(urlsplit(hub.endpoint).port)
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--root", str(tmp_path / "r"), "--port", taken], f"127.0.0.1:{taken} cannot be bound"),
        (["--root", str(tmp_path / "r"), "--port", "99999"], "--port"),
        (["--root", str(tmp_path / "r"), "--host", "::1"], "--host"),
        (["--root", str(tmp_path / "file" / "below")], "root: "),
        (["--root", str(tmp_path / "r"), "--host", "0.0.0.0"], "MOA_HUB_TOKEN"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_everything_survives_a_restart_and_two_servers_share_a_root(tmp_path):
    with LocalHub(tmp_path) as first, LocalHub(tmp_path) as second:
        with hub_client(first.endpoint, token=None, repo_id=REPO, writing=True) as api:
            api.create_repo(REPO, private=True)
            sha = add(api, {"a.txt": b"1"})
        with hub_client(second.endpoint, token=None, repo_id=REPO, writing=True) as api:
            sha = add(api, {"b.txt": b"2"}, parent_commit=sha)
    with LocalHub(tmp_path) as third, hub_client(third.endpoint, token=None, repo_id=REPO, writing=False) as api:
        info = api.model_info(REPO)
        assert (info.sha, info.private) == (sha, True)
        assert {entry.rfilename for entry in info.siblings} == {".gitattributes", "a.txt", "b.txt"}


def test_a_start_clears_what_killed_uploads_left_and_nobody_is_writing(tmp_path):
    store = Store(tmp_path)
    dead, alive = store.incoming / "dead", store.incoming / "alive"
    for path in (dead, alive):
        path.write_bytes(b"half")
    long_ago = dead.stat().st_mtime - LEFT_OVER - 1
    os.utime(dead, (long_ago, long_ago))
    Store(tmp_path)
    assert alive.exists() and not dead.exists()


def test_a_closed_hub_hangs_up(tmp_path):
    with LocalHub(tmp_path) as hub:
        parts = urlsplit(hub.endpoint)
        connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
        connection.sendall(b"GET /api/whoami-v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    while connection.recv(4096):  # the rest of the answer, then the end
        pass
    connection.close()


def test_a_repository_of_more_than_one_preupload_call(api):
    """The client asks for upload modes in calls of 256 files."""
    sha = add(api, {f"many/{i:04}.txt": str(i).encode() for i in range(600)})
    assert len(api.list_repo_files(REPO, revision=sha)) == 601
    assert len(list(api.list_repo_commits(REPO))) == 2
