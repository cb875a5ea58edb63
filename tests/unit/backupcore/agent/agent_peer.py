"""The other side of the agent for tests: starts a real one, asks for dumps, keeps what it sends, checks the order."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Optional

import agent_file

from backupcore import wire
from backupcore.agent import attempt, serve
from backupcore.agent.line import AgentChannel
from backupcore.image import codec, index, seal

CROWD = (("hands", b"NAMES = 512", b"NAMES = 1"), ("attempt", b"SMALL = 32 << 10", b"SMALL = -1"))
PLAIN = {"include": [], "exclude": [], "one_file_system": True, "before": None, "after": None}


class Peer:
    """An agent's configuration in a folder, and conversations with it. code: its byte code is there from the first."""

    def __init__(
        self, folder: Path, python: str = sys.executable, env: Optional[Dict[str, str]] = None, code: bool = True
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.python, self.env = folder, python, env
        self.pyz = folder / "agent.pyz"
        self.config = folder / "agent.json"
        self.code = code
        agent_file.put(self.pyz, code=code)
        self.sources: Dict[str, Any] = {}

    def hurry(self) -> "Peer":
        """From here on what is 0.1 s old is not young and the heart beats quickly: tests need not wait."""
        agent_file.put(self.pyz, agent_file.HURRY, code=self.code)
        return self

    def crowd(self) -> "Peer":
        """The same, and however small a tree is, there are processes beside the agent."""
        agent_file.put(self.pyz, (*agent_file.HURRY, *CROWD), code=self.code)
        return self

    def declare(self, name: str, path: Path, **options: Any) -> None:
        self.sources[name] = {"type": "tree", "options": dict(PLAIN, path=os.fsdecode(path), **options)}
        self.write({"schema": 1, "client": "web1", "sources": self.sources})

    def write(self, values: Dict[str, Any], mode: int = 0o600) -> None:
        self.config.write_text(json.dumps(values))
        self.config.chmod(mode)

    def start(self, *words: str) -> "Talk":
        return Talk([self.python, "-I", str(self.pyz), *(words or ("--config", str(self.config), "serve"))], self.env)

    def dump(self, source: str = "s", base: Optional["Got"] = None, **request: Any) -> "Got":
        talk = self.start()
        return talk.dump(source, base, **request)


class Talk:
    """One conversation."""

    def __init__(self, argv: List[str], env: Optional[Dict[str, str]] = None):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=dict(os.environ, **env) if env else None)  # fmt: skip
        self.channel = wire.Channel(self.process.stdout, self.process.stdin, "the agent")
        self.hello: Dict[str, Any] = {}

    def greet(self) -> Dict[str, Any]:
        self.channel.send_json(wire.HELLO, {"protocol": wire.PROTOCOL, "version": "0.1.0"})
        _kind, self.hello = self.channel.expect(wire.HELLO)
        return self.hello

    def ask(self, request: Dict[str, Any], meanwhile: Callable[[], object] = lambda: None) -> None:
        """meanwhile: what is done when it has begun, at once before the request."""
        self.greet()
        meanwhile()
        self.channel.send_json(wire.REQUEST, request)

    def request(self, source: str, base: Optional["Got"], **more: Any) -> Dict[str, Any]:
        level = more.pop("level", 1 if base else 0)
        return dict({"request": "dump", "source": source, "level": level, "compress": "zstd", "gzip_fallback": True,
                     "part_size": 1 << 30, "state": bool(level), "encrypt": "none"}, **more)  # fmt: skip

    def dump(
        self, source: str, base: Optional["Got"] = None, meanwhile: Callable[[], object] = lambda: None, **more: Any
    ) -> "Got":
        """Asks for a dump and takes all of it."""
        try:
            self.ask(self.request(source, base, **more), meanwhile)
            feeder = None
            if base is not None:
                feeder = threading.Thread(target=self._feed, args=(base.state,), daemon=True)
                feeder.start()
            got = self.take()
            if feeder:
                feeder.join()
            self.process.stdin.close()
            got.stderr = self.process.stderr.read().decode()
            assert self.process.wait(60) == 0, got.stderr
            assert not got.stderr
            return got
        finally:
            self.end()

    def _feed(self, payloads: List[bytes]) -> None:
        try:
            for payload in payloads:
                self.channel.send(wire.STATE, payload)
            self.channel.send(wire.END)
            self.channel.flush()
        except OSError:
            pass  # the agent said why

    def take(self) -> "Got":
        return take(self.channel)

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except OSError:
                pass
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stderr.close()


def dump_here(tree: Path, base: Optional["Got"] = None, helpers: Any = None) -> "Got":
    """A dump whose walk runs in this process. helpers: what makes processes beside it, None for what makes none."""
    fed, told, here = io.BytesIO(), io.BytesIO(), os.getcwd()
    if base is not None:
        server = wire.Channel(io.BytesIO(), fed)
        for payload in base.state:
            server.send(wire.STATE, payload)
        server.send(wire.END)
    channel = AgentChannel(io.BytesIO(fed.getvalue()), told)
    channel.send_json(wire.START, {"codec": "zstd", "begun_ns": 0, "source": {}})
    plan = serve._tree({"path": str(tree), "include": [], "exclude": [], "one_file_system": True})
    try:
        done = attempt.attempt(
            channel, plan, codec.get("zstd"), 1 << 30, base is not None, helpers or SimpleNamespace(make=lambda _: None)
        )
    finally:
        os.chdir(here)
    channel.send_json(wire.DONE, done)
    return take(wire.Channel(io.BytesIO(told.getvalue()), io.BytesIO()))


class Got:
    """What came of one dump."""

    def __init__(self, start: Dict[str, Any]):
        self.start = start
        self.codec = codec.get(start["codec"])
        self.frames: List[wire.FrameHead] = []
        self.stored: List[bytes] = []
        self.lines: List[bytes] = []
        self.state: List[bytes] = []
        self.notes: List[Dict[str, Any]] = []
        self.done: Dict[str, Any] = {}
        self.stderr = ""
        self.keys: List[Dict[str, Any]] = []  # of a dump that the agent sealed
        self.macs: List[bytes] = []

    def open(self, private: Any, prefix: str) -> None:
        """Opens what the agent sealed, each frame alone."""
        openers, places, plain = [], [], []
        for part, told in enumerate(self.keys):
            key = private.unwrap(base64.b64decode(told["wrapped"][private.recipient.fingerprint]))
            assert (told["part"], told["commitment"]) == (part, key.commitment)
            openers.append(seal.Opener(key, prefix, seal.PART, part))
            places.append(0)
        for head, mac, stored in zip(self.frames, self.macs, self.stored):
            last = bool(head.flags & wire.LAST)
            plain.append(openers[head.part].frame(head.number, places[head.part], stored, last, mac))
            places[head.part] += len(stored)
            assert len(self.codec.decompress(plain[-1], 16 << 20)) == head.length
        self.stored = plain

    def archive(self) -> bytes:
        return b"".join(self.codec.decompress(one, 16 << 20) for one in self.stored)

    def entries(self) -> List[index.Entry]:
        """The index, read strictly."""
        return list(index.read(self.lines))

    def rows(self) -> Dict[bytes, index.Entry]:
        return {entry.path: entry for entry in self.entries()}

    def kinds(self) -> Dict[str, str]:
        return {os.fsdecode(entry.path): entry.kind for entry in self.entries()}

    def unpack(self, into: Path, program: str = "tar") -> None:
        """By hand, with GNU tar."""
        image = into.parent / (into.name + ".tar")
        image.write_bytes(self.archive())
        done = subprocess.run(
            [program, "-xpG", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls",
             "--warning=no-timestamp", "-f", str(image), "-C", str(into)],
            capture_output=True, text=True, env=dict(os.environ, LC_ALL="C"),
        )  # fmt: skip
        image.unlink()
        assert done.returncode == 0 and not done.stderr, done.stderr


def take(channel: wire.Channel) -> Got:
    """All of a dump from a channel, from START to DONE."""
    _kind, start = channel.expect(wire.START)
    got = Got(start)
    number = offset = part = 0
    while True:
        kind, payload = channel.expect(
            wire.FRAME, wire.INDEX, wire.STATE, wire.NOTE, wire.PROGRESS, wire.DONE, wire.KEY
        )  # fmt: skip
        if kind == wire.KEY:
            assert payload["part"] == (part + 1 if got.frames else 0)
            got.keys.append(payload)
        elif kind == wire.FRAME:
            head, stored = wire.unpack_frame(payload)
            assert head.number == number and head.offset == offset and head.part in (part, part + 1)
            if got.keys:
                assert head.part == len(got.keys) - 1
                got.macs.append(bytes(stored[:32]))
                stored = stored[32:]
            else:
                assert len(got.codec.decompress(stored, 16 << 20)) == head.length
            number, offset, part = number + 1, offset + head.length, head.part
            got.frames.append(head)
            got.stored.append(bytes(stored))
        elif kind == wire.INDEX:
            got.lines.append(got.codec.decompress(payload, 16 << 20))
        elif kind == wire.STATE:
            got.state.append(payload)
        elif kind == wire.NOTE:
            got.notes.append(payload)
        elif kind == wire.DONE:
            got.done = payload
            return got
