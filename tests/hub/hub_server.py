# SPDX-License-Identifier: Apache-2.0
"""A small Hub on localhost: what huggingface_hub asks of one to make a repository, push to it and load from it, with faults."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "Test" * 8
"""Of the user `me`."""
DROP = 0
"""As a fault's status: the connection is closed without an answer."""

_LARGE = (".safetensors", ".bin", ".pt", ".pth", ".model")


@dataclass
class Repository:
    """Files by branch; `commits` are the messages, oldest first."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b"*.bin lfs\n"}})
    commits: list[str] = field(default_factory=list)

    def sha(self, branch: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.branches[branch].items())
        return hashlib.sha1(json.dumps([branch, len(self.commits), content]).encode()).hexdigest()

    def branch_of(self, revision: str) -> str | None:
        """A branch by its name or by its last commit."""
        return next((name for name in self.branches if revision in (name, self.sha(name))), None)


@dataclass
class Fault:
    """The next `times` requests of a method whose path holds `path`, after `after` of them, are answered with a status."""

    method: str
    path: str
    status: int
    times: int = 1
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""


class Hub:
    """What the server holds and has seen."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.tokens = {TOKEN: {"me"}}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        self.lock = threading.RLock()

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        return {name: data for name, data in self.repositories[repo_id].branches[branch].items() if name[0] != "."}

    def uploads(self) -> list[str]:
        """Digests of the large files that were sent, as often as they were."""
        return [path.rpartition("/")[2] for method, path in self.asked if method == "PUT"]

    def fault_of(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times > 0:
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "", details: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.details = status, message, code, details or {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        with self.hub.lock:
            self.hub.asked.append((self.command, path))
            fault = self.hub.fault_of(self.command, path)
            if fault is not None and fault.status == DROP:
                self.close_connection = True
                self.connection.close()
                return
            try:
                if fault is not None:
                    raise Refusal(fault.status, fault.message or "as the test wants")
                content, headers = self._route(path, body)
                status = 200
            except Refusal as refusal:
                status, content = refusal.status, json.dumps({"error": refusal.message, **refusal.details}).encode()
                headers = {
                    "X-Error-Message": refusal.message,
                    **({"X-Error-Code": refusal.code} if refusal.code else {}),
                }
                headers |= fault.headers if fault is not None else {}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _route(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        for method, pattern, call in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match is not None and self.command in method.split():
                found = call(self, *match.groups(), *([body] if method in ("POST", "PUT") else []))
                return found if isinstance(found, tuple) else (json.dumps(found).encode(), {})
        raise Refusal(404, f"this Hub knows no {self.command} {path}")

    # Who asks, and for what.

    def _owners(self) -> set[str] | None:
        """Names that the token may write to, None of one that is not known; of no token, nothing."""
        given = self.headers.get("Authorization", "")
        return self.hub.tokens.get(given.removeprefix("Bearer ")) if given else set()

    def _require_writer(self, repo_id: str) -> None:
        owners = self._owners()
        if not owners:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if repo_id.partition("/")[0] not in owners:
            raise Refusal(403, "you do not have the rights to write there")

    def _repository(self, repo_id: str) -> Repository:
        found = self.hub.repositories.get(repo_id)
        if found is None or (found.private and repo_id.partition("/")[0] not in (self._owners() or ())):
            raise Refusal(404 if self._owners() else 401, "Repository not found", "RepoNotFound")
        return found

    def _branch(self, repo_id: str, revision: str) -> tuple[Repository, str]:
        repository = self._repository(repo_id)
        branch = repository.branch_of(revision)
        if branch is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, branch

    # Answers.

    def who(self) -> Any:
        if not self._owners():
            raise Refusal(401, "Invalid credentials in Authorization header")
        return {"type": "user", "name": "me", "orgs": []}

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        self._require_writer(repo_id)
        url = {"url": f"{self.hub.endpoint}/{repo_id}"}
        if repo_id in self.hub.repositories:
            raise Refusal(409, "You already created this model repo", details=url)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[repo_id] = Repository(private)
        return url

    def info(self, repo_id: str, revision: str | None) -> Any:
        repository, branch = self._branch(repo_id, revision or "main")
        siblings = [{"rfilename": path} for path in repository.branches[branch]]
        return {"id": repo_id, "sha": repository.sha(branch), "private": repository.private, "siblings": siblings}

    def tree(self, repo_id: str, revision: str, folder: str | None) -> Any:
        repository, branch = self._branch(repo_id, revision)
        found = {path: data for path, data in repository.branches[branch].items() if path.startswith(folder or "")}
        if folder and not found:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        return [
            {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)} for path, data in found.items()
        ]

    def branch(self, repo_id: str, name: str, body: bytes) -> Any:
        self._require_writer(repo_id)
        repository = self._repository(repo_id)
        if name in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[name] = dict(repository.branches["main"])
        return {}

    def validate(self, body: bytes) -> Any:
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], flags=re.S)
        head = yaml.safe_load(match[1]) if match else None
        texts = ("library_name", "pipeline_tag", "base_model", "base_model_relation")
        if not isinstance(head, dict) or not all(isinstance(head.get(name, ""), str) for name in texts):
            raise Refusal(400, "no metadata, or other than texts in it")
        return {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str, body: bytes) -> Any:
        repository, branch = self._branch(repo_id, revision)
        found = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(_LARGE)
            data = repository.branches[branch].get(file["path"])
            oid = None if data is None else hashlib.sha256(data).hexdigest() if large else _git_oid(data)
            mode = "lfs" if large else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": found}

    def batch(self, repo_id: str, body: bytes) -> Any:
        asked = json.loads(body)
        if "ref" in asked:  # of a pull request there is none, and whoever may read may open one
            self._require_writer(repo_id)
        objects = []
        for one in asked["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/objects/{one['oid']}", "header": {}}}
            held = one["oid"] in self.hub.objects
            objects.append({"oid": one["oid"], "size": one["size"], **({} if held else {"actions": actions})})
        return {"transfer": "basic", "objects": objects}

    def upload(self, oid: str, body: bytes) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not that of its digest")
        self.hub.objects[oid] = body
        return {}

    def commit(self, repo_id: str, revision: str, body: bytes) -> Any:
        pull = "create_pr=1" in self.path
        if not pull:
            self._require_writer(repo_id)
        repository, branch = self._branch(repo_id, revision)
        files = dict(repository.branches[branch])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository.commits.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile" and value["oid"] in self.hub.objects:
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] in ("deletedFile", "deletedFolder"):
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
            else:
                raise Refusal(400, f"cannot commit {value}")
        if pull:
            branch = f"refs/pr/{len(repository.branches)}"
        repository.branches[branch] = files
        sha, url = repository.sha(branch), f"{self.hub.endpoint}/{repo_id}"
        found = {"commitOid": sha, "commitUrl": f"{url}/commit/{sha}"}
        return found | ({"pullRequestUrl": f"{url}/discussions/{branch.rpartition('/')[2]}"} if pull else {})

    def resolve(self, repo_id: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        repository, branch = self._branch(repo_id, revision)
        data = repository.branches[branch].get(path)
        if data is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        etag = hashlib.sha256(data).hexdigest() if path.endswith(_LARGE) else _git_oid(data)
        return data, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.sha(branch)}


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/whoami-v2", _Handler.who),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_ID}(?:/revision/(.+))?", _Handler.info),
    ("GET", rf"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    ("POST", rf"/api/models/{_ID}/branch/(.+)", _Handler.branch),
    ("POST", rf"/api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_ID}/commit/(.+)", _Handler.commit),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/objects/([0-9a-f]{64})", _Handler.upload),
    ("GET HEAD", rf"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def ask_here(hub: Hub, monkeypatch: Any, token: str | None = TOKEN) -> None:
    """Lets the clients of this process, which read where the Hub is when they are imported, ask this one without waiting."""
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr(
        "transformers.utils.hub._hf_api", None, raising=False
    )  # made once, with the address of its time
    # Of each request that fails, five more are made, after a second and more.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Runs an empty Hub on a free port of localhost until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
