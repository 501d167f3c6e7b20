"""A stand-in for the Docker daemon: its HTTP API on a unix socket, as far as docker-py and the docker client ask here.

Containers really run: the command of each in a root directory of its own that holds the system's /usr and its mounts,
in its own pid namespace and under its own hostname.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import own_root

DIGEST = "sha256:" + "5" * 64
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/root"}


@dataclass
class Container:
    """One container: what it was created from, and its process once it was started."""

    id: str
    name: str
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> str:
        if self.process is None:
            return "created"
        return "exited" if self.ended.is_set() else "running"

    @property
    def exit_code(self) -> int:
        code = self.process.returncode if self.process is not None and self.process.returncode is not None else 0
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Kill everything in it."""
        if self.process is not None and not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Daemon:
    """The containers, and what was asked."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.containers: dict[str, Container] = {}
        self.made: list[Container] = []
        self.networks: list[str] = []
        self.refusal: str | None = None
        self.lock = threading.Lock()

    def create(self, name: str, config: dict[str, Any]) -> Container:
        container = Container(f"{len(self.made):064x}", name, config)
        self.containers[container.id] = container
        self.made.append(container)
        return container

    def find(self, name: str) -> Container | None:
        return next((one for one in self.containers.values() if name in (one.id, one.name)), None)

    def start(self, container: Container) -> None:
        config = container.config
        mounts = [tuple(bind.split(":")[:2]) for bind in config["HostConfig"].get("Binds") or []]
        env = {**ENV, **dict(item.split("=", 1) for item in config.get("Env") or [])}
        argv = own_root.entered(self.way, mounts, config["WorkingDir"], env, config["Cmd"])
        if self.way == "bwrap":
            argv[1:1] = ["--unshare-pid", "--unshare-uts", "--hostname", config["Hostname"]]
        else:
            line = f"hostname {shlex.quote(config['Hostname'])}; exec {shlex.join(argv)}"
            argv = ["unshare", "--uts", "--pid", "--fork", "sh", "-c", line]
        container.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        threading.Thread(target=self._watch, args=(container,), daemon=True).start()

    def _watch(self, container: Container) -> None:
        assert container.process is not None
        container.process.wait()
        container.ended.set()
        if container.config["HostConfig"].get("AutoRemove"):
            self.containers.pop(container.id, None)

    def remove(self, container: Container) -> None:
        container.kill()
        self.containers.pop(container.id, None)

    def only(self) -> Container:
        """Return the one container that there is."""
        (container,) = self.containers.values()
        return container


class Server(ThreadingMixIn, UnixStreamServer):
    """Serves a daemon on a unix socket."""

    daemon_threads = True

    def __init__(self, path: str, daemon: Daemon) -> None:
        self.daemon = daemon
        super().__init__(path, Handler)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        pass

    def _serve(self) -> None:
        daemon, parts = self.server.daemon, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {re.sub(r'^/v[0-9.]+', '', unquote(parts.path))}"
        with daemon.lock:
            answer = _answer(daemon, asked, query, json.loads(body) if body else {})
        code, document = answer
        if isinstance(document, Container):  # wait
            document.ended.wait()
            document = {"StatusCode": document.exit_code}
        self._say(code, document)

    do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - names of the base class

    def _say(self, code: int, document: object) -> None:
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Api-Version", "1.44")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


FIXED = {
    "GET /_ping": "OK",
    "HEAD /_ping": "OK",
    "GET /version": {"Version": "25.0", "ApiVersion": "1.44", "MinAPIVersion": "1.24"},
    "POST /images/create": {"status": "Pull complete"},
}


def _answer(daemon: Daemon, asked: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
    if asked in FIXED:
        return 200, FIXED[asked]
    if asked == "POST /containers/create":
        return _create(daemon, query["name"], body)
    if asked == "GET /containers/json":
        return 200, _listed(daemon, json.loads(query.get("filters", "{}")).get("label", []))
    if "/containers/" in asked:
        return _answer_about_container(daemon, asked)
    return _answer_about_network(daemon, body) if "/networks/" in asked else _answer_about_image(asked)


def _create(daemon: Daemon, name: str, config: dict[str, Any]) -> tuple[int, Any]:
    if daemon.refusal:
        return 500, {"message": daemon.refusal}
    if daemon.find(name):
        return 409, {"message": f"Conflict. The container name {name} is already in use"}
    return 201, {"Id": daemon.create(name, config).id, "Warnings": []}


def _listed(daemon: Daemon, labels: list[str]) -> list[dict[str, Any]]:
    wanted = [label.split("=", 1) for label in labels]
    fitting = [
        one for one in daemon.containers.values() if all(one.config["Labels"].get(key) == text for key, text in wanted)
    ]
    return [{"Id": one.id, "Names": [f"/{one.name}"]} for one in fitting]


def _answer_about_network(daemon: Daemon, body: dict[str, Any]) -> tuple[int, Any]:
    name = body.get("Name")
    if name in daemon.networks:
        return 409, {"message": f"network with name {name} already exists"}
    if name:
        daemon.networks.append(name)
    return 201 if name else 200, {"Id": "n1", "Name": daemon.networks[0]}


def _answer_about_image(asked: str) -> tuple[int, Any]:
    image = re.fullmatch(r"GET /images/(.+)/json", asked)
    if image is None:
        return 404, {"message": f"no such thing: {asked}"}
    name = re.sub(r"(@sha256:.*|:[^/]*)$", "", image[1])
    return 200, {"Id": DIGEST, "RepoTags": [f"{name}:3"], "RepoDigests": [f"{name}@{DIGEST}"]}


def _answer_about_container(daemon: Daemon, asked: str) -> tuple[int, Any]:
    found = re.fullmatch(r"(GET|POST|DELETE) /containers/([^/]+)(?:/(\w+))?", asked)
    container = daemon.find(found[2]) if found else None
    if found is None or container is None:
        return 404, {"message": f"no such thing: {asked}"}
    if found[1] == "DELETE":
        daemon.remove(container)
        return 204, None
    if found[3] == "start":
        daemon.start(container)
        return 204, None
    if found[3] == "wait":
        return 200, container
    state = {"Status": container.status, "ExitCode": container.exit_code}
    return 200, {"Id": container.id, "Name": f"/{container.name}", "State": state, "Config": container.config}


@contextmanager
def serving(directory: Path, way: str) -> Iterator[tuple[Daemon, str]]:
    """Serve a daemon; give it and its address, for DOCKER_HOST. What still runs at the end is killed."""
    daemon, path = Daemon(way), directory / "docker.sock"
    server = Server(str(path), daemon)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield daemon, f"unix://{path}"
    finally:
        for container in daemon.made:
            container.kill()
        server.shutdown()
        server.server_close()
