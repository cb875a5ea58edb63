"""An agent's end of the wire that checks nothing, and what a liar needs besides. For tests only.

Here live the line and well-formed pieces of dumps; what is said with them is hostile.py.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import struct
import sys
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from backupcore import wire  # noqa: E402
from backupcore.image import index  # noqa: E402


class Line:
    """Standard input and output as the agent's end of the wire, without any of its checks."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "wb", 0)
        self.channel = wire.Channel(sys.stdin.buffer, self.out)
        self.request: Dict[str, Any] = {}

    def raw(self, data: bytes) -> None:
        """data, whole."""
        view = memoryview(data)
        while view:
            view = view[self.out.write(view) or 0 :]

    def send(self, kind: bytes, payload: bytes) -> None:
        """A message that says how long it is."""
        self.raw(struct.pack(">cI", kind, len(payload)) + payload)

    def json(self, kind: bytes, **value: Any) -> None:
        self.send(kind, json.dumps(value).encode())

    def hello(self, **more: Any) -> None:
        """Hears what the server wants, answers as an agent would."""
        self.channel.expect(wire.HELLO)
        self.json(wire.HELLO, **{
            "protocol": 1, "version": "0.1.0", "python": "3.11.2", "zstd": None, "gzip": True, "root": True,
            "client": None, "schema": 1, "sources": {}, **more,
        })  # fmt: skip
        self.request = self.channel.expect(wire.REQUEST)[1]

    def begin(self, hello: Any = None, **more: Any) -> None:
        """Up to START; hello: more of the HELLO."""
        self.hello(**hello or {})
        self.start(**more)

    def start(self, **more: Any) -> None:
        """START, as an agent would say it."""
        source = {"type": "tree", "path": "/data", "include": [], "exclude": [], "one_file_system": True}
        self.json(wire.START, **{"codec": "gzip", "begun_ns": time.time_ns(), "source": source, **more})

    def index(self, *rows: bytes) -> None:
        self.send(wire.INDEX, gzip.compress(b"".join(rows), 1))

    def frame(self, number: int, offset: int, data: bytes, flags: int = 0, part: int = 0, length: Any = None,
              stored: Any = None, mac: bytes = b"") -> None:  # fmt: skip
        head = wire.FrameHead(part, number, offset, len(data) if length is None else length, flags)
        self.send(wire.FRAME, wire.pack_frame_head(head) + mac + (gzip.compress(data, 1) if stored is None else stored))

    def key(self, part: int) -> None:
        """The key of a part, wrapped as nobody can tell from a right one."""
        wrapped = {name: base64.b64encode(os.urandom(512)).decode() for name in self.request["recipients"]}
        self.json(wire.KEY, part=part, commitment="0" * 64, wrapped=wrapped)

    def whole(self, rows: List[bytes], archive: bytes, hello: Any = None, **done: Any) -> None:
        """A dump that is well formed on the wire; done: what is said at its end, and is not so."""
        self.begin(hello)
        self.index(*rows)
        self.frame(0, 0, archive, wire.LAST)
        self.done(len(archive), len(rows), **done)

    def done(self, size: int, entries: int, **more: Any) -> None:
        self.json(wire.DONE, **{"entries": entries, "files": entries, "bytes": size, "archive_size": size, "changed": 0,
                                "gone": 0, "suspects": 0, "unreadable": 0, "vanished": 0, "ended_ns": time.time_ns(),
                                "root": True, "not_kept": [], **more})  # fmt: skip


def rows_of(*paths: bytes, mtime: int = 1_700_000_000 * 10**9) -> List[bytes]:
    """Index rows of small files."""
    rows = [index.format_entry(b".", "d", 0o755, 0, 0, 0, mtime, mtime, 1, b"", None, 0, 512)]
    for number, path in enumerate(paths):
        rows.append(index.format_entry(path, "f", 0o644, 0, 0, 4, mtime, mtime, 2 + number, b"", bytes(32),
                                       512 + 1024 * number, 1024))  # fmt: skip
    return rows


def archive_of(*names: str) -> bytes:
    """An archive of small files of these names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
    return out.getvalue()


def bomb(size: int, byte: bytes = b"a") -> bytes:
    """gzip of one byte again and again, size of them but for a few, a newline last; made at once. The sum at its end is
    right only for small ones: nobody comes so far in others."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(byte * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count, last = size >> 20, packer.compress(b"\n") + packer.flush()
    check = 0
    for _ in range(count if size <= 1 << 28 else 0):
        check = zlib.crc32(byte * (1 << 20), check)
    tail = struct.pack("<II", zlib.crc32(b"\n", check), ((count << 20) + 1) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + piece * count + last + tail
