"""Agents that lie: what may be said after a login that went well, from noise to a dump that is not so. For tests only.

    python -I tests/lab/hostile.py KIND       behind a forced command, in the place of agent.pyz

Each has beside it the codes of errors by which its dump may fail, none when it may be made: what it lies about only
harms itself then. What answers in the place of sshd is spoiled.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Set, Tuple

sys.path[:0] = [str(Path(__file__).parent)]

from liar import Line, archive_of, bomb, rows_of  # noqa: E402

from backupcore import wire  # noqa: E402
from backupcore.image import index  # noqa: E402

YEAR_2099 = 4_070_908_800 * 10**9
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\nOK   all is well"
WIRE, UNREACHABLE, ANY = {"wire"}, {"client-unreachable"}, {"wire", "client-unreachable"}

# What an agent may say. Each is given a Line.


def garbage(line: Line) -> None:
    """Random bytes without end."""
    while True:
        line.raw(os.urandom(1 << 16))


def banner(line: Line) -> None:
    """A greeting of a login shell, as one was set up before there was an agent, with what terminals obey."""
    line.raw(b"\x1b[2JWelcome to the machine\x07\n" * 3)
    time.sleep(3600)


def silence(line: Line) -> None:
    """Nothing."""
    time.sleep(3600)


def silence_after_start(line: Line) -> None:
    line.begin()
    time.sleep(3600)


def hello_for_ever(line: Line) -> None:
    line.hello()
    while True:
        line.json(wire.HELLO, protocol=1, version="0.1.0", client=None, sources={}, more="x" * 100_000)


def hello_of_4_gib(line: Line) -> None:
    line.raw(wire.HELLO + b"\xff\xff\xff\xff")
    garbage(line)


def hello_deep(line: Line) -> None:
    line.send(wire.HELLO, b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}")
    time.sleep(3600)


def hello_of_many(line: Line) -> None:
    """4 MiB that would be 100 MiB of lists."""
    line.send(wire.HELLO, b'{"protocol":1,"version":"0.1.0","sources":{},"a":[' + b"[]," * 1_390_000 + b"[]]}")
    line.json(wire.ERROR, code="failed", message="it took that")
    time.sleep(3600)


def hello_of_long_numbers(line: Line) -> None:
    line.send(wire.HELLO, b'{"protocol":1,"version":"0.1.0","sources":{},"a":' + b"9" * 4_000_000 + b"}")
    time.sleep(3600)


def drip(line: Line) -> None:
    """A byte now and then: never silent, never through."""
    line.raw(struct.pack(">cI", wire.HELLO, 1 << 20))
    while True:
        line.raw(b" ")
        time.sleep(0.2)


def drip_of_a_frame(line: Line) -> None:
    line.begin()
    line.raw(struct.pack(">cI", wire.FRAME, 1 << 20) + wire.pack_frame_head(wire.FrameHead(0, 0, 0, 1 << 20, 0)))
    while True:
        line.raw(b"\0")
        time.sleep(0.2)


def heartbeat(line: Line) -> None:
    """At work for ever, as it says."""
    line.begin()
    count = 0
    while True:
        count += 1000
        line.json(wire.PROGRESS, entries=count, bytes=count)
        time.sleep(0.2)


def start_of_3_mib(line: Line) -> None:
    line.begin(source={"type": "tree", "path": "/data", "include": ["x" * 3_000_000], "exclude": []})
    time.sleep(3600)


def codec_unknown(line: Line) -> None:
    line.begin(codec="\x1b[31mlzma")
    time.sleep(3600)


def index_row_of_10_gib(line: Line) -> None:
    line.begin()
    line.send(wire.INDEX, bomb(10 << 30))
    line.frame(0, 0, b"x" * 512, wire.LAST)
    line.done(512, 1)


def index_row_of_200_mib(line: Line) -> None:
    """One that no limit of a message refuses."""
    line.begin()
    line.send(wire.INDEX, bomb(200 << 20))
    line.frame(0, 0, b"x" * 512, wire.LAST)
    line.done(512, 1)


def index_of_empty_lines(line: Line) -> None:
    line.begin()
    line.send(wire.INDEX, bomb(100 << 20, b"\n"))
    line.frame(0, 0, b"x" * 512, wire.LAST)
    line.done(512, (100 << 20) + 1)


def clock_of_2099(line: Line) -> None:
    archive = archive_of("./a")
    line.begin(begun_ns=YEAR_2099)
    line.index(*rows_of(b"a", mtime=YEAR_2099))
    line.frame(0, 0, archive, wire.LAST)
    line.done(len(archive), 2, ended_ns=YEAR_2099)


def climb(line: Line) -> None:
    """Names that climb, in index and archive."""
    evil = [b"../../../../../../tmp/owned", b"/etc/owned", b"a/../../owned", b"nul\0owned"]
    rows = [b"\t".join([path, *rows_of(b"x")[1].split(b"\t")[1:]]) for path in evil]
    line.whole([rows_of()[0], *rows], archive_of(*(path.decode().rstrip("\0") for path in evil)))


def frames_for_ever(line: Line) -> None:
    """A dump that has no end; it compresses to almost nothing."""
    line.begin()
    line.index(*rows_of(b"big"))
    packed, number = gzip.compress(bytes(4 << 20), 1), 0
    while True:
        line.frame(number, number << 22, b"", wire.CONTINUES if number else 0, length=4 << 20, stored=packed)
        number += 1


def bytes_for_ever(line: Line) -> None:
    """A dump that has no end, and takes the room it says it takes."""
    line.begin()
    line.index(*rows_of(b"big"))
    number = 0
    while True:
        data = os.urandom(1 << 20)
        line.frame(number, number << 20, data, wire.CONTINUES if number else 0, stored=gzip.compress(data, 0))
        number += 1


def states_for_ever(line: Line) -> None:
    line.begin()
    data = os.urandom(1 << 20)
    while True:
        line.send(wire.STATE, data)


def notes_for_ever(line: Line) -> None:
    line.begin()
    while True:
        line.json(wire.NOTE, level="warning", path="x" * 2000, message=ESCAPES * 10)


def notes_of_escapes(line: Line) -> None:
    """A dump that is whole; whoever reads what was said of it must not have his terminal obey."""
    line.begin({"version": ESCAPES, "python": ESCAPES})
    line.index(*rows_of(b"a"))
    for level in ("warning", "info", ESCAPES):
        line.json(wire.NOTE, level=level, path=ESCAPES, message=ESCAPES)
    line.frame(0, 0, archive_of("./a"), wire.LAST)
    line.done(len(archive_of("./a")), 2, not_kept=[ESCAPES, {"a": ESCAPES}], root=False)


def error_of_escapes(line: Line) -> None:
    line.begin()
    line.json(wire.ERROR, code="bug\x1b", message=ESCAPES * 1000, hint=ESCAPES)


def error_that_asks_again(line: Line) -> None:
    """Says of itself what a client that cannot be reached is told as: it would be tried again all night."""
    line.hello()
    line.json(wire.ERROR, code="client-unreachable", message="later", hint="")


def sizes_too_large(line: Line) -> None:
    line.whole(rows_of(b"a"), archive_of("./a"), archive_size=1 << 60)


def sizes_negative(line: Line) -> None:
    line.whole(rows_of(b"a"), archive_of("./a"), files=-5)


def sizes_no_numbers(line: Line) -> None:
    line.whole(rows_of(b"a"), archive_of("./a"), files="2", bytes=1e308)


def frame_longer_than_it_says(line: Line) -> None:
    """What a frame unpacks to is found out by who reads it, and told as that."""
    line.begin()
    line.index(*rows_of(b"a"))
    archive = archive_of("./a")
    line.frame(0, 0, b"", wire.LAST, length=len(archive), stored=bomb(1 << 30))
    line.done(len(archive), 2)


def frame_out_of_place(line: Line) -> None:
    line.begin()
    line.frame(0, 2**64 - 1, b"x" * 512, wire.LAST)
    time.sleep(3600)


def frame_of_another_part(line: Line) -> None:
    line.begin()
    line.frame(0, 0, b"x" * 512)
    line.frame(1, 512, b"x" * 512, part=65535)
    time.sleep(3600)


def key_of_another_part(line: Line) -> None:
    """A key where nothing is sealed."""
    line.begin()
    line.json(wire.KEY, part=7, commitment="0" * 64, wrapped={"0" * 64: "AAAA"})
    time.sleep(3600)


def sizes_of_files(line: Line) -> None:
    """Files larger than all disks of the world, each with the right digest of what is there."""
    digest = hashlib.sha256(b"evil").digest()
    rows = [index.format_entry(b"big%d" % number, "f", 0o644, 0, 0, size, 10**18, 10**18, 2 + number, b"", digest,
                               1024 * number, 1024)
            for number, size in enumerate((1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 10**20 - 1))]  # fmt: skip
    line.whole([rows_of()[0], *rows], archive_of(*(f"./big{number}" for number in range(5))))


def places_of_files(line: Line) -> None:
    """Files that lie where no archive is, and all over each other."""
    digest = hashlib.sha256(b"evil").digest()
    places = ((10**20 - 1, 1024), (0, 10**20 - 1), (1 << 63, 1 << 63), (0, 0))
    rows = [index.format_entry(b"f%d" % number, "f", 0o644, 0, 0, 4, 10**18, 10**18, 2, b"", digest, *place)
            for number, place in enumerate(places)]  # fmt: skip
    line.whole([rows_of()[0], *rows], archive_of(*(f"./f{number}" for number in range(4))))


def state_of_10_gib(line: Line) -> None:
    """A whole dump; its state is for the client itself, which gets it back as it is."""
    line.begin()
    line.index(*rows_of(b"a"))
    line.frame(0, 0, archive_of("./a"), wire.LAST)
    line.send(wire.STATE, bomb(10 << 30))
    line.done(len(archive_of("./a")), 2)


def state_of_rows_for_ever(line: Line) -> None:
    """Rows that compress to almost nothing."""
    line.begin()
    packed = bomb(1 << 25, b"row\n")
    while True:
        line.send(wire.STATE, packed)


def links_for_ever(line: Line) -> None:
    """What it wants back when its line is cut."""
    line.begin(marks=True, identity="x" * 100_000)
    data = os.urandom(1 << 20)
    while True:
        line.send(wire.LINKS, data)


def marks_of_4_mib(line: Line) -> None:
    """Of frames without end, each a byte."""
    line.begin(marks=True, identity="x")
    line.index(*rows_of(b"a"))
    packed, number = gzip.compress(b"x", 1), 0
    while True:
        if number % 1000 == 0:
            line.json(wire.MARK, file={"path": "a", "more": "x" * 4_000_000})
        line.frame(number, number, b"", wire.CONTINUES if number else 0, length=1, stored=packed)
        number += 1


def goes_on_behind_garbage(line: Line) -> None:
    """The line is cut behind rows that are none; then it would go on behind them."""
    line.hello()
    asked = line.request.get("resume")
    line.start(marks=True, identity="x", resume=asked is not None)
    if asked is None:
        line.index(b"no row\n", b"\n", rows_of(b"a")[1])
        line.frame(0, 0, b"", length=4 << 20, stored=gzip.compress(os.urandom(4 << 20), 0))
        os._exit(0)
    line.json(wire.AGAIN, frame=asked["points"][0]["frame"])
    line.frame(1, 4 << 20, b"x" * 512, wire.LAST, part=1)
    line.done((4 << 20) + 512, 0)


def sealed_key_of_another_part(line: Line) -> None:
    line.begin()
    line.key(1)
    line.frame(0, 0, b"x" * 512, wire.LAST, mac=bytes(32))
    time.sleep(3600)


def sealed_states_for_ever(line: Line) -> None:
    """What does not lie on the holding disk, since it may be in the clear."""
    states_for_ever(line)


def talks_after_the_end(line: Line) -> None:
    line.whole(rows_of(b"a"), archive_of("./a"))
    while True:
        line.json(wire.DONE, entries=0)
        line.raw(os.urandom(4096))


def cut_in_the_middle(line: Line) -> None:
    line.begin()
    head = wire.pack_frame_head(wire.FrameHead(0, 0, 0, 1 << 20, 0))
    line.raw(struct.pack(">cI", wire.FRAME, 1 << 20) + head + bytes(1000))


def fuzzed(line: Line) -> None:
    """A conversation that was a good one, bytes of it changed."""
    seed = int(os.environ.get("STOWAGE_FUZZ", time.time_ns() % 10**6))
    chance = random.Random(seed)
    kept, line.out = line.out, io.BytesIO()  # type: ignore[assignment]
    line.whole(rows_of(b"a", b"b"), archive_of("./a", "./b"))
    data = bytearray(line.out.getvalue())
    line.out = kept
    for _ in range(chance.randint(1, 10)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    line.raw(bytes(data))
    time.sleep(chance.choice((0, 3600)))


AGENTS: Dict[str, Tuple[Callable[[Line], None], Set[str]]] = {
    "garbage": (garbage, WIRE), "banner": (banner, WIRE), "silence": (silence, WIRE),
    "silence-after-start": (silence_after_start, WIRE), "hello-for-ever": (hello_for_ever, WIRE),
    "hello-of-4-gib": (hello_of_4_gib, WIRE), "hello-deep": (hello_deep, WIRE), "hello-of-many": (hello_of_many, WIRE),
    "hello-of-long-numbers": (hello_of_long_numbers, WIRE), "drip": (drip, WIRE), "drip-of-a-frame": (
        drip_of_a_frame, WIRE), "heartbeat": (heartbeat, WIRE), "start-of-3-mib": (start_of_3_mib, WIRE),
    "codec-unknown": (codec_unknown, {"agent-refused"}), "index-row-of-10-gib": (index_row_of_10_gib, WIRE),
    "index-row-of-200-mib": (index_row_of_200_mib, WIRE), "index-of-empty-lines": (index_of_empty_lines, set()),
    "clock-of-2099": (clock_of_2099, set()), "climb": (climb, set()), "frames-for-ever": (frames_for_ever, WIRE),
    "bytes-for-ever": (bytes_for_ever, {"wire", "holding-full"}), "states-for-ever": (
        states_for_ever, {"wire", "holding-full"}), "notes-for-ever": (notes_for_ever, WIRE),
    "notes-of-escapes": (notes_of_escapes, set()), "error-of-escapes": (error_of_escapes, {"failed"}),
    "error-that-asks-again": (error_that_asks_again, UNREACHABLE | {"failed"}),
    "sizes-too-large": (sizes_too_large, WIRE), "sizes-negative": (sizes_negative, WIRE),
    "sizes-no-numbers": (sizes_no_numbers, WIRE), "frame-longer-than-it-says": (frame_longer_than_it_says, set()),
    "frame-out-of-place": (frame_out_of_place, WIRE), "frame-of-another-part": (frame_of_another_part, WIRE),
    "key-of-another-part": (key_of_another_part, WIRE), "talks-after-the-end": (talks_after_the_end, set()),
    "cut-in-the-middle": (cut_in_the_middle, ANY),
    "sizes-of-files": (sizes_of_files, set()), "places-of-files": (places_of_files, set()),
    "state-of-10-gib": (state_of_10_gib, set()), "state-of-rows-for-ever": (state_of_rows_for_ever, WIRE),
    "links-for-ever": (links_for_ever, {"wire", "holding-full"}), "marks-of-4-mib": (marks_of_4_mib, WIRE),
    "goes-on-behind-garbage": (goes_on_behind_garbage, ANY), "sealed-key-of-another-part": (
        sealed_key_of_another_part, WIRE), "sealed-states-for-ever": (sealed_states_for_ever, {"wire"}),
    "fuzzed": (fuzzed, ANY | {"", "warning", "failed", "agent-missing", "agent-refused"}),
}  # fmt: skip


if __name__ == "__main__":
    AGENTS[sys.argv[1]][0](Line())
