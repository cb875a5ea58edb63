"""What reads bytes that somebody else wrote: for each reader a function of bytes, and samples to begin with.

A reader may take the bytes or refuse them by a StowageError; anything else (another exception, a hang, memory without
bound) is a bug. Used by tests/unit/test_readers.py (hypothesis) and tests/fuzz/run.py (coverage-guided).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Callable, Dict, Iterable, List

from backupcore import wire
from backupcore.dump import estimate
from backupcore.errors import StowageError
from backupcore.image import codec, dumpdir, frames, index, pax, recipients, seal, state, unpax
from backupcore.image.manifest import Manifest
from backupcore.schedule.estimates import Dumped, expect, learn

DATA = Path(__file__).resolve().parents[1] / "data"
UNPACKED_LIMIT = 4 << 20  # what one small input may unpack to here: a bomb has to be refused by the limit given


def _chunks(data: bytes, size: int = 7) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _reader(data: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)
    return lambda count: stream.read(min(count, 513))  # so that everything straddles something


def read_manifest(data: bytes) -> None:
    manifest = Manifest.from_bytes(data)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert ".." not in manifest.prefix.split("/") and not manifest.prefix.startswith("/")
    for record in manifest.all_files():
        assert "/" not in record.name


def read_index(data: bytes) -> None:
    for entry in index.read(_chunks(data)):
        assert not entry.path.startswith(b"/") and b".." not in entry.path.split(b"/")
        assert index.parse(index.format_entry(*entry)[:-1]) == entry


def read_frames(data: bytes) -> None:
    table = frames.Table(frames.read(_chunks(data)))
    for frame in table.frames:
        assert frame in table.cover(frame.offset, frame.length)


def read_archive(data: bytes) -> None:
    seen = 0
    for member in unpax.Reader(_reader(data), records_limit=1 << 20):
        assert not member.path.startswith(b"/") and b".." not in member.path.split(b"/")
        for piece in member.content():
            seen += len(piece)
        if member.dumpdir is not None:
            dumpdir.parse(member.dumpdir)
    assert seen <= len(data)


def read_wire(data: bytes) -> None:
    channel = wire.Channel(io.BytesIO(data), io.BytesIO(), "the other side")
    while True:
        kind, payload = channel.receive()
        if kind == wire.FRAME:
            wire.unpack_frame(payload)
        elif kind not in (wire.STATE, wire.INDEX, wire.ARCHIVE, wire.EXPECT, wire.END):
            value = channel.json(payload)
            if kind == wire.ERROR:
                assert isinstance(wire.received_error(value), StowageError)


def read_state(data: bytes) -> None:
    for block in state.read([data]):
        block.parts()


def read_keys(data: bytes) -> None:
    for line in recipients.read_keys([data]):
        assert isinstance(line.value, bytes)


def read_seal(data: bytes) -> None:
    manifest = Manifest.from_bytes(data)
    names = tuple(record.name for record in manifest.all_files())
    found = seal.parse(manifest.seal, names, (manifest.index.name, manifest.frames.name))
    assert found is None or set(found.commitments) == set(names)


def read_estimate(data: bytes) -> None:
    told = wire.Channel(io.BytesIO(), io.BytesIO()).json(data)
    part = estimate.Part({1: 5, 2: 5, 3: 9})
    found = estimate.read(told, part)
    if found is not None:
        assert found.since[1] == found.since[2] >= found.since[3] >= 0
        past = learn([Dumped("a", 0, None, 1, 1, 1 << 30, 1 << 29, 5, 9.0)])
        tonight = expect(past, (2, 2), {1: (1, 1), 2: (1, 1)}, found)
        assert 0 <= tonight.levels[2] <= tonight.full <= 1 << 51


def read_zstd(data: bytes) -> None:
    assert len(codec.get("zstd").decompress(data, UNPACKED_LIMIT)) <= UNPACKED_LIMIT


def read_gzip(data: bytes) -> None:
    assert len(codec.get("gzip").decompress(data, UNPACKED_LIMIT)) <= UNPACKED_LIMIT


READERS: Dict[str, Callable[[bytes], None]] = {
    name[len("read_") :]: function for name, function in list(globals().items()) if name.startswith("read_")
}


def samples(name: str) -> List[bytes]:
    """Well-formed inputs of a reader, to begin with."""
    return list(_SAMPLES[name]())


def _files(pattern: str) -> List[bytes]:
    return [path.read_bytes() for path in sorted(DATA.glob("format-*/holding/*/*/*/" + pattern))]


def _sealed_manifests() -> List[bytes]:
    found = []
    for data in _files("manifest.json"):
        manifest = Manifest.from_bytes(data)
        text = data
        for record in manifest.all_files():
            text = text.replace(b'"%s"' % record.name.encode(), b'"%s.enc"' % record.name.encode())
        names = [record.name + ".enc" for record in manifest.all_files()]
        tables = [manifest.index.name + ".enc", manifest.frames.name + ".enc"]
        keys, macs = dict.fromkeys(names, "1" * 64), dict.fromkeys(tables, "2" * 64)
        value = seal.Seal("server", (("rsa", "0" * 64),), keys, macs)
        found.append(text.replace(b'"seal": null', b'"seal": ' + json.dumps(value.as_dict()).encode()))
    return found


def _messages() -> List[bytes]:
    out = io.BytesIO()
    channel = wire.Channel(io.BytesIO(), out)
    channel.send_json(wire.HELLO, {"protocol": 1, "version": "1", "sources": {}})
    head = wire.pack_frame_head(wire.FrameHead(0, 0, 0, 4, wire.LAST))
    channel.send(wire.FRAME, head, b"data")
    channel.send_json(wire.ERROR, {"code": "source-gone", "message": "gone", "hint": ""})
    channel.send(wire.END)
    return [out.getvalue()]


def _archives() -> List[bytes]:
    more = pax.member(
        b"./odd \xff", "f", 0o644, 1 << 40, 0, 5, -1, xattrs={b"user.a": b"b"}, sparse=[(0, 5)], dev=(0, 0)
    )  # fmt: skip
    return [*_files("image-0000.tar"), more + b"12345" + pax.padding(5) + pax.END]


def _unpacked(pattern: str) -> List[bytes]:
    found = _files(pattern)
    for word, suffix in (("zstd", ".zst"), ("gzip", ".gz")):
        found += [b"".join(codec.get(word).unpack([data])) for data in _files(pattern + suffix)]
    return found


def _states() -> List[bytes]:
    from backupcore.dump import statefile

    paths = sorted(DATA.glob("format-*/state/state/*/*/*.state"))
    return [payload for path in paths for payload in statefile.payloads(path)]


def _estimates() -> List[bytes]:
    part = {"bytes": 1 << 30, "entries": 9, "since": [[5120, 3], [1024, 0]]}
    told = {"complete": True, "share": 1.0, "used": 1 << 40, "seconds": 1.5, "parts": {"": part}}
    return [json.dumps(one).encode() for one in (told, {**told, "complete": False, "share": 0.3}, {"problem": "gone"})]


_SAMPLES = {
    "estimate": _estimates,
    "manifest": lambda: _files("manifest.json"),
    "index": lambda: _unpacked("index.tsv"),
    "frames": lambda: _unpacked("frames.tsv"),
    "archive": _archives,
    "wire": _messages,
    "state": _states,
    "keys": lambda: [b"a.enc\trsa\t%s\tAAAA\n-\tpassphrase\t%s\tAAAA\n" % (b"0" * 64, b"1" * 64)],
    "seal": _sealed_manifests,
    "zstd": lambda: [codec.get("zstd").compress(data) for data in _archives()],
    "gzip": lambda: [codec.get("gzip").compress(data) for data in _archives()],
}
