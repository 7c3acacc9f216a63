"""The endpoints of the Hub's protocol for model repositories: one method for each, over a `Store`.

The stock `huggingface_hub` client works against it unchanged, without xet (see `moa.hub.client`). File bytes stream;
nothing else is larger than a line of a commit.
"""

from __future__ import annotations

import base64
import hmac
import json
from urllib.parse import parse_qs

import yaml

from moa.errors import StoreError
from moa.hub import store as reasons
from moa.hub.connection import HubConnection
from moa.hub.protocol import apply_changes, described, upload_mode, with_folders
from moa.hub.request import parse_range
from moa.hub.store import Entry


class HubRequestHandler(HubConnection):
    """What each route of `moa.hub.request.ROUTES` answers."""

    # who and what

    def whoami(self) -> None:
        self.send_json(
            {"type": "user", "name": "local", "fullname": "Local Hub", "orgs": [], "auth": {"type": "access_token"}}
        )

    def validate_yaml(self) -> None:
        content = self._json()["content"]
        errors = []
        if content.startswith("---\n"):
            try:
                metadata = yaml.safe_load(content[4:].split("\n---", 1)[0])
                if not isinstance(metadata, dict):
                    errors.append({"message": "The metadata block is not a mapping"})
            except yaml.YAMLError as error:
                errors.append({"message": f"The metadata block is not YAML: {error}"})
        self.send_json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def create_repo(self) -> None:
        request = self._json()
        if request.get("type", "model") != "model":
            raise StoreError(reasons.INVALID, "This Hub serves model repositories only")
        repo_id = f"{request.get('organization') or 'local'}/{request['name']}"
        answer = {"url": f"{self._base()}/{repo_id}", "name": repo_id, "id": repo_id}
        try:
            self.store.create_repo(
                repo_id, private=request.get("visibility") == "private" or bool(request.get("private"))
            )
        except StoreError as error:
            if error.kind != reasons.CONFLICT:
                raise
            self.send_json({**answer, "error": str(error)}, status=409)
        else:
            self.send_json(answer)

    # reading

    def model_info(self, repo_id: str, revision: str = "main") -> None:
        sha = self.store.resolve(repo_id, revision)
        record = self.store.commit_record(repo_id, sha)
        siblings = [{"rfilename": path} for path in record["files"]]
        repo = self.store.repo(repo_id)
        self.send_json({**repo, "modelId": repo_id, "sha": sha, "lastModified": record["date"], "siblings": siblings})

    def refs(self, repo_id: str) -> None:
        refs = self.store.refs(repo_id)

        def listed(kind: str) -> list[dict]:
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in sorted(refs[kind].items())
            ]

        self.send_json({"branches": listed("heads"), "tags": listed("tags"), "converts": [], "pullRequests": []})

    def commits(self, repo_id: str, revision: str) -> None:
        history = self.store.history(repo_id, self.store.resolve(repo_id, revision))
        self.send_json(
            [
                {
                    "id": sha,
                    "authors": [],
                    "date": commit["date"],
                    "title": commit["title"],
                    "message": commit["description"],
                }
                for sha, commit in history
            ]
        )

    def tree(self, repo_id: str, revision: str, folder: str = "") -> None:
        files = self.store.files(repo_id, self.store.resolve(repo_id, revision))
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder}/" if folder else ""
        listed = [path for path in with_folders(files) if path.startswith(prefix) and path != folder]
        if prefix and not listed:
            raise StoreError(reasons.ENTRY_NOT_FOUND, f"{folder} does not exist on {revision}")
        if not recursive:
            listed = [path for path in listed if "/" not in path[len(prefix) :]]
        self.send_json([described(path, files) for path in listed])

    def paths_info(self, repo_id: str, revision: str) -> None:
        files = self.store.files(repo_id, self.store.resolve(repo_id, revision))
        known = set(with_folders(files))
        self.send_json([described(path, files) for path in self._form("paths") if path in known])

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        sha = self.store.resolve(repo_id, revision)
        entry = self.store.files(repo_id, sha).get(path)
        if entry is None:
            raise StoreError(reasons.ENTRY_NOT_FOUND, "Entry not found")
        part = parse_range(self.headers.get("Range"), entry.size)
        headers = {
            "X-Repo-Commit": sha,
            "ETag": f'"{entry.sha256 if entry.lfs else entry.blob_id}"',
            "Accept-Ranges": "bytes",
        }
        if part is None:
            self.send_head(416, 0, {**headers, "Content-Range": f"bytes */{entry.size}"})
            return
        start, stop = part
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
        with self.store.open_blob(entry) as file:  # first: if it cannot be read, that is the answer
            self.send_head(206 if "Range" in self.headers else 200, stop - start, headers)
            if self.command == "GET":
                self.send_part(file, start, stop)

    # writing

    def add_branch(self, repo_id: str, branch: str) -> None:
        self.store.add_ref(repo_id, "heads", branch, self._json().get("startingPoint") or "main")
        self.send_json({})

    def add_tag(self, repo_id: str, revision: str) -> None:
        self.store.add_ref(repo_id, "tags", self._json()["tag"], revision)
        self.send_json({})

    def preupload(self, repo_id: str, revision: str) -> None:
        files = self.store.files(repo_id, self.store.resolve(repo_id, revision))
        asked = self._json()["files"]
        if len(asked) > 256:
            self.send_error_json(413, reasons.INVALID, "At most 256 files in a call")
            return
        self.send_json({"files": [upload_mode(file, files.get(file["path"])) for file in asked]})

    def lfs_batch(self, repo_id: str) -> None:
        self.store.repo(repo_id)
        objects = []
        for item in self._json()["objects"]:
            oid, size = item["oid"], int(item["size"])
            objects.append({"oid": oid, "size": size})
            if not self.store.has_blob(oid):
                upload = f"{self._base()}/lfs/{oid}?size={size}&signature={self.server.sign(oid, size)}"
                verify = {"href": f"{self._base()}/{repo_id}.git/info/lfs/objects/verify"}
                objects[-1]["actions"] = {"upload": {"href": upload}, "verify": verify}
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        size = int(self.query["size"][0])
        if not hmac.compare_digest(self.query["signature"][0], self.server.sign(oid, size)):
            self.send_error_json(403, reasons.INVALID, "Wrong signature")
            return
        self.store.put_stream(self.body.reader, oid, size)
        self.send_head(200, 0, {})

    def lfs_verify(self, repo_id: str) -> None:
        item = self._json()
        if self.store.large_file(item["oid"]).size != item["size"]:
            raise StoreError(reasons.INVALID, f"Uploaded object {item['oid']} has another size")
        self.send_json({})

    def commit(self, repo_id: str, revision: str) -> None:
        self.store.repo(repo_id)
        header, changes = {"summary": ""}, []
        for line in self.body.lines():
            item = json.loads(line)
            if item["key"] == "header":
                header = item["value"]
            else:
                changes.append((item["key"], item["value"]["path"], self._stored(item["key"], item["value"])))

        sha = self.store.commit(
            repo_id,
            revision,
            lambda files: apply_changes(changes, files),
            parent=header.get("parentCommit"),
            title=header["summary"],
            description=header.get("description", ""),
        )
        url = f"{self._base()}/{repo_id}/commit/{sha}"
        self.send_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # parts of a request

    def _stored(self, key: str, value: dict) -> Entry | None:
        """The entry of an added file (its bytes are stored now), None for a deletion."""
        if key == "file":
            if value.get("encoding") != "base64":
                raise StoreError(reasons.INVALID, f"{value['path']}: unknown encoding {value.get('encoding')!r}")
            return self.store.put_bytes(base64.b64decode(value["content"], validate=True))
        return self.store.large_file(value["oid"]) if key == "lfsFile" else None

    def _json(self) -> dict:
        return json.loads(self.body.read_all())

    def _form(self, field: str) -> list[str]:
        text = self.body.read_all().decode()
        if self.headers.get_content_type() == "application/json":
            return json.loads(text)[field]
        return parse_qs(text).get(field, [])

    def _base(self) -> str:
        return f"http://{self.headers['Host']}"
