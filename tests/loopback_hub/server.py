"""The loopback Hub itself: what it holds, on 127.0.0.1, with large files on `localhost` as a Hub has them elsewhere."""

from __future__ import annotations

import re
import threading
from types import TracebackType

from loopback_hub.endpoints import ROUTES
from loopback_hub.faults import Faults
from loopback_hub.store import Commit, Repository, StoredFile, is_large
from loopback_hub.wire import Handler, Request, Server


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
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.hub, self._server.routes = self, ROUTES
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
