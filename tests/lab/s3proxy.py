"""A proxy between an S3 client and a server that makes the faults of networks, one rule at a time.

Here lives class Proxy for tests: it relays whole HTTP requests (one a connection), counts them, and follows
`fault`, a callable (method, path) -> None or a word:

    "503"        answers 503 Slow Down itself
    "reset"      cuts the connection hard when half of the request's body has come
    "lost"       lets the server do its work, then cuts the connection before the answer
    "cut"        sends half of the answer's body, then closes
    "flip"       changes a bit in the answer's body
    "mute"       relays nothing and answers nothing until the proxy is closed
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, List, Optional, Tuple
from urllib.parse import urlsplit


class Proxy:
    """Listens on a loopback port of its own, as a context manager. requests: (method, path, bytes of its body).

    tls: a PEM file with key and certificate to speak TLS with.
    """

    def __init__(self, upstream: str, tls: Optional[str] = None):
        self.upstream = urlsplit(upstream)
        self.fault: Callable[[str, str], Optional[str]] = lambda method, path: None
        self.requests: List[Tuple[str, str, int]] = []
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
        fault = owner.fault(self.command, self.path)
        if self.headers.get("Expect", "").lower() == "100-continue" and fault != "503":
            self.send_response_only(100)
            self.end_headers()
        if fault == "mute":
            owner.closing.wait(120)
            return self.hang_up()
        body = self.rfile.read(size // 2 if fault == "reset" else size)
        if fault == "reset":
            return self.hang_up()
        if fault == "503":
            self.answer(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")
            return None
        owner.requests.append((self.command, self.path, size))
        upstream = http.client.HTTPConnection(owner.upstream.hostname, owner.upstream.port, timeout=60)
        try:
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
            upstream.request(self.command, self.path, body, kept)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault == "lost":
            return self.hang_up()
        if fault == "flip" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.answer(answer.status, dict(answer.getheaders()), content, len(content) // 2 if fault == "cut" else None)
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

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
        self.wfile.write(content if most is None else content[:most])
        self.close_connection = True

    def hang_up(self) -> None:
        """RST, as when a router dies."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
