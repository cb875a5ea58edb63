"""Somebody who is told: a small HTTP or HTTPS server on loopback that keeps what it gets and answers as it is asked to.

For tests only. It speaks over plain sockets, so that it can also do what no proper server does: be silent, drip, hang
up.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple


@dataclass
class Got:
    """One request."""

    method: str
    path: str
    headers: Dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Listener:
    """answers: for each request a status, `silent` (no answer), `drip` (a byte now and then), `close`, or (status,
    headers); the last holds for all that follow."""

    def __init__(self, answers: Sequence[Any] = (200,), tls: Tuple[Path, Path] | None = None):
        self.got: List[Got] = []
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._context = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._open: List[socket.socket] = []
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, and whatever is still said."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # else the thread that waits there would still take one
        for one in (self._socket, *self._open):
            one.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    @property
    def paths(self) -> List[str]:
        """Of all requests, in order."""
        return [one.path for one in self.got]

    def _serve(self) -> None:
        while True:
            try:
                line, _where = self._socket.accept()
            except OSError:
                return
            self._open.append(line)
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        try:
            if self._context:
                line = self._context.wrap_socket(line, server_side=True)
            with line, line.makefile("rb") as stream:
                self._one(line, stream)
        except OSError:
            pass

    def _one(self, line: socket.socket, stream: Any) -> None:
        first = stream.readline().decode("latin-1").split()
        if len(first) < 2 or not first[1].startswith("/"):
            return  # such as TLS where none is spoken
        got = Got(first[0], first[1])
        for raw in stream:
            if not raw.strip():
                break
            name, _colon, value = raw.decode("latin-1").partition(":")
            got.headers[name.strip().lower()] = value.strip()
        got.body = stream.read(int(got.headers.get("content-length", 0)))
        self.got.append(got)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer == "silent":
            self._ended.wait(60)
        elif answer == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 500:
                line.sendall(bytes([byte]))
                self._ended.wait(0.1)
        elif answer != "close":
            status, more = answer if isinstance(answer, tuple) else (answer, {})
            echo = f"you sent {got.path} {got.headers} {got.body!r}".encode()  # as careless servers do
            head = "".join(f"{key}: {value}\r\n" for key, value in {**more, "Content-Length": len(echo)}.items())
            line.sendall(f"HTTP/1.1 {status} x\r\n{head}\r\n".encode() + echo)


def certificate(folder: Path) -> Tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(made), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key
