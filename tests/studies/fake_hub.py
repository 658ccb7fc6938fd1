"""A hub in this process: as much of the Hugging Face hub's API as pushing needs, on a port of this machine.

The hub's real client talks to it. It keeps commits, refuses what the hub refuses (no login, a
token that only reads, somebody else's name), and can fall silent in the middle of an upload.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKENS = {
    "hf_write": {"name": "anna", "role": "write"},
    "hf_read": {"name": "anna", "role": "read"},
    "hf_fine": {"name": "anna", "role": "fineGrained"},
}
LARGE = 1 << 12
"""Bytes from which a file is stored apart, as large files are on the hub."""


@dataclass
class Repository:
    """Branches with their commits, newest last: (id, message, files by path)."""

    private: bool
    branches: dict[str, list[tuple[str, str, dict[str, bytes]]]] = field(default_factory=dict)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.branches[branch][-1][2]

    def add(self, message: str, files: dict[str, bytes], branch: str = "main") -> str:
        commits = self.branches.setdefault(branch, [])
        oid = sha1(f"{branch}{len(commits)}{message}{sorted(files)}".encode()).hexdigest()
        commits.append((oid, message, files))
        return oid


class FakeHub:
    """The hub; `repositories` by "model/OWNER/NAME", `uploads` the hashes of large files as they arrived.

    The next `failures` uploads of large files break off; `read_only` owners refuse commits.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.failures = 0
        self.asked: list[tuple[str, str]] = []
        self.licences: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class RefusalError(Exception):
    """A status with the hub's own code for it."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            pass

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told = {name.lower(): value for name, value in self.headers.items()}
            try:
                status, headers, data = 200, {}, _answered(hub, self.command, path, body, told)
                if isinstance(data, tuple):
                    headers, data = data
            except ConnectionAbortedError:
                self.close_connection = True
                self.connection.close()
                return
            except RefusalError as refusal:
                status, data = refusal.status, {"error": refusal.message, **refusal.more}
                headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            payload = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815 - the names that http.server looks for

    return Handler


def _answered(hub: FakeHub, verb: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
    parts = path.strip("/").split("/")
    if parts[0] == "lfs":
        if hub.failures:
            hub.failures -= 1
            raise ConnectionAbortedError
        assert sha256(body).hexdigest() == parts[1]
        hub.objects[parts[1]] = body
        hub.uploads.append(parts[1])
        return {}
    user = _user(headers)
    if path == "/api/whoami-v2":
        role = {"role": user["role"], "displayName": "test"}
        return {
            "type": "user",
            "name": user["name"],
            "orgs": [{"name": "lab"}],
            "auth": {"accessToken": role},
        }
    if path == "/api/validate-yaml":
        return {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        return _created(hub, user, json.loads(body))
    if parts[0] == "api" and len(parts) < 4:
        raise RefusalError(404, "", "no such page")
    if parts[0] == "api":
        return _of_repository(hub, user, parts[1].removesuffix("s"), parts[2:], body)
    kind = "dataset" if parts[0] == "datasets" else "model"
    parts = parts[1:] if kind == "dataset" else parts
    if "info" in parts:
        objects = json.loads(body)["objects"]
        return {"transfer": "basic", "objects": [_upload_of(hub, one) for one in objects]}
    owner, name, _, revision, *file = parts  # resolve
    commit, _, files = _commit(_repository(hub, kind, owner, name), revision)
    if "/".join(file) not in files:
        raise RefusalError(404, "EntryNotFound", "no such file")
    data = files["/".join(file)]
    return {"X-Repo-Commit": commit, "ETag": f'"{sha1(data).hexdigest()}"'}, data


def _user(headers: Mapping[str, str]) -> dict[str, str]:
    token = (headers.get("authorization") or "").removeprefix("Bearer ")
    if token not in TOKENS:
        raise RefusalError(401, "", "Invalid username or password.")
    return TOKENS[token]


def _upload_of(hub: FakeHub, one: dict[str, Any]) -> dict[str, Any]:
    if one["oid"] in hub.objects:
        return dict(one)
    return {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}


def _created(hub: FakeHub, user: Mapping[str, str], wanted: Mapping[str, Any]) -> dict[str, str]:
    owner, kind = wanted.get("organization") or user["name"], wanted.get("type") or "model"
    if user["role"] == "read" or owner == "lab":
        raise RefusalError(403, "", "You don't have the rights to create a model under this namespace")
    key = f"{kind}/{owner}/{wanted['name']}"
    url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{owner}/{wanted['name']}"
    if key in hub.repositories:
        raise RefusalError(409, "", "You already created this repo", url=url)
    hub.repositories[key] = Repository(wanted.get("visibility") == "private")
    hub.repositories[key].add("initial commit", {".gitattributes": b"*.safetensors filter=lfs"})
    return {"url": url}


def _repository(hub: FakeHub, kind: str, owner: str, name: str) -> Repository:
    if (found := hub.repositories.get(f"{kind}/{owner}/{name}")) is None:
        raise RefusalError(404, "RepoNotFound", "Repository not found")
    return found


def _commit(of: Repository, revision: str) -> tuple[str, str, dict[str, bytes]]:
    for branch, commits in of.branches.items():
        for commit in commits:
            if revision == commit[0]:
                return commit
        if revision == branch:
            return commits[-1]
    raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def _of_repository(hub: FakeHub, user: Mapping[str, str], kind: str, parts: list[str], body: bytes) -> Any:
    owner, name, *rest = parts
    if f"{owner}/{name}" in hub.licences:
        card = {"license": hub.licences[f"{owner}/{name}"]}
        return {"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": [], "cardData": card}
    found = _repository(hub, kind, owner, name)
    what, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
    if what == "branch":
        if revision in found.branches:
            raise RefusalError(409, "", "Reference already exists")
        found.add("initial commit", dict(found.files()), revision)
        return {}
    if what == "preupload":
        return {"files": [_mode(found, revision, file) for file in json.loads(body)["files"]]}
    if what == "commit":
        if user["role"] == "fineGrained":
            raise RefusalError(403, "", "Forbidden: you must use a write token to upload")
        oid = _committed(hub, found, revision, body)
        return {"commitOid": oid, "commitUrl": f"{hub.url}/{owner}/{name}/commit/{oid}"}
    commit, _, files = _commit(found, revision)
    if what == "tree":
        return [
            {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
            for path, data in files.items()
        ]
    siblings = [{"rfilename": path} for path in files]
    return {"id": f"{owner}/{name}", "sha": commit, "private": found.private, "siblings": siblings}


def _mode(found: Repository, branch: str, file: Mapping[str, Any]) -> dict[str, Any]:
    there = found.files(branch).get(file["path"])
    oid = None if there is None else sha1(b"blob %d\0" % len(there) + there).hexdigest()
    if there is not None and file["size"] > LARGE:
        oid = sha256(there).hexdigest()
    mode = "lfs" if file["size"] > LARGE else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _committed(hub: FakeHub, found: Repository, branch: str, body: bytes) -> str:
    lines = [json.loads(line) for line in body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, found.branches[branch][-1][0]):
        raise RefusalError(412, "", "A commit has happened since. Please refresh and try again.")
    files = dict(found.files(branch))
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    return found.add(header["summary"], files, branch)
