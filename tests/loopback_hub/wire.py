"""HTTP as the loopback Hub speaks it: requests in, answers out, and what goes wrong on the way."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_hub.faults import Fault

if TYPE_CHECKING:
    from loopback_hub.server import LoopbackHub


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


def document(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub
    routes: tuple[tuple[str, str, Callable[..., Any]], ...]

    def __init__(self, *arguments: Any) -> None:
        self.stopping = threading.Event()
        super().__init__(*arguments)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
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
            answer = document({"error": refused.message, **more}, refused.status)
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
        for method, pattern, endpoint in self.server.routes:
            match = re.fullmatch(pattern, request.path)
            if method == wanted and match:
                values = {
                    key: unquote(value) for key, value in match.groupdict().items() if value is not None
                }
                found = endpoint(hub, request, **values)
                answer = found if isinstance(found, Answer) else document(found)
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
            answer.headers |= fault.headers
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
