"""A threaded HTTP/1.1 server on loopback that records requests, misbehaves on demand and stops at once."""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeVar

from .faults import (
    Fault,
    IgnoreRange,
    Redirect,
    Reset,
    Stall,
    Status,
    Truncate,
    When,
    WrongBytes,
    WrongLength,
)

CHUNK = 65536  # bytes
INVERTED = bytes(range(255, -1, -1))
Self = TypeVar("Self", bound="Server")


@dataclass
class Request:
    """One request; the counters grow while it is served."""

    method: str
    path: str  # as sent, with the query
    headers: dict[str, str]  # names in lower case
    fault: Fault | None = None
    status: int | None = None  # None until the answer starts
    received: int = 0  # bytes of body
    sent: int = 0  # bytes of body handed to the socket
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Response:
    """An answer without faults; with an etag (no quotes), ranges of it are served too."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None


class Server(ThreadingHTTPServer):
    """The part that all servers share; subclasses define `respond`. A context manager: leaving it stops all.

    host: the name in its urls; it always listens on 127.0.0.1.
    faults: a queue; a request takes the first fault that fits it. One without `When` fits any GET.
    always: a fault for every request that fits it and found none in the queue.
    bytes_per_second: of each body in either direction, None for no limit.
    stalled: is set as soon as a `Stall` begins.
    """

    daemon_threads = False  # the threads are joined when the server closes
    request_queue_size = 128

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[Fault | When] = []
        self.always: Fault | When | None = None
        self.bytes_per_second: float | None = None
        self.stalled = threading.Event()
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards all that follows
        self._requests: list[Request] = []
        self._open: set[socket.socket] = set()
        self._resets: set[socket.socket] = set()
        self._errors: list[BaseException] = []
        self._thread: threading.Thread | None = None

    def respond(self, request: Request) -> Response:
        """The right answer; called from many threads."""
        raise NotImplementedError

    def url(self, path: str = "") -> str:
        return f"http://{self.host}:{self.server_port}/{path.lstrip('/')}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self._changed:
            return list(self._requests)

    def wait(self, condition: Callable[[list[Request]], bool], timeout: float = 10.0) -> None:
        """Until the requests fulfil a condition, such as bytes sent; TimeoutError after some seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(list(self._requests)), timeout):
                raise TimeoutError(f"after {timeout} s these do not fulfil the condition: {self._requests}")

    def __enter__(self: Self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._errors:
            raise self._errors[0]

    def close(self) -> None:
        """Stop, in the midst of answers too; a second call does nothing."""
        if self._thread is None:
            return
        self._closing.set()
        self.shutdown()
        with self._changed:
            for connection in self._open:
                _shut(connection)
        self.server_close()
        self._thread.join()
        self._thread = None

    # What the handler needs.

    def admit(self, request: Request) -> None:
        """Record a request and give it its fault."""
        with self._changed:
            self._requests.append(request)
            for i, fault in enumerate(self.faults):
                if _fits(fault, request):
                    del self.faults[i]
                    request.fault = _plain(fault)
                    return
            if self.always is not None and _fits(self.always, request):
                request.fault = _plain(self.always)

    def count(self, request: Request, **counters: int) -> None:
        with self._changed:
            for name, n in counters.items():
                setattr(request, name, getattr(request, name) + n)
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait; if the server closes meanwhile, the request ends here."""
        if self._closing.wait(seconds):
            raise ConnectionAbortedError

    def reset(self, connection: socket.socket) -> None:
        """Let a connection end with RST."""
        with self._changed:
            self._resets.add(connection)

    # What the standard library calls.

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask DNS for a name that nobody needs
        self.server_name, self.server_port = self.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._open.discard(request)
            reset = request in self._resets
            self._resets.discard(request)
        if reset:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_request(request)  # with no shutdown before it, which would send FIN
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):  # a client that went away is no error
            with self._changed:
                self._errors.append(error)


def _fits(fault: Fault | When, request: Request) -> bool:
    if isinstance(fault, When):
        return fault.matches(request.method, request.path)
    return request.method == "GET"


def _plain(fault: Fault | When) -> Fault:
    return fault.fault if isinstance(fault, When) else fault


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was faster


def _range(header: str, total: int) -> tuple[int, int] | None:
    """The first byte and the one after the last, in no order if unsatisfiable; None if not one range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, total - int(last)), total
    return int(first), min(total, int(last) + 1) if last else total


class _Handler(BaseHTTPRequestHandler):
    """Receive, let the server respond, send; each with its faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are separate writes: 40 ms each otherwise
    server: Server

    def serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        self.server.admit(request)
        fault = request.fault
        if not self._receive(request):
            return
        if isinstance(fault, Status):
            response = Response(fault.code, fault.body, fault.headers)
        elif isinstance(fault, Redirect):
            response = Response(fault.code, headers={"Location": fault.to})
        else:
            response = self.server.respond(request)
        self._send(request, response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _receive(self, request: Request) -> bool:
        """Read the body; whether the request is to be answered."""
        fault, body, stalled = request.fault, bytearray(), False
        for chunk in self._chunks():
            body += chunk
            self.server.count(request, received=len(chunk))
            self._pace(len(chunk))
            if isinstance(fault, Reset) and len(body) >= fault.after:
                self._reset()
                return False
            if isinstance(fault, Stall) and not stalled and len(body) >= (fault.after or 0):
                stalled = True
                self._stall(fault)
        request.body = bytes(body)
        return True

    def _chunks(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield from self._read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        else:
            yield from self._read(int(self.headers.get("Content-Length") or 0))

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.rfile.read(min(size, self._step))
            if not chunk:
                raise ConnectionError("the client went away")
            size -= len(chunk)
            yield chunk

    def _send(self, request: Request, response: Response) -> None:
        fault = request.fault
        if isinstance(fault, Stall) and fault.after is None and not request.received:
            self._stall(fault)
        status, body, headers = self._ranged(request, response)
        if isinstance(fault, WrongBytes):
            body = body.translate(INVERTED)
        request.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        wrong = fault.by if isinstance(fault, WrongLength) else 0
        self.send_header("Content-Length", str(max(0, len(body) + wrong)))
        self.end_headers()
        if request.method == "HEAD":
            return
        if isinstance(fault, Truncate | Reset):
            self._write(request, body[: fault.after])
            self.close_connection = True
            if isinstance(fault, Reset):
                self._reset()
        elif isinstance(fault, Stall) and fault.after is not None and not request.received:
            self._write(request, body[: fault.after])
            self._stall(fault)
            self._write(request, body[fault.after :])
        else:
            self._write(request, body)
            self.close_connection = self.close_connection or bool(wrong)

    def _ranged(self, request: Request, response: Response) -> tuple[int, bytes, dict[str, str]]:
        status, body, headers = response.status, response.body, dict(response.headers)
        if response.etag is None:
            return status, body, headers
        etag = f'"{response.etag}"'
        headers |= {"ETag": etag, "Accept-Ranges": "bytes"}
        wanted = request.headers.get("range")
        if wanted is None or request.method != "GET" or isinstance(request.fault, IgnoreRange):
            return status, body, headers
        if request.headers.get("if-range", etag) != etag:
            return status, body, headers
        part = _range(wanted, len(body))
        if part is None:
            return status, body, headers
        start, stop = part
        if start >= stop:
            return 416, b"", headers | {"Content-Range": f"bytes */{len(body)}"}
        return 206, body[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}

    def _write(self, request: Request, body: bytes) -> None:
        for start in range(0, len(body), self._step):
            chunk = body[start : start + self._step]
            self._pace(len(chunk))
            self.server.count(request, sent=len(chunk))  # before the client can have it, and look
            try:
                self.wfile.write(chunk)
            except OSError:
                self.server.count(request, sent=-len(chunk))
                raise

    @property
    def _step(self) -> int:
        """Bytes written or read at once: a twentieth of a second at a limited speed."""
        limit = self.server.bytes_per_second
        return CHUNK if limit is None else min(CHUNK, max(1, int(limit / 20)))

    def _pace(self, size: int) -> None:
        if self.server.bytes_per_second is not None:
            self.server.pause(size / self.server.bytes_per_second)

    def _stall(self, fault: Stall) -> None:
        self.server.stalled.set()
        self.server.pause(fault.seconds)

    def _reset(self) -> None:
        self.close_connection = True
        self.server.reset(self.connection)
