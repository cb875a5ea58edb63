"""A server on a small holding disk, and agents made by hand: a client's agent_config is a script of what to say."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from backupcore.catalog.store import Catalog
from backupcore.dump import driver, history, runlock, sweep
from backupcore.schedule import bases
from backupcore.settings import Client, HoldingDisk, Policy, Settings, Source

AGENT = '''
"""Speaks the agent's side of the wire as the script named by --config says."""
import hashlib, os, sys, time
from backupcore import wire
from backupcore.image import codec as codecs

out = os.fdopen(os.dup(1), "wb")
channel = wire.Channel(sys.stdin.buffer, out, "the server")
zstd, gzip = codecs.get("zstd"), codecs.get("gzip")
CODECS = {"zstd": zstd, "gzip": gzip, "none": codecs.get("none")}
OPTIONS = {"type": "tree", "path": "/data", "include": [], "exclude": [], "one_file_system": True}


def greet(**more):
    channel.expect(wire.HELLO)
    hello = {"protocol": 1, "version": "0.1.0", "python": "3.11.7", "zstd": "zstandard", "gzip": True, "root": True,
             "client": None, "schema": 1, "sources": {}}
    channel.send_json(wire.HELLO, {**hello, **more})
    return channel.expect(wire.REQUEST)[1]


def start(codec="zstd", **options):
    channel.send_json(wire.START, {"codec": codec, "begun_ns": time.time_ns(), "source": {**OPTIONS, **options}})


def frame(number, offset, data, flags=0, part=0, codec="zstd", length=None):
    head = wire.FrameHead(part, number, offset, len(data) if length is None else length, flags)
    channel.send(wire.FRAME, wire.pack_frame_head(head), CODECS[codec].compress(data))
    out.flush()


def index(count=1, codec="zstd"):
    channel.send(wire.INDEX, CODECS[codec].compress(b"".join(b"f%d\\tf\\n" % n for n in range(count))))


def done(archive_size, entries, **more):
    value = {"entries": entries, "files": entries, "bytes": archive_size, "archive_size": archive_size, "changed": 0,
             "gone": 0, "suspects": 0, "unreadable": 0, "vanished": 0, "ended_ns": time.time_ns(), "root": True,
             "not_kept": []}
    channel.send_json(wire.DONE, {**value, **more})


def state_in():
    found = []
    while True:
        kind, payload = channel.expect(wire.STATE, wire.END)
        if kind == wire.END:
            return found
        found.append(payload)


def good(data=b"x" * 1000, state=b"state", codec="zstd", entries=1, **more):
    """A whole dump after start()."""
    index(entries, codec)
    if state:
        channel.send(wire.STATE, state)
    frame(0, 0, data, wire.LAST, codec=codec)
    done(len(data), entries, **more)


exec(compile(open(sys.argv[sys.argv.index("--config") + 1]).read(), "script", "exec"))
'''
GOOD = "request = greet()\nstart()\nif request['state']: state_in()\ngood()\n"


class Server:
    """Settings, catalog and the steps of a night, for tests."""

    def __init__(self, base: Path):
        self.base = base
        self.agent = base / "agent.py"
        self.agent.write_text(AGENT)
        (base / "holding").mkdir(mode=0o700)
        self.settings = Settings(
            file=base / "stowage.yml", state=base / "state", keys=base / "keys",
            holding=(HoldingDisk(base / "holding", 1 << 30),), cycle_days=7, targets={}, policies={}, clients={},
            dumps_at_once=4, connect_timeout=30, silence_timeout=30, known_hosts=base / "known_hosts.d",
        )  # fmt: skip
        self.catalog = Catalog(base / "state" / "catalog.sqlite")
        self.events = []

    @property
    def holding(self) -> Path:
        return self.settings.holding[0].path

    def set(self, **values):
        self.settings = replace(self.settings, **values)

    def client(self, name, *sources, script=GOOD, policy=None, **values):
        """Adds a client whose agent does what script says."""
        config = self.base / f"{name}.script"
        config.write_text(textwrap.dedent(script))
        policy = policy or Policy("standard", part_size=1 << 20)
        made = {one: Source(name, one, "tree", policy, {"path": "/data"}) for one in sources or ("data",)}
        client = Client(
            name, made, transport="local", agent_python=sys.executable, agent=str(self.agent), agent_config=str(config)
        )  # fmt: skip
        self.settings = replace(self.settings, clients={**self.settings.clients, name: replace(client, **values)})
        return self.settings.clients[name]

    def say(self, name, script):
        """From now on the client's agent does this."""
        (self.base / f"{name}.script").write_text(textwrap.dedent(script))

    def night(self, level=None, **more):
        """Lock, sweep, plan, run; returns the results."""
        with runlock.hold(self.settings):
            self.swept = sweep.sweep(self.settings, self.catalog)
            sources = [(client.name, name) for client in self.settings.clients.values() for name in client.sources]
            past = history.gather(self.settings, self.catalog)
            self.planned = [bases.Planned(*one, *bases.choose(past.get(one, ()), level)) for one in sources]
            self.run = self.catalog.begin_run("run")
            return driver.run_dumps(
                self.settings, self.catalog, self.planned, run=self.run, progress=self.events.append, **more
            )  # fmt: skip

    def one(self, level=None, **more):
        """A night of one source; its result."""
        results = self.night(level, **more)
        assert len(results) == 1
        return results[0]

    def left(self):
        """Every file on the holding disk that is in no dump of the catalog."""
        whole = {row.holding for row in self.catalog.dumps()}
        return sorted(
            str(path.relative_to(self.holding))
            for path in self.holding.rglob("*")
            if path.is_file() and path.name != ".stowage" and not any(str(path).startswith(one) for one in whole)
        )


@pytest.fixture
def server(tmp_path, monkeypatch):
    from backupcore.dump import transport

    monkeypatch.setattr(transport, "LOCAL_GRACE", 0.3)
    made = Server(tmp_path)
    yield made
    made.catalog.close()
