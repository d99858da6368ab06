"""A stand-in for the Hugging Face Hub on loopback, so that tests run the real download code without a network.

It answers what `huggingface_hub` and `datasets` ask of a repository at one commit: its description, its tree, and its
files by HEAD and GET with ranges. Any other commit, branch, file or repository is a 404 in the Hub's own words.
"""

import hashlib
import json
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Literal
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Repo:
    """One repository at its one commit `revision`; `files` maps paths to contents."""

    kind: Literal["datasets", "models"]
    name: str
    revision: str
    files: Mapping[str, bytes]

    def children(self, folder: str) -> list[dict[str, Any]]:
        """What lies directly in `folder` ("" for the top), as the Hub's tree listing tells it."""
        parents = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        folders = [{"type": "directory", "path": path, "oid": oid(path.encode()), "size": 0} for path in parents]
        files = [{"type": "file", "path": path, "oid": oid(it), "size": len(it)} for path, it in self.files.items()]
        inside = [entry for entry in folders + files if str(PurePosixPath(entry["path"]).parent) == (folder or ".")]
        return sorted(inside, key=lambda entry: entry["path"])


@dataclass
class Hub:
    """A running stand-in: its `endpoint` (for HF_ENDPOINT) and all requests so far, as (method, path)."""

    endpoint: str
    requests: list[tuple[str, str]] = field(default_factory=list)


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(*repos: Repo, cut: Collection[str] = (), reset: Collection[str] = ()) -> Iterator[Hub]:
    """Serve `repos` on a free port until the block ends.

    The first GET of a file named in `cut` breaks off after half of the file by a closed connection, in `reset` by a
    reset one; both happen to real downloads, and clients meet them as different errors.
    """
    faults = dict.fromkeys(cut, "cut") | dict.fromkeys(reset, "reset")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Stay quiet: tests read `Hub.requests` instead."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            for repo in repos:
                api = f"/api/{repo.kind}/{repo.name}/"
                resolve = f"/{repo.name}/resolve/" if repo.kind == "models" else f"/{repo.kind}/{repo.name}/resolve/"
                if path.startswith(api):
                    verb, revision, *rest = path.removeprefix(api).split("/", maxsplit=2)
                    return self.describe(repo, verb, revision, *rest)
                if path.startswith(resolve):
                    return self.send_file(repo, *path.removeprefix(resolve).split("/", maxsplit=1))
            return self.refuse("RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def describe(self, repo: Repo, verb: str, revision: str, folder: str = "") -> None:
            if revision != repo.revision:
                self.refuse("RevisionNotFound")
            elif verb == "revision":
                siblings = [{"rfilename": path} for path in repo.files]
                self.send_json({"id": repo.name, "sha": repo.revision, "private": False, "siblings": siblings})
            elif verb == "tree":
                self.send_json(repo.children(folder))
            else:
                self.refuse("EntryNotFound")

        def send_file(self, repo: Repo, revision: str, path: str) -> None:
            if revision != repo.revision:
                return self.refuse("RevisionNotFound")
            if path not in repo.files:
                return self.refuse("EntryNotFound", {"X-Repo-Commit": repo.revision})
            content = repo.files[path]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            headers = {"ETag": f'"{oid(content)}"', "X-Repo-Commit": repo.revision, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            fault = faults.pop(path, None) if self.command == "GET" else None
            return self.send(206 if start else 200, content[start:], headers, fault)

        def send_json(self, content: object) -> None:
            self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def refuse(self, code: str, headers: Mapping[str, str] | None = None) -> None:
            self.send(404, b"", {"X-Error-Code": code, **(headers or {})})

        def send(self, status: int, content: bytes, headers: Mapping[str, str], fault: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(content[: len(content) // 2] if fault else content)
            if fault == "reset":
                # Linger for no time at all: closing then sends RST in place of FIN.
                self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = bool(fault)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
