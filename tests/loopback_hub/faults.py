"""Faults to inject into the answers of the loopback Hub."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What goes wrong with the requests that match.

    Attributes:
        path: Regular expression that is searched for in the decoded path.
        method: Of the request; None matches all.
        times: How often it happens; None for ever.
        status: Answered in place of what was asked for.
        headers: With that status, or in place of those of the answer.
        cut_after: Bytes of the file (or of the answer's body) after which the connection is closed. A request that
            resumes beyond that byte gets nothing at all.
        cut_upload_after: Bytes of the request's body that are read before the connection is closed; nothing is done.
        lose_answer: What was asked for is done, and the connection closed without a word.
        flip: Index of a byte of the file whose lowest bit is turned over.
        replace: Another content of the file; its length is announced as it is.
        delay_s: Before anything is answered.
        before: Called first, with the server unlocked: for a change in the middle of somebody's work.
        edit: The JSON document is passed through it.
    """

    path: str = ""
    method: str | None = None
    times: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    cut_upload_after: int | None = None
    lose_answer: bool = False
    flip: int | None = None
    replace: bytes | None = None
    delay_s: float = 0.0
    before: Callable[[], Any] | None = None
    edit: Callable[[Any], Any] | None = None
    happened: int = 0


class Faults:
    """The faults of a server, first come first served; one request takes every fault that matches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def answer(
        self,
        status: int,
        path: str = "",
        times: int | None = None,
        method: str | None = None,
        **headers: str,
    ) -> Fault:
        """Answer a status; a header's name is written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.add(Fault(path, method, times, status=status, headers=named))

    def cut(self, after: int, path: str = "", times: int | None = None, method: str | None = "GET") -> Fault:
        """Close the connection after so many bytes."""
        return self.add(Fault(path, method, times, cut_after=after))

    def cut_upload(
        self, after: int, path: str = "", times: int | None = None, method: str | None = None
    ) -> Fault:
        """Close the connection after so many bytes of what is sent; nothing is kept of them."""
        return self.add(Fault(path, method, times, cut_upload_after=after))

    def lose_answer(self, path: str, times: int | None = None, method: str | None = None) -> Fault:
        """Do what is asked, and close the connection."""
        return self.add(Fault(path, method, times, lose_answer=True))

    def flip(self, at: int, path: str, times: int | None = None) -> Fault:
        """Turn over one bit of the byte at an index of a file."""
        return self.add(Fault(path, "GET", times, flip=at))

    def replace(self, content: bytes, path: str, times: int | None = None) -> Fault:
        """Serve another content."""
        return self.add(Fault(path, None, times, replace=content))

    def delay(self, seconds: float, path: str = "", times: int | None = None) -> Fault:
        """Answer late."""
        return self.add(Fault(path, None, times, delay_s=seconds))

    def call(
        self, before: Callable[[], Any], path: str = "", times: int | None = 1, method: str | None = None
    ) -> Fault:
        """Do something just before a request is answered."""
        return self.add(Fault(path, method, times, before=before))

    def edit(self, edit: Callable[[Any], Any], path: str, times: int | None = None) -> Fault:
        """Change a JSON answer."""
        return self.add(Fault(path, None, times, edit=edit))

    def listing(self, entries: list[dict[str, Any]], repository: str = "") -> Fault:
        """Answer a file listing with these entries in place of what is there; see `listed`."""
        return self.edit(lambda _: entries, f"/api/models/{repository}.*/(tree|paths-info)/")

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def taken(self, method: str, path: str) -> list[Fault]:
        """The faults of one request, each counted."""
        with self._lock:
            found = [
                fault
                for fault in self._faults
                if fault.method in (None, method)
                and re.search(fault.path, path)
                and (fault.times is None or fault.happened < fault.times)
            ]
            for fault in found:
                fault.happened += 1
            return found


def listed(path: str, size: int = 1, kind: str = "file", **more: Any) -> dict[str, Any]:
    """An entry of a file listing."""
    return {"type": kind, "oid": "0" * 40, "size": size, "path": path, **more}
