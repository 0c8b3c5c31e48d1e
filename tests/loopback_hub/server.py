"""The loopback Hub's HTTP: what the genuine client asks for, on 127.0.0.1, with large files on `localhost`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from loopback_hub.faults import Fault, Faults
from loopback_hub.store import Commit, Repository, StoredFile, is_large, tree

NAME = r"(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, list[str]]
    host: str
    token: str | None
    headers: dict[str, str]
    body: bytes = field(repr=False, default=b"")


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "", document: Any = None) -> None:
        self.status, self.code, self.message, self.document = status, code, message, document
        super().__init__(status)


@dataclass
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    offset: int = 0


class LoopbackHub:
    """The server, from `with` to its end.

    Attributes:
        endpoint: Address to hand to the client.
        faults: To inject.
        requests: Everything that was asked, in order.
        page_size: Entries of one page of a listing or a search.
        multipart_over: Large files above this many bytes are uploaded in parts of this size.
    """

    def __init__(self, page_size: int = 1000, multipart_over: int = 2**20) -> None:
        self.faults = Faults()
        self.requests: list[Request] = []
        self.page_size = page_size
        self.multipart_over = multipart_over
        self.users: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.store_endpoint = f"http://localhost:{self.port}"

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add_user(self, name: str, token: str, orgs: tuple[str, ...] = ()) -> str:
        """Somebody who may write to their own namespace and those of their organisations; returns the token."""
        self.users[token] = (name, orgs)
        return token

    def publish(
        self,
        name: str,
        files: dict[str, bytes],
        tag: str | None = None,
        *,
        private: bool = False,
        gated: bool = False,
        title: str = "Upload",
        deleted: tuple[str, ...] = (),
    ) -> str:
        """A commit as if by an author of another program; the hash of it."""
        with self.lock:
            repository = self.repositories.get(name)
            if repository is None:
                repository = Repository(name, name.split("/")[0], private, gated)
                self.repositories[name] = repository
            commit = repository.commit(files, title, deleted)
            self.large |= {file.sha256: file.content for file in commit.files.values() if file.large}
            if tag is not None:
                repository.tags[tag] = commit.oid
            return commit.oid

    def move_tag(self, name: str, tag: str, commit: str) -> None:
        """What an author should never do."""
        self.repositories[name].tags[tag] = commit

    def recreate(self, name: str, files: dict[str, bytes], tag: str | None = None) -> str:
        """Delete a repository, and let somebody else make one of the same name; the hash of its commit."""
        with self.lock:
            del self.repositories[name]
            return self.publish(name, files, tag)

    def impersonate(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        """Serve other files under the hash of a commit, as only a hostile server could."""
        with self.lock:
            held = self.repositories[name].commits[commit]
            changed = {path: StoredFile(path, content, is_large(path)) for path, content in files.items()}
            self.large |= {file.sha256: file.content for file in changed.values() if file.large}
            self.repositories[name].commits[commit] = Commit(commit, held.parent, held.title, changed)

    def count(self, method: str | None = None, path: str = "") -> int:
        """How many requests there were."""
        return sum(
            method in (None, request.method) and re.search(path, request.path) is not None
            for request in self.requests
        )

    # The endpoints. Each is called with the lock held.

    def whoami(self, request: Request) -> Any:
        if request.token not in self.users:
            raise RefusalError(401, "", "Invalid username or password.")
        name, orgs = self.users[request.token]
        return {
            "type": "user",
            "name": name,
            "orgs": [{"type": "org", "name": org} for org in orgs],
            "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
        }

    def create(self, request: Request) -> Any:
        asked = json.loads(request.body)
        user, _ = self._user(request)
        name = f"{asked.get('organization') or user}/{asked['name']}"
        self._may_write(request, name)
        document = {"url": f"{self.endpoint}/{name}", "name": name, "id": "0"}
        if name in self.repositories:
            raise RefusalError(409, "", "You already created this model repo", document)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.repositories[name] = Repository(name, user, private)
        return document

    def delete(self, request: Request) -> Any:
        asked = json.loads(request.body)
        user, _ = self._user(request)
        name = f"{asked.get('organization') or user}/{asked['name']}"
        self._may_write(request, name)
        if self.repositories.pop(name, None) is None:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return {}

    def settings(self, request: Request, name: str) -> Any:
        self._may_write(request, name)
        repository, asked = self._repository(request, name), json.loads(request.body)
        if "private" in asked or "visibility" in asked:
            repository.private = bool(asked.get("private")) or asked.get("visibility") == "private"
        if "gated" in asked:
            repository.gated = bool(asked["gated"])
        return {}

    def search(self, request: Request) -> Answer:
        asked = request.query
        found = []
        for name, repository in sorted(self.repositories.items()):
            tags = repository.found_tags()
            words = asked.get("search", [""])[0].lower()
            if (
                self._sees(request, repository)
                and set(asked.get("filter", ())) <= set(tags)
                and asked.get("author", [name.split("/")[0]])[0] == name.split("/")[0]
                and words in name.lower()
            ):
                found.append({**repository.info(repository.head), "siblings": None})
        return self._page(request, found, int(asked.get("limit", [str(self.page_size)])[0]))

    def info(self, request: Request, name: str, revision: str = "main") -> Any:
        repository = self._repository(request, name)
        return repository.info(self._commit(repository, revision))

    def tree(self, request: Request, name: str, revision: str, folder: str = "") -> Answer:
        repository = self._repository(request, name)
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = tree(self._commit(repository, revision), folder, recursive)
        if folder.strip("/") and not entries:
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist")
        return self._page(request, entries, self.page_size)

    def paths_info(self, request: Request, name: str, revision: str) -> Any:
        commit = self._commit(self._repository(request, name), revision)
        body = request.body.decode()
        form = json.loads(body) if body.startswith("{") else parse_qs(body)
        return [commit.files[path].entry() for path in form["paths"] if path in commit.files]

    def refs(self, request: Request, name: str) -> Any:
        repository = self._repository(request, name)
        return {
            "branches": [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid}
                for branch, oid in repository.branches.items()
            ],
            "converts": [],
            "tags": [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in repository.tags.items()
            ],
        }

    def commits(self, request: Request, name: str, revision: str) -> Answer:
        repository = self._repository(request, name)
        commit: Commit | None = self._commit(repository, revision)
        found = []
        while commit is not None:
            found.append(
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": "",
                    "authors": [{"user": repository.owner}],
                    "date": "2026-01-01T00:00:00.000Z",
                }
            )
            commit = repository.commits.get(commit.parent or "")
        return self._page(request, found, self.page_size)

    def tag(self, request: Request, name: str, revision: str) -> Any:
        self._may_write(request, name)
        repository, asked = self._repository(request, name), json.loads(request.body)
        commit = self._commit(repository, revision)
        if asked["tag"] in repository.tags:
            raise RefusalError(409, "", "Tag reference exists already")
        repository.tags[asked["tag"]] = commit.oid
        return {}

    def untag(self, request: Request, name: str, revision: str) -> Any:
        self._may_write(request, name)
        if self._repository(request, name).tags.pop(revision, None) is None:
            raise RefusalError(404, "RevisionNotFound", "Invalid rev id")
        return {}

    def validate_yaml(self, request: Request) -> Any:
        content = json.loads(request.body)["content"]
        try:
            front = content[4:].split("\n---", 1)[0] if content.startswith("---\n") else "{}"
            sound = isinstance(yaml.safe_load(front), dict)
        except yaml.YAMLError:
            sound = False
        return {"errors": [] if sound else [{"message": "not a mapping"}], "warnings": []}

    def preupload(self, request: Request, name: str, revision: str) -> Any:
        self._may_write(request, name)
        commit = self._commit(self._repository(request, name), revision)
        modes = []
        for file in json.loads(request.body)["files"]:
            mode = "lfs" if is_large(file["path"]) else "regular"
            held = commit.files.get(file["path"])
            known = {"oid": held.etag} if held else {}
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        return {"files": modes}

    def batch(self, request: Request, name: str) -> Any:
        self._may_write(request, name)
        self._repository(request, name)
        asked = json.loads(request.body)
        objects, transfer = [], "basic"
        for item in asked["objects"]:
            oid, size = item["oid"], item["size"]
            if oid in self.large:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{self.store_endpoint}/store/{oid}"}
            if size > self.multipart_over and "multipart" in asked["transfers"]:
                transfer = "multipart"
                count = -(-size // self.multipart_over)
                places = {
                    f"{index:05d}": f"{self.store_endpoint}/store/{oid}/{index}"
                    for index in range(1, count + 1)
                }
                upload = {
                    "href": f"{self.endpoint}/complete/{oid}",
                    "header": {"chunk_size": str(self.multipart_over), **places},
                }
            verify = {"href": f"{self.endpoint}/verify/{oid}"}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        return {"transfer": transfer, "objects": objects}

    def put(self, request: Request, oid: str) -> Any:
        self._keep(oid, request.body)
        return {}

    def put_part(self, request: Request, oid: str, index: str) -> Answer:
        self.parts[oid, int(index)] = request.body
        return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})

    def complete(self, request: Request, oid: str) -> Any:
        numbers = sorted(part["partNumber"] for part in json.loads(request.body)["parts"])
        self._keep(oid, b"".join(self.parts.pop((oid, number)) for number in numbers))
        return {}

    def verify(self, request: Request, oid: str) -> Any:
        asked = json.loads(request.body)
        if oid not in self.large or len(self.large[oid]) != asked["size"]:
            raise RefusalError(404, "", "object not found")
        return {}

    def commit(self, request: Request, name: str, revision: str) -> Any:
        self._may_write(request, name)
        repository = self._repository(request, name)
        changed: dict[str, bytes] = {}
        deleted: list[str] = []
        title, parent = "", None
        for line in request.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title, parent = value["summary"], value.get("parentCommit")
            elif item["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    raise RefusalError(400, "", "a large file was not uploaded")
                changed[value["path"]] = self.large[value["oid"]]
            elif item["key"] in ("deletedFile", "deletedFolder"):
                deleted.append(value["path"])
        if revision not in repository.branches:
            raise RefusalError(404, "RevisionNotFound", "Invalid rev id")
        if parent is not None and not repository.branches[revision].startswith(parent):
            raise RefusalError(412, "", "A commit has happened since. Please refresh and try again.")
        made = repository.commit(changed, title, tuple(deleted), revision)
        return {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{self.endpoint}/{name}/commit/{made.oid}",
            "hookOutput": "",
        }

    def resolve(self, request: Request, name: str, revision: str, path: str) -> Answer:
        repository = self._repository(request, name, content=True)
        commit = self._commit(repository, revision)
        if path not in commit.files:
            raise RefusalError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.oid})
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
        if not file.large:
            return Answer(body=file.content, headers=headers)
        place = f"{self.store_endpoint}/store/{file.sha256}?path={quote(path, safe='')}&X-Signature=secret"
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        return Answer(302, headers={**headers, **linked, "Location": place})

    def stored(self, request: Request, oid: str) -> Answer:
        if oid not in self.large:
            raise RefusalError(404, "", "no such object")
        return Answer(body=self.large[oid], headers={"ETag": f'"{oid}"'})

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusalError(400, "", "the content does not have the sha256 that was announced")
        self.large[oid] = content

    def _user(self, request: Request) -> tuple[str, tuple[str, ...]]:
        if request.token not in self.users:
            raise RefusalError(401, "", "Invalid username or password.")
        return self.users[request.token]

    def _namespaces(self, request: Request) -> tuple[str, ...]:
        name, orgs = self.users.get(request.token or "", ("", ()))
        return (name, *orgs)

    def _may_write(self, request: Request, name: str) -> None:
        self._user(request)
        if name.split("/")[0] not in self._namespaces(request):
            raise RefusalError(403, "", "You don't have the rights to write under this namespace")

    def _sees(self, request: Request, repository: Repository) -> bool:
        return not repository.private or repository.name.split("/")[0] in self._namespaces(request)

    def _repository(self, request: Request, name: str, content: bool = False) -> Repository:
        if request.token is not None and request.token not in self.users:
            raise RefusalError(401, "", "Invalid credentials in Authorization header")
        repository = self.repositories.get(name)
        if repository is None or not self._sees(request, repository):
            raise RefusalError(404 if request.token else 401, "RepoNotFound", "Repository not found")
        if content and repository.gated:
            user = self._namespaces(request)[0]
            if user not in (repository.owner, *repository.granted):
                status = 403 if user else 401
                raise RefusalError(status, "GatedRepo", f"Access to model {name} is restricted.")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _page(self, request: Request, entries: list[Any], size: int) -> Answer:
        start = int(request.query.get("cursor", ["0"])[0])
        size = min(size, self.page_size)
        answer = _document(entries[start : start + size])
        if start + size < len(entries):
            query = "&".join(
                f"{key}={quote(value)}"
                for key, values in {**request.query, "cursor": [str(start + size)]}.items()
                for value in values
            )
            answer.headers["Link"] = f'<{self.endpoint}{quote(request.path)}?{query}>; rel="next"'
        return answer


ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", r"/api/whoami-v2", LoopbackHub.whoami),
    ("POST", r"/api/repos/create", LoopbackHub.create),
    ("DELETE", r"/api/repos/delete", LoopbackHub.delete),
    ("POST", r"/api/validate-yaml", LoopbackHub.validate_yaml),
    ("GET", r"/api/models", LoopbackHub.search),
    ("PUT", rf"/api/models/{NAME}/settings", LoopbackHub.settings),
    ("GET", rf"/api/models/{NAME}", LoopbackHub.info),
    ("GET", rf"/api/models/{NAME}/revision/{REVISION}", LoopbackHub.info),
    ("GET", rf"/api/models/{NAME}/tree/{REVISION}(?:/(?P<folder>.*))?", LoopbackHub.tree),
    ("POST", rf"/api/models/{NAME}/paths-info/{REVISION}", LoopbackHub.paths_info),
    ("GET", rf"/api/models/{NAME}/refs", LoopbackHub.refs),
    ("GET", rf"/api/models/{NAME}/commits/{REVISION}", LoopbackHub.commits),
    ("POST", rf"/api/models/{NAME}/tag/{REVISION}", LoopbackHub.tag),
    ("DELETE", rf"/api/models/{NAME}/tag/{REVISION}", LoopbackHub.untag),
    ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", LoopbackHub.preupload),
    ("POST", rf"/api/models/{NAME}/commit/{REVISION}", LoopbackHub.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", LoopbackHub.batch),
    ("PUT", r"/store/(?P<oid>[0-9a-f]{64})", LoopbackHub.put),
    ("PUT", r"/store/(?P<oid>[0-9a-f]{64})/(?P<index>[0-9]+)", LoopbackHub.put_part),
    ("GET", r"/store/(?P<oid>[0-9a-f]{64})", LoopbackHub.stored),
    ("POST", r"/complete/(?P<oid>[0-9a-f]{64})", LoopbackHub.complete),
    ("POST", r"/verify/(?P<oid>[0-9a-f]{64})", LoopbackHub.verify),
    ("GET", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", LoopbackHub.resolve),
)


def _document(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub

    def __init__(self, *arguments: Any) -> None:
        self.stopping = threading.Event()
        super().__init__(*arguments)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16
    timeout = 60

    def log_message(self, format: str, *arguments: Any) -> None:
        """The tests read `requests`."""

    def handle_any(self) -> None:
        hub = self.server.hub
        request = self._head()
        faults = hub.faults.taken(self.command, self._shown(request))
        cut = next((fault.cut_upload_after for fault in faults if fault.cut_upload_after is not None), None)
        if cut is None:
            request = replace(request, body=self._body())
        with hub.lock:
            hub.requests.append(request)
        if cut is not None:
            self.rfile.read(min(cut, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            return
        for fault in faults:
            if fault.before is not None:
                fault.before()
            self.server.stopping.wait(fault.delay_s)
        failing = next((fault for fault in faults if fault.status is not None), None)
        if failing is not None and failing.status is not None:
            self._send(Answer(failing.status, b"{}", dict(failing.headers)), request, ())
            return
        try:
            with hub.lock:
                answer = self._answer(hub, request, faults)
        except RefusalError as refused:
            more = refused.document if isinstance(refused.document, dict) else {}
            answer = _document({"error": refused.message, **more}, refused.status)
            answer.headers |= {"X-Error-Message": refused.message}
            answer.headers |= {"X-Error-Code": refused.code} if refused.code else {}
        if any(fault.lose_answer for fault in faults):
            self.close_connection = True
            return
        self._send(answer, request, faults)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - as http.server names them

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _head(self) -> Request:
        parts = urlsplit(self.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        path = "/" + "/".join(part.replace("%2F", "%252F") for part in parts.path.lstrip("/").split("/"))
        return Request(
            self.command,
            unquote(path),
            parse_qs(parts.query),
            self.headers.get("Host", ""),
            token if scheme == "Bearer" else None,
            {key.lower(): value for key, value in self.headers.items()},
        )

    def _chunks(self) -> Iterable[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    @staticmethod
    def _shown(request: Request) -> str:
        """What a fault's `path` is searched in: for the store of large files, with the file's own path behind."""
        return f"{request.path}?path={request.query['path'][0]}" if "path" in request.query else request.path

    def _answer(self, hub: LoopbackHub, request: Request, faults: list[Fault]) -> Answer:
        wanted = "GET" if request.method == "HEAD" else request.method
        for method, pattern, endpoint in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if method == wanted and match:
                values = {
                    key: unquote(value) for key, value in match.groupdict().items() if value is not None
                }
                found = endpoint(hub, request, **values)
                answer = found if isinstance(found, Answer) else _document(found)
                for fault in faults:
                    if fault.edit is not None:
                        answer.body = json.dumps(fault.edit(json.loads(answer.body))).encode()
                return answer
        raise RefusalError(404, "", f"no such endpoint: {request.method} {request.path}")

    def _send(self, answer: Answer, request: Request, faults: Iterable[Fault]) -> None:
        body, cut = answer.body, None
        for fault in faults:
            if fault.replace is not None and answer.status == 200:
                body = fault.replace
            if fault.flip is not None and len(body) > fault.flip and answer.status == 200:
                body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
            cut = fault.cut_after if fault.cut_after is not None else cut
        start, status = 0, answer.status
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if ranged and status == 200:
            start, status = int(ranged[1]), 206
            answer.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start : int(ranged[2]) + 1 if ranged[2] else None]
        self.send_response(status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        if cut is not None:
            self.send_header("Connection", "close")
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(body if cut is None else body[: max(cut - start, 0)])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
