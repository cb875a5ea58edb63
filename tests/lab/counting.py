"""A proxy before an S3 server that counts as a bill does: each request, the bytes of its body, those of its answer.

`refuse` says which requests (by their number) are answered 503 without asking the server. Not here: the faults of
networks (s3proxy.py).
"""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, List, NamedTuple
from urllib.parse import parse_qs, urlsplit

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"


class Seen(NamedTuple):
    """One request. sent: bytes of its body; got: of the answer's."""

    method: str
    query: str
    sent: int
    got: int

    @property
    def kind(self) -> str:
        """As S3 bills it, told from the request alone."""
        words = set(parse_qs(self.query, keep_blank_values=True))
        lists = self.method == "GET" and words & {"list-type", "uploads", "versions", "uploadId"}
        if self.method == "DELETE":
            return "delete"
        return "write" if lists or self.method in ("PUT", "POST") else "read"


class Counting:
    """Listens on a loopback port of its own, as a context manager."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream)
        self.seen: List[Seen] = []
        self.lock = threading.Lock()
        self.number = 0
        self.refuse: Callable[[int], bool] = lambda number: False
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args):
                pass

            def relay(self):
                size = int(self.headers.get("Content-Length") or 0)
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(size)
                with proxy.lock:
                    proxy.number += 1
                    refused = proxy.refuse(proxy.number)
                if refused:
                    status, headers, content = 503, {"Content-Type": "application/xml"}, BUSY
                else:
                    status, headers, content = proxy.ask(self.command, self.path, body, self.headers)
                got = 0 if self.command == "HEAD" else len(content)
                with proxy.lock:
                    proxy.seen.append(Seen(self.command, urlsplit(self.path).query, len(body), got))
                self.send_response_only(status)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def ask(self, method, path, body, headers):
        """The server's answer."""
        kept = {name: value for name, value in headers.items() if name.lower() not in ("expect", "connection")}
        upstream = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=60)
        try:
            upstream.request(method, path, body, kept)
            told = upstream.getresponse()
            return told.status, dict(told.getheaders()), told.read()
        finally:
            upstream.close()

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc):
        self.server.shutdown()
        self.server.server_close()

    def counted(self):
        """kind or direction -> sum."""
        with self.lock:
            rows = list(self.seen)
        found = {kind: sum(row.kind == kind for row in rows) for kind in ("write", "read", "delete")}
        return {**found, "sent": sum(row.sent for row in rows), "got": sum(row.got for row in rows)}
