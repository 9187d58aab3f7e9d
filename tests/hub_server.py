# Copyright 2026 The optimum-neuronmm authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""A Hugging Face Hub on loopback, for the real client: repositories in memory, commits that happen or do not, and faults.

Only the standard library. It speaks the part of the Hub's protocol that `huggingface_hub` uses to create, upload, list
and download. Large files go by git-LFS: the answer to a batch names `basic`, so that the client does not turn to Xet.

    with HubServer() as hub:
        hub.fail("commit", status=503, times=2)
        push_to_hub(directory, "me/name", endpoint=hub.endpoint, token=hub.token)
        hub.files("me/name")["config.json"]
"""

import base64
import fnmatch
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_" + "aTokenThatIsEasyToRecognise0123456789"  # in two, so that no scanner takes it for one
USER = "me"
LFS_SUFFIXES = (".safetensors", ".pt", ".bin")

_ID = r"(?P<repo>[\w.-]+/[\w.-]+)"
# In this order: the first that matches.
_ROUTES = {
    "create": ("POST", r"/api/repos/create"),
    "validate": ("POST", r"/api/validate-yaml"),
    "whoami": ("GET", r"/api/whoami-v2"),
    "preupload": ("POST", rf"/api/models/{_ID}/preupload/(?P<revision>[^/]+)"),
    "batch": ("POST", rf"/{_ID}\.git/info/lfs/objects/batch"),
    "put": ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    "verify": ("POST", r"/lfs/verify"),
    "commit": ("POST", rf"/api/models/{_ID}/commit/(?P<revision>[^/]+)"),
    "branch": ("POST", rf"/api/models/{_ID}/branch/(?P<branch>[^/]+)"),
    "refs": ("GET", rf"/api/models/{_ID}/refs"),
    "tree": ("GET", rf"/api/models/{_ID}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?"),
    "info": ("GET", rf"/api/models/{_ID}(?:/revision/(?P<revision>[^/]+))?"),
    "list": ("GET", r"/api/models"),
    "resolve": ("GET", rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
}


@dataclass
class Commit:
    """A state of a repository. `oid` is a hash of everything in it and before it."""

    files: dict[str, bytes]
    message: str
    parent: str | None
    oid: str = field(init=False)

    def __post_init__(self):
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(self.files.items())]
        self.oid = hashlib.sha1(json.dumps([content, self.message, self.parent]).encode()).hexdigest()


class Repository:
    def __init__(self, private: bool):
        self.private = private
        first = Commit(
            {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit", None
        )
        self.commits = {first.oid: first}
        self.branches = {"main": first.oid}

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def add(self, branch: str, files: dict[str, bytes], message: str) -> Commit:
        commit = Commit(files, message, self.branches[branch])
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    route: str | None
    authorization: str | None
    body: bytes


@dataclass
class _Fault:
    kind: str  # "status", or where the connection is cut: "request", "response" or "answer"
    times: int
    status: int = 0
    body: object = None
    headers: dict = field(default_factory=dict)


class HubServer:
    """The server. A context manager; everything it holds may be looked at and changed from the test.

    Attributes:
        endpoint: "http://127.0.0.1:PORT".
        token: the only token that it knows, of the user `me`. Reading public repositories needs none.
        requests: every request, in the order of arrival.
        objects: LFS objects that have arrived and were verified, by sha256. A commit makes them part of a repository.
        repositories: by id.
    """

    def __init__(self):
        self.token, self.user = TOKEN, USER
        self.requests: list[Request] = []
        self.arrived: dict[str, bytes] = {}  # and not verified
        self.objects: dict[str, bytes] = {}
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[_Fault]] = {}
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda *args: None  # connections that were cut on purpose
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What tests arrange.

    def fail(self, route: str, status: int, times: int = 1, body: object = None, headers: dict | None = None) -> None:
        """Answers the next requests of a route with a status, instead of what they ask for. -1: all of them."""
        body = {"error": f"injected {status}"} if body is None else body
        self._add_fault(route, _Fault("status", times, status, body, headers or {}))

    def cut(self, route: str, where: str, times: int = 1) -> None:
        """Cuts the connection of the next requests of a route.

        Args:
            where: "request": in the middle of the request's body, so that nothing happens; "answer": after doing what
                was asked and before the first byte of the answer; "response": in the middle of the answer's body.
        """
        assert where in ("request", "answer", "response")
        self._add_fault(route, _Fault(where, times))

    def _add_fault(self, route: str, fault: _Fault) -> None:
        assert route in _ROUTES
        self.faults.setdefault(route, []).append(fault)

    def create(self, repo: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repository:
        """A repository that is there before the test's own requests."""
        repository = self.repositories[repo] = Repository(private)
        if files is not None:
            repository.add("main", {**repository.at("main").files, **files}, "before")
        return repository

    # What tests look at.

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a clone would hold, less the .gitattributes that the Hub makes."""
        files = self.repositories[repo].at(revision).files
        return {name: content for name, content in files.items() if name != ".gitattributes"}

    def history(self, repo: str, branch: str = "main") -> list[str]:
        """Messages of the commits of a branch, the newest first."""
        repository, messages = self.repositories[repo], []
        commit = repository.at(branch)
        while commit is not None:
            messages.append(commit.message)
            commit = repository.commits.get(commit.parent)
        return messages

    def count(self, route: str) -> int:
        return Counter(request.route for request in self.requests)[route]


class _Answer(Exception):
    """Ends the handling of a request with an error."""

    def __init__(self, status: int, error: str, code: str | None = None, headers: dict | None = None):
        self.status, self.body = status, {"error": error}
        self.headers = {"X-Error-Message": error, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class _Cut(Exception):
    """Ends a connection, without another word."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    # One packet for each answer: in two, the second waits for the client's delayed acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        route, values = self._route("GET" if self.command == "HEAD" else self.command, url.path)
        authorization = self.headers.get("Authorization")
        fault = self._next_fault(route)
        try:
            body = self._read_body(fault is not None and fault.kind == "request")
        except _Cut:
            body = None
        request = Request(self.command, self.path, route, authorization, body or b"")
        with self.hub.lock:
            self.hub.requests.append(request)
            if body is None:
                return self._hang_up()
            if fault is not None and fault.kind == "status":
                return self._send(fault.status, fault.body, fault.headers)
            try:
                answer = self._handle(route, values, request)
            except _Answer as error:
                answer = (error.status, error.body, error.headers)
        if fault is not None and fault.kind == "answer":
            return self._hang_up()
        self._send(*answer, cut=fault is not None)

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self, method: str, path: str) -> tuple[str | None, dict]:
        for name, (expected, pattern) in _ROUTES.items():
            match = re.fullmatch(pattern, path)
            if method == expected and match:
                values = match.groupdict()
                # Once, as the Hub does: a name of a branch or a file may hold a quoted character.
                return name, {key: None if value is None else unquote(value) for key, value in values.items()}
        return None, {}

    def _next_fault(self, route: str | None) -> _Fault | None:
        with self.hub.lock:
            waiting = self.hub.faults.get(route, [])
            while waiting and waiting[0].times == 0:
                waiting.pop(0)
            if not waiting:
                return None
            waiting[0].times -= 1
            return waiting[0]

    def _read_body(self, cut: bool) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("no client of the Hub sends chunks")
        length = int(self.headers.get("Content-Length", 0))
        if cut:
            self.rfile.read(length // 2)
            raise _Cut
        body = self.rfile.read(length)
        if len(body) < length:
            raise _Cut
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        # Without lingering, the client gets a reset and not the polite end of a stream.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _send(self, status: int, body: object, headers: dict | None = None, cut: bool = False) -> None:
        is_json = not isinstance(body, (bytes, str))
        content = json.dumps(body).encode() if is_json else body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json" if is_json else "text/plain",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return self.wfile.flush()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(content)
            self.wfile.flush()

    # The Hub. Each handler returns (status, body, headers), under the lock, so that a commit is seen whole or not at all.

    def _handle(self, route: str | None, values: dict, request: Request) -> tuple:
        if route is None:
            raise _Answer(404, f"no such route: {request.method} {request.path}")
        known = request.authorization == f"Bearer {self.hub.token}"
        if request.authorization is not None and not known:
            raise _Answer(401, "Invalid credentials in Authorization header")
        writes = ("create", "whoami", "preupload", "batch", "commit", "branch")  # an upload's address is its own right
        if route in writes and not known:
            raise _Answer(401, "Invalid username or password.")
        if "repo" in values:
            values["repository"] = self.hub.repositories.get(values["repo"])
            if values["repository"] is None or (values["repository"].private and not known):
                raise _Answer(404, "Repository not found", "RepoNotFound")
        if "revision" in values:
            values["commit"] = values["repository"].at(values["revision"] or "main")
            if values["commit"] is None:
                raise _Answer(404, f"Invalid rev id: {values['revision']}", "RevisionNotFound")
        body = json.loads(request.body) if request.body and route in _JSON else request.body
        return getattr(self, f"_{route}")(body, **values)

    def _create(self, body: dict) -> tuple:
        owner = body.get("organization") or self.hub.user
        if owner != self.hub.user:
            raise _Answer(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo = f"{owner}/{body['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo}"}
        if repo in self.hub.repositories:
            return 409, {"error": "You already created this model repo", **url}, {}
        self.hub.create(repo, private=bool(body.get("private")))
        return 200, {**url, "name": repo}, {}

    def _validate(self, body: dict) -> tuple:
        if not body["content"].startswith("---\n"):
            return 200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}, {}
        if "\t" in body["content"].split("---\n")[1]:  # as good a mistake as any
            return 400, {"errors": [{"message": "tabs are no YAML"}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def _whoami(self, body: bytes) -> tuple:
        return 200, {"type": "user", "name": self.hub.user, "orgs": []}, {}

    def _preupload(self, body: dict, repo: str, repository: Repository, revision: str, commit: Commit) -> tuple:
        ignored = body.get("gitIgnore", commit.files.get(".gitignore", b"").decode()).split()
        files = []
        for file in body["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES)
            present = commit.files.get(file["path"])
            oid = None if present is None else _sha256(present) if lfs else _git_oid(present)
            dropped = any(fnmatch.fnmatch(file["path"], pattern) for pattern in ignored)
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": dropped, "oid": oid})
        return 200, {"files": files, "commitOid": commit.oid}, {}

    def _batch(self, body: dict, repo: str, repository: Repository) -> tuple:
        objects = []
        for asked in body["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}"}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/lfs/verify"}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _put(self, body: bytes, oid: str) -> tuple:
        if _sha256(body) != oid:
            raise _Answer(400, "XAmzContentSHA256Mismatch: the content is not what was announced")
        self.hub.arrived[oid] = body
        return 200, b"", {}

    def _verify(self, body: dict) -> tuple:
        content = self.hub.arrived.get(body["oid"])
        if content is None or len(content) != body["size"]:
            raise _Answer(422, "the object has not arrived, or has another size")
        self.hub.objects[body["oid"]] = content
        return 200, {}, {}

    def _commit(self, body: bytes, repo: str, repository: Repository, revision: str, commit: Commit) -> tuple:
        if revision not in repository.branches:
            raise _Answer(400, f"{revision} is not a branch")
        files, header = dict(commit.files), None
        for line in body.splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "header":
                header = value
                if value.get("parentCommit", commit.oid) != commit.oid:
                    raise _Answer(412, "A commit has happened since. Please refresh and try again.")
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                content = self.hub.objects.get(value["oid"])
                if content is None or len(content) != value["size"]:
                    raise _Answer(422, f"the LFS object of {value['path']} has not arrived")
                files[value["path"]] = content
            elif kind == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _Answer(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise _Answer(400, f"unknown operation {kind}")
        oid = repository.add(revision, files, header["summary"]).oid
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        return 200, {"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""}, {}

    def _branch(self, body: dict, repo: str, repository: Repository, branch: str) -> tuple:
        repository.branches[branch] = repository.at((body or {}).get("startingPoint") or "main").oid
        return 200, {}, {}

    def _refs(self, body: bytes, repo: str, repository: Repository) -> tuple:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in repository.branches.items()
        ]
        return 200, {"branches": branches, "tags": [], "converts": []}, {}

    def _tree(
        self, body, repo: str, repository: Repository, revision: str, commit: Commit, folder: str | None
    ) -> tuple:
        inside = f"{folder}/" if folder else ""
        names = [name for name in sorted(commit.files) if name.startswith(inside)]
        if folder and not names:
            raise _Answer(404, f"{folder} does not exist", "EntryNotFound")
        entries, folders = [], set()
        recursive = self.query.get("recursive", ["False"])[0].lower() == "true"
        for name in names:
            above = name.removeprefix(inside).split("/")[:-1]
            deepest = len(above) if recursive else min(len(above), 1)
            folders |= {inside + "/".join(above[: depth + 1]) for depth in range(deepest)}
            if recursive or not above:
                entries.append(_file_entry(name, commit.files[name]))
        entries += [{"type": "directory", "path": f, "oid": _git_oid(f.encode()), "size": 0} for f in sorted(folders)]
        return 200, entries, {}

    def _info(self, body, repo: str, repository: Repository, revision: str | None, commit: Commit) -> tuple:
        blobs = self.query.get("blobs", ["False"])[0].lower() == "true"
        siblings = []
        for name, content in sorted(commit.files.items()):
            sizes = {"size": len(content), "blobId": _git_oid(content)} if blobs else {}
            siblings.append({"rfilename": name, **sizes})
        answer = {"_id": "0", "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit.oid}
        return 200, {**answer, "private": repository.private, "siblings": siblings, "tags": []}, {}

    def _list(self, body) -> tuple:
        author = self.query.get("author", [None])[0]
        public = [repo for repo, repository in self.hub.repositories.items() if not repository.private]
        return 200, [{"id": repo, "modelId": repo} for repo in public if author in (None, repo.split("/")[0])], {}

    def _resolve(self, body, repo: str, repository: Repository, revision: str, commit: Commit, path: str) -> tuple:
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        content = commit.files.get(path)
        if content is None:
            raise _Answer(404, f"{path} does not exist", "EntryNotFound", headers)
        headers["ETag"] = f'"{_sha256(content) if path.endswith(LFS_SUFFIXES) else _git_oid(content)}"'
        headers["Content-Type"] = "application/octet-stream"
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, content, headers
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last), len(content) - 1) if first and last else len(content) - 1
        if start > end:
            raise _Answer(416, "no such range", headers={"Content-Range": f"bytes */{len(content)}"})
        return 206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}


_JSON = ("create", "validate", "preupload", "batch", "verify", "branch")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _file_entry(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "oid": _git_oid(content), "size": len(content)}
    if name.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def hub_for_this_process(monkeypatch, tmp_path):
    """A server that `huggingface_hub` reaches in the process of the test, with the token and a home of its own.

    The client and transformers have read their environment when they were imported, so what they keep of it is changed
    one by one. A process of its own, with `environment`, needs none of this: at least one test is to have one.
    """
    import huggingface_hub.constants
    import huggingface_hub.file_download
    import huggingface_hub.hf_api
    import transformers.utils.hub
    from huggingface_hub.utils import reset_sessions

    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    reset_sessions()  # those of this thread were made offline
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
        monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", False)
        monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", constants.HF_HUB_CACHE)
        yield hub
    reset_sessions()


def environment(hub: HubServer, home, base: dict[str, str]) -> dict[str, str]:
    """The environment of a process that knows no other Hub than this: addresses, token and an empty home."""
    kept = {name: value for name, value in base.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    own = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return {**kept, **own, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
