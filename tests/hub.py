"""A stand-in for the Hugging Face Hub on loopback, so that tests run the real download code without a network.

It answers what `huggingface_hub` and `datasets` ask of a repository at one commit: its description, its tree, and its
files by HEAD and GET with ranges. Any other commit, branch, file or repository is a 404 in the Hub's own words.

Whoever has the token can make repositories and commits, as `huggingface_hub` does without its package for xet: small
files come within the commit, large ones before it by the protocol of git LFS.
https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
"""

import base64
import hashlib
import json
import re
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Repo:
    """One repository at its one commit `revision`; `files` maps paths to contents."""

    kind: Literal["datasets", "models"]
    name: str
    revision: str
    files: Mapping[str, bytes]

    def children(self, folder: str, is_deep: bool = False) -> list[dict[str, Any]]:
        """What lies directly in `folder` ("" for the top), or anywhere, as the Hub's tree listing tells it."""
        parents = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        folders = [{"type": "directory", "path": path, "oid": oid(path.encode()), "size": 0} for path in parents]
        files = [{"type": "file", "path": path, "oid": oid(it), "size": len(it)} for path, it in self.files.items()]
        inside = [entry for entry in folders + files if str(PurePosixPath(entry["path"]).parent) == (folder or ".")]
        return sorted(folders + files if is_deep else inside, key=lambda entry: entry["path"])


@dataclass
class Hub:
    """A running stand-in.

    Attributes:
        endpoint: for HF_ENDPOINT.
        repos: each commit of each repository, the oldest first.
        branches: (repository, branch) -> commit.
        large: SHA-256 -> content, of files that have come by LFS.
        told: what clients have said of new repositories and commits.
        requests: all so far, as (method, path).
    """

    endpoint: str
    repos: list[Repo]
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def create(self, asked: dict[str, Any]) -> int:
        """Make a repository with its first commit; return the status."""
        name = f"{asked['organization']}/{asked['name']}"
        if any(repo.name == name for repo in self.repos):
            return 409
        self.told.append(asked)
        self.add(Repo("models", name, "", {".gitattributes": b"*.safetensors filter=lfs\n"}), "main")
        return 200

    def add(self, repo: Repo, branch: str) -> str:
        """Add a commit to a branch; return its name."""
        revision = oid(f"{len(self.repos)} {sorted(repo.files)}".encode())
        self.repos.append(replace(repo, revision=revision))
        self.branches[repo.name, branch] = revision
        return revision

    def commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> str:
        """Change files as the lines of a commit say; return its name."""
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.told.append(value)
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        return self.add(replace(repo, files=files), branch)


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(
    *repos: Repo, cut: Collection[str] = (), reset: Collection[str] = (), token: str | None = None
) -> Iterator[Hub]:
    """Serve `repos` on a free port until the block ends; with a `token`, whoever has it may write.

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
            for repo in hub.repos:
                api = f"/api/{repo.kind}/{repo.name}/"
                resolve = f"/{repo.name}/resolve/" if repo.kind == "models" else f"/{repo.kind}/{repo.name}/resolve/"
                if path.startswith(api):
                    verb, revision, *rest = path.removeprefix(api).split("/", maxsplit=2)
                    return self.describe(at(repo, revision), verb, *rest)
                if path.startswith(resolve):
                    revision, file = path.removeprefix(resolve).split("/", maxsplit=1)
                    return self.send_file(at(repo, revision), file)
            return self.refuse("RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def do_PUT(self) -> None:
            name = urlsplit(self.path).path.rpartition("/")[2]
            hub.requests.append((self.command, self.path))
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if hashlib.sha256(content).hexdigest() != name:
                return self.send(400, b"", {})
            hub.large[name] = content
            return self.send(200, b"", {})

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if token is None or self.headers.get("Authorization") != f"Bearer {token}":
                return self.send(401, b"", {"X-Error-Message": "Invalid username or password."})
            asked = [json.loads(line) for line in content.splitlines() if line]
            if path == "/api/repos/create":
                name = f"{asked[0]['organization']}/{asked[0]['name']}"
                return self.send_json({"url": f"{hub.endpoint}/{name}"}, hub.create(asked[0]))
            if path == "/api/validate-yaml":
                return self.send_json({"warnings": [], "errors": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [self.place_for(each) for each in asked[0]["objects"]]
                return self.send_json({"transfer": "basic", "objects": objects})
            name, verb, branch = re.fullmatch(r"/api/models/([^/]+/[^/]+)/([^/]+)/(.+)", path).groups()
            repo = next((each for each in hub.repos if each.name == name), None)
            if repo is None:
                return self.refuse("RepoNotFound")
            if verb == "branch":
                hub.branches.setdefault((name, branch), hub.branches[name, "main"])
                return self.send_json({})
            repo = at(repo, branch)
            if verb == "preupload":
                return self.send_json({"files": [mode(file) for file in asked[0]["files"]]})
            commit = hub.commit(repo, branch, asked)
            url = f"{hub.endpoint}/{name}/commit/{commit}"
            return self.send_json({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

        def place_for(self, asked: dict[str, Any]) -> dict[str, Any]:
            """Where a large file is to be put; it is told if it is there already."""
            upload = {"upload": {"href": f"{hub.endpoint}/lfs/{asked['oid']}"}}
            return asked if asked["oid"] in hub.large else {**asked, "actions": upload}

        def describe(self, repo: Repo | None, verb: str, folder: str = "") -> None:
            if repo is None:
                self.refuse("RevisionNotFound")
            elif verb == "revision":
                siblings = [{"rfilename": path} for path in repo.files]
                self.send_json({"id": repo.name, "sha": repo.revision, "private": False, "siblings": siblings})
            elif verb == "tree":
                query = parse_qs(urlsplit(self.path).query)
                self.send_json(repo.children(folder, is_deep=query.get("recursive", [""])[0].lower() == "true"))
            else:
                self.refuse("EntryNotFound")

        def send_file(self, repo: Repo | None, path: str) -> None:
            if repo is None:
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

        def send_json(self, content: object, status: int = 200) -> None:
            self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

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

    def at(repo: Repo, revision: str) -> Repo | None:
        """The same repository at a commit, or at a branch's last one."""
        commit = hub.branches.get((repo.name, revision), revision)
        of_it = (each for each in hub.repos if (each.kind, each.name) == (repo.kind, repo.name))
        return next((each for each in of_it if each.revision == commit), None)

    def mode(file: dict[str, Any]) -> dict[str, Any]:
        way = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": way, "shouldIgnore": False}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", list(repos))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
