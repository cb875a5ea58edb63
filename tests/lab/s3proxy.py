"""A proxy between an S3 client and a server that makes the faults of networks, one rule at a time.

Here lives class Proxy for tests: it relays whole HTTP requests (one a connection), counts them, and follows
`fault`, a callable (method, path) -> None, an Answer that it gives itself, or a word:

    "503"        answers 503 Slow Down itself
    "500"        answers 500 InternalError itself
    "gateway"    answers 502 with a page of HTML, as what stands before a server does
    "reset"      cuts the connection hard when half of the request's body has come
    "torn"       gives the server half of the body, then cuts both connections hard
    "lost"       lets the server do its work, then cuts the connection before the answer
    "cut"        sends half of the answer's body, then closes
    "flip"       changes a bit in the answer's body
    "stall"      waits `stall` seconds in the middle of the request's body, then goes on
    "doze"       waits as long in the middle of the answer's body, then goes on
    "mute"       relays nothing and answers nothing until the proxy is closed

`judge` is asked in its place when it is set: (method, path, headers) -> the same.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What the proxy says itself."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = {}


def error(status: int, code: str, message: str = "", headers: Mapping[str, str] = {}, more: str = "") -> Answer:  # noqa: B006
    """An error as S3 tells it."""
    told = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Answer(status, told.encode(), {"Content-Type": "application/xml", **headers})


ANSWERS = {
    "503": error(503, "SlowDown"),
    "500": error(500, "InternalError", "We encountered an internal error. Please try again."),
    "gateway": Answer(502, b"<html><h1>502 Bad Gateway</h1></html>", {"Content-Type": "text/html"}),
}
Fault = Union[None, str, Answer]


@dataclass
class Exchange:
    """One request. got: bytes of its body that came here; status: of the server's answer, 0 while there is none."""

    method: str
    path: str
    size: int
    got: int = 0
    status: int = 0


class Proxy:
    """Listens on a loopback port of its own, as a context manager. requests: (method, path, bytes of its body) of those
    that reached the server whole; exchanges: of all that came here, in their order.

    tls: a PEM file with key and certificate to speak TLS with.
    """

    def __init__(self, upstream: str, tls: Optional[str] = None):
        self.upstream = urlsplit(upstream)
        self.fault: Callable[[str, str], Fault] = lambda method, path: None
        self.judge: Optional[Callable[[str, str, Mapping[str, str]], Fault]] = None
        self.answered: Optional[Callable[[Exchange], None]] = None  # called when the server has done a request
        self.stall = 30.0
        self.requests: List[Tuple[str, str, int]] = []
        self.exchanges: List[Exchange] = []
        self.faults: Dict[str, int] = {}  # how often each was made
        self.closing = threading.Event()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def count(self, method: str, word: str = "") -> int:
        """Requests of method with word in their path."""
        return sum(1 for found, path, _size in self.requests if found == method and word in path)

    def chosen(self, method: str, path: str, headers: Mapping[str, str]) -> Fault:
        """The fault of a request."""
        fault = self.judge(method, path, headers) if self.judge else self.fault(method, path)
        if fault:
            word = fault if isinstance(fault, str) else str(fault.status)
            self.faults[word] = self.faults.get(word, 0) + 1
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, *_args: object) -> None:
        pass

    def relay(self) -> None:
        """One request, with the fault it was given; a client that hangs up is no error of ours."""
        try:
            self.relay_one()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    def relay_one(self) -> None:
        owner, size = self.owner, int(self.headers.get("Content-Length") or 0)
        fault = owner.chosen(self.command, self.path, self.headers)
        exchange = Exchange(self.command, self.path, size)
        owner.exchanges.append(exchange)
        answer = ANSWERS.get(fault) if isinstance(fault, str) else fault
        if self.headers.get("Expect", "").lower() == "100-continue" and answer is None:
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        if fault == "mute":
            owner.closing.wait(120)
            return self.hang_up()
        if answer is not None:
            # a server that refuses need not read what it refuses; whoever sent it may have begun to
            self.answer(answer.status, dict(answer.headers), answer.content)
            if not self.headers.get("Expect"):
                self.taken(exchange, size)
            return None
        if fault in ("reset", "torn"):
            body = self.taken(exchange, size // 2)
            if fault == "torn":
                self.tear(body)
            return self.hang_up()
        body = self.taken(exchange, size // 2 if fault == "stall" else size)
        if fault == "stall":
            owner.closing.wait(owner.stall)
            body += self.taken(exchange, size - len(body))
        if len(body) < size:  # the client is gone
            self.close_connection = True
            return None
        owner.requests.append((self.command, self.path, size))
        upstream = http.client.HTTPConnection(owner.upstream.hostname, owner.upstream.port, timeout=60)
        try:
            upstream.request(self.command, self.path, body, self.kept())
            told = upstream.getresponse()
            content = told.read()
        finally:
            upstream.close()
        exchange.status = told.status
        if owner.answered:
            owner.answered(exchange)
        if fault == "lost":
            return self.hang_up()
        if fault == "flip" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        most = len(content) // 2 if fault in ("cut", "doze") else None
        self.answer(told.status, dict(told.getheaders()), content, most)
        if fault == "doze":
            self.wfile.flush()
            owner.closing.wait(owner.stall)
            self.wfile.write(content[most:])
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

    def kept(self) -> dict:
        """The headers that go on to the server."""
        return {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}

    def taken(self, exchange: Exchange, size: int) -> bytes:
        """So much of the body, less when the client goes away."""
        body = bytearray()
        while len(body) < size and (piece := self.rfile.read1(min(size - len(body), 1 << 18))):
            body += piece
            exchange.got += len(piece)
        return bytes(body)

    def tear(self, body: bytes) -> None:
        """Half a request for the server, and then nothing."""
        line = socket.create_connection((self.owner.upstream.hostname, self.owner.upstream.port), 10)
        with line:
            lines = [f"{name}: {value}" for name, value in self.kept().items()]
            line.sendall("\r\n".join([f"{self.command} {self.path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def answer(self, status: int, headers: dict, content: bytes, most: Optional[int] = None) -> None:
        """An answer whose length is told right, also when only `most` bytes of it are sent."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if most is None else content[:most])
        self.close_connection = True

    def hang_up(self) -> None:
        """RST, as when a router dies."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
