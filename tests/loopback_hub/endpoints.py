"""What the genuine client asks of a Hub. Each function is called with the lock of the Hub held."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import yaml

from loopback_hub.store import Commit, Repository, is_large
from loopback_hub.store import tree as listed
from loopback_hub.wire import Answer, RefusalError, Request, document

if TYPE_CHECKING:
    from loopback_hub.server import LoopbackHub

NAME = r"(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"


def whoami(hub: LoopbackHub, request: Request) -> Any:
    if request.token not in hub.users:
        raise RefusalError(401, "", "Invalid username or password.")
    name, orgs = hub.users[request.token]
    return {
        "type": "user",
        "name": name,
        "orgs": [{"type": "org", "name": org} for org in orgs],
        "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
    }


def create(hub: LoopbackHub, request: Request) -> Any:
    asked = json.loads(request.body)
    user, _ = _user(hub, request)
    name = f"{asked.get('organization') or user}/{asked['name']}"
    _may_write(hub, request, name)
    document = {"url": f"{hub.endpoint}/{name}", "name": name, "id": "0"}
    if name in hub.repositories:
        raise RefusalError(409, "", "You already created this model repo", document)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    hub.repositories[name] = Repository(name, user, private)
    return document


def delete(hub: LoopbackHub, request: Request) -> Any:
    asked = json.loads(request.body)
    user, _ = _user(hub, request)
    name = f"{asked.get('organization') or user}/{asked['name']}"
    _may_write(hub, request, name)
    if hub.repositories.pop(name, None) is None:
        raise RefusalError(404, "RepoNotFound", "Repository not found")
    return {}


def settings(hub: LoopbackHub, request: Request, name: str) -> Any:
    _may_write(hub, request, name)
    repository, asked = _repository(hub, request, name), json.loads(request.body)
    if "private" in asked or "visibility" in asked:
        repository.private = bool(asked.get("private")) or asked.get("visibility") == "private"
    if "gated" in asked:
        repository.gated = bool(asked["gated"])
    return {}


def search(hub: LoopbackHub, request: Request) -> Answer:
    asked = request.query
    found = []
    for name, repository in sorted(hub.repositories.items()):
        tags = repository.found_tags()
        words = asked.get("search", [""])[0].lower()
        if (
            _sees(hub, request, repository)
            and set(asked.get("filter", ())) <= set(tags)
            and asked.get("author", [name.split("/")[0]])[0] == name.split("/")[0]
            and words in name.lower()
        ):
            found.append({**repository.info(repository.head), "siblings": None})
    return _page(hub, request, found, int(asked.get("limit", [str(hub.page_size)])[0]))


def info(hub: LoopbackHub, request: Request, name: str, revision: str = "main") -> Any:
    repository = _repository(hub, request, name)
    return repository.info(_commit(hub, repository, revision))


def tree(hub: LoopbackHub, request: Request, name: str, revision: str, folder: str = "") -> Answer:
    repository = _repository(hub, request, name)
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = listed(_commit(hub, repository, revision), folder, recursive)
    if folder.strip("/") and not entries:
        raise RefusalError(404, "EntryNotFound", f"{folder} does not exist")
    return _page(hub, request, entries, hub.page_size)


def paths_info(hub: LoopbackHub, request: Request, name: str, revision: str) -> Any:
    commit = _commit(hub, _repository(hub, request, name), revision)
    body = request.body.decode()
    form = json.loads(body) if body.startswith("{") else parse_qs(body)
    return [commit.files[path].entry() for path in form["paths"] if path in commit.files]


def refs(hub: LoopbackHub, request: Request, name: str) -> Any:
    repository = _repository(hub, request, name)
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


def commits(hub: LoopbackHub, request: Request, name: str, revision: str) -> Answer:
    repository = _repository(hub, request, name)
    commit: Commit | None = _commit(hub, repository, revision)
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
    return _page(hub, request, found, hub.page_size)


def tag(hub: LoopbackHub, request: Request, name: str, revision: str) -> Any:
    _may_write(hub, request, name)
    repository, asked = _repository(hub, request, name), json.loads(request.body)
    commit = _commit(hub, repository, revision)
    if asked["tag"] in repository.tags:
        raise RefusalError(409, "", "Tag reference exists already")
    repository.tags[asked["tag"]] = commit.oid
    return {}


def untag(hub: LoopbackHub, request: Request, name: str, revision: str) -> Any:
    _may_write(hub, request, name)
    if _repository(hub, request, name).tags.pop(revision, None) is None:
        raise RefusalError(404, "RevisionNotFound", "Invalid rev id")
    return {}


def validate_yaml(hub: LoopbackHub, request: Request) -> Any:
    content = json.loads(request.body)["content"]
    try:
        front = content[4:].split("\n---", 1)[0] if content.startswith("---\n") else "{}"
        sound = isinstance(yaml.safe_load(front), dict)
    except yaml.YAMLError:
        sound = False
    return {"errors": [] if sound else [{"message": "not a mapping"}], "warnings": []}


def preupload(hub: LoopbackHub, request: Request, name: str, revision: str) -> Any:
    _may_write(hub, request, name)
    commit = _commit(hub, _repository(hub, request, name), revision)
    modes = []
    for file in json.loads(request.body)["files"]:
        mode = "lfs" if is_large(file["path"]) else "regular"
        held = commit.files.get(file["path"])
        known = {"oid": held.etag} if held else {}
        modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
    return {"files": modes}


def batch(hub: LoopbackHub, request: Request, name: str) -> Any:
    _may_write(hub, request, name)
    _repository(hub, request, name)
    asked = json.loads(request.body)
    objects, transfer = [], "basic"
    for item in asked["objects"]:
        oid, size = item["oid"], item["size"]
        if oid in hub.large:
            objects.append({"oid": oid, "size": size})
            continue
        upload: dict[str, Any] = {"href": f"{hub.store_endpoint}/store/{oid}"}
        if size > hub.multipart_over and "multipart" in asked["transfers"]:
            transfer = "multipart"
            count = -(-size // hub.multipart_over)
            places = {
                f"{index:05d}": f"{hub.store_endpoint}/store/{oid}/{index}" for index in range(1, count + 1)
            }
            upload = {
                "href": f"{hub.endpoint}/complete/{oid}",
                "header": {"chunk_size": str(hub.multipart_over), **places},
            }
        verify = {"href": f"{hub.endpoint}/verify/{oid}"}
        objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
    return {"transfer": transfer, "objects": objects}


def put(hub: LoopbackHub, request: Request, oid: str) -> Any:
    _keep(hub, oid, request.body)
    return {}


def put_part(hub: LoopbackHub, request: Request, oid: str, index: str) -> Answer:
    hub.parts[oid, int(index)] = request.body
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def complete(hub: LoopbackHub, request: Request, oid: str) -> Any:
    numbers = sorted(part["partNumber"] for part in json.loads(request.body)["parts"])
    _keep(hub, oid, b"".join(hub.parts.pop((oid, number)) for number in numbers))
    return {}


def verify(hub: LoopbackHub, request: Request, oid: str) -> Any:
    asked = json.loads(request.body)
    if oid not in hub.large or len(hub.large[oid]) != asked["size"]:
        raise RefusalError(404, "", "object not found")
    return {}


def commit(hub: LoopbackHub, request: Request, name: str, revision: str) -> Any:
    _may_write(hub, request, name)
    repository = _repository(hub, request, name)
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
            if value["oid"] not in hub.large:
                raise RefusalError(400, "", "a large file was not uploaded")
            changed[value["path"]] = hub.large[value["oid"]]
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
        "commitUrl": f"{hub.endpoint}/{name}/commit/{made.oid}",
        "hookOutput": "",
    }


def resolve(hub: LoopbackHub, request: Request, name: str, revision: str, path: str) -> Answer:
    repository = _repository(hub, request, name, content=True)
    commit = _commit(hub, repository, revision)
    if path not in commit.files:
        raise RefusalError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.oid})
    file = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
    if not file.large:
        return Answer(body=file.content, headers=headers)
    place = f"{hub.store_endpoint}/store/{file.sha256}?path={quote(path, safe='')}&X-Signature=secret"
    linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    return Answer(302, headers={**headers, **linked, "Location": place})


def stored(hub: LoopbackHub, request: Request, oid: str) -> Answer:
    if oid not in hub.large:
        raise RefusalError(404, "", "no such object")
    return Answer(body=hub.large[oid], headers={"ETag": f'"{oid}"'})


def _keep(hub: LoopbackHub, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusalError(400, "", "the content does not have the sha256 that was announced")
    hub.large[oid] = content


def _user(hub: LoopbackHub, request: Request) -> tuple[str, tuple[str, ...]]:
    if request.token not in hub.users:
        raise RefusalError(401, "", "Invalid username or password.")
    return hub.users[request.token]


def _namespaces(hub: LoopbackHub, request: Request) -> tuple[str, ...]:
    name, orgs = hub.users.get(request.token or "", ("", ()))
    return (name, *orgs)


def _may_write(hub: LoopbackHub, request: Request, name: str) -> None:
    _user(hub, request)
    if name.split("/")[0] not in _namespaces(hub, request):
        raise RefusalError(403, "", "You don't have the rights to write under this namespace")


def _sees(hub: LoopbackHub, request: Request, repository: Repository) -> bool:
    return not repository.private or repository.name.split("/")[0] in _namespaces(hub, request)


def _repository(hub: LoopbackHub, request: Request, name: str, content: bool = False) -> Repository:
    if request.token is not None and request.token not in hub.users:
        raise RefusalError(401, "", "Invalid credentials in Authorization header")
    repository = hub.repositories.get(name)
    if repository is None or not _sees(hub, request, repository):
        raise RefusalError(404 if request.token else 401, "RepoNotFound", "Repository not found")
    if content and repository.gated:
        user = _namespaces(hub, request)[0]
        if user not in (repository.owner, *repository.granted):
            status = 403 if user else 401
            raise RefusalError(status, "GatedRepo", f"Access to model {name} is restricted.")
    return repository


def _commit(hub: LoopbackHub, repository: Repository, revision: str) -> Commit:
    commit = repository.find(revision)
    if commit is None:
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def _page(hub: LoopbackHub, request: Request, entries: list[Any], size: int) -> Answer:
    start = int(request.query.get("cursor", ["0"])[0])
    size = min(size, hub.page_size)
    answer = document(entries[start : start + size])
    if start + size < len(entries):
        query = "&".join(
            f"{key}={quote(value)}"
            for key, values in {**request.query, "cursor": [str(start + size)]}.items()
            for value in values
        )
        answer.headers["Link"] = f'<{hub.endpoint}{quote(request.path)}?{query}>; rel="next"'
    return answer


ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("DELETE", r"/api/repos/delete", delete),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET", r"/api/models", search),
    ("PUT", rf"/api/models/{NAME}/settings", settings),
    ("GET", rf"/api/models/{NAME}", info),
    ("GET", rf"/api/models/{NAME}/revision/{REVISION}", info),
    ("GET", rf"/api/models/{NAME}/tree/{REVISION}(?:/(?P<folder>.*))?", tree),
    ("POST", rf"/api/models/{NAME}/paths-info/{REVISION}", paths_info),
    ("GET", rf"/api/models/{NAME}/refs", refs),
    ("GET", rf"/api/models/{NAME}/commits/{REVISION}", commits),
    ("POST", rf"/api/models/{NAME}/tag/{REVISION}", tag),
    ("DELETE", rf"/api/models/{NAME}/tag/{REVISION}", untag),
    ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", preupload),
    ("POST", rf"/api/models/{NAME}/commit/{REVISION}", commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", batch),
    ("PUT", r"/store/(?P<oid>[0-9a-f]{64})", put),
    ("PUT", r"/store/(?P<oid>[0-9a-f]{64})/(?P<index>[0-9]+)", put_part),
    ("GET", r"/store/(?P<oid>[0-9a-f]{64})", stored),
    ("POST", r"/complete/(?P<oid>[0-9a-f]{64})", complete),
    ("POST", r"/verify/(?P<oid>[0-9a-f]{64})", verify),
    ("GET", rf"/{NAME}/resolve/{REVISION}/(?P<path>.+)", resolve),
)
