"""A hub on this machine: the few addresses that `huggingface_hub` really asks for, and what may go wrong there."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class FakeRepo:
    """One repository: files by commit, commits by branch; with a `token` it is gated."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Move a branch to a new commit with these files and return its sha."""
        sha = hashlib.sha1(repr((branch, sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class FakeHub:
    """The server; `asked` are the requests so far, `fails` a status that it answers to everything."""

    def __init__(self) -> None:
        self.repos: dict[str, FakeRepo] = {}
        self.asked: list[str] = []
        self.fails: int | None = None
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def repo(self, name: str) -> FakeRepo:
        """Return a repository, `models/org/name` or `datasets/org/name`, made when it is not there."""
        return self.repos.setdefault(name, FakeRepo())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server_hub.asked.append(f"{self.command} {path}")
        status, content, headers = self._answer_to(path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer_to(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        found = self._find(path)
        if self.server_hub.fails is not None:
            return self.server_hub.fails, b"down", {}
        if found is None:
            return 401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        repo, kind, rest = found
        if repo.token is not None and self.headers.get("Authorization") != f"Bearer {repo.token}":
            status = 403 if "Authorization" in self.headers else 401
            return status, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}
        revision, _, name = rest.partition("/")
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}
        return _answer_of(kind, sha, repo.commits[sha], name)

    def _find(self, path: str) -> tuple[FakeRepo, str, str] | None:
        """Return the repository, what is asked (revision, tree, resolve), and the rest of the path."""
        bare = path.removeprefix("api/")
        if bare == path and not path.startswith("datasets/"):
            bare = f"models/{path}"
        for name, repo in self.server_hub.repos.items():
            if bare.startswith(f"{name}/"):
                kind, _, rest = bare.removeprefix(f"{name}/").partition("/")
                return repo, kind, rest
        return None


def _answer_of(kind: str, sha: str, files: dict[str, bytes], name: str) -> tuple[int, bytes, dict[str, str]]:
    if kind == "revision":
        document = {"id": "x/y", "sha": sha, "siblings": [_sibling(*item) for item in files.items()]}
        return 200, json.dumps(document).encode(), {"Content-Type": "application/json"}
    if kind == "tree":
        entries = [{"type": "file", **_entry(*item)} for item in files.items()]
        return 200, json.dumps(entries).encode(), {"Content-Type": "application/json"}
    content = files.get(name)
    if content is None:
        return 404, b"{}", {"X-Error-Code": "EntryNotFound"}
    return 200, content, {"X-Repo-Commit": sha, "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    return {"rfilename": name, "size": len(content), "blobId": _oid(content)}


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"path": name, "size": len(content), "oid": _oid(content)}
