"""One 10 KiB file out of a large sealed image on S3: how long, how many bytes, in how many requests.

Here lives making such an image quickly, by the parts that write real ones, without walking a tree of its size: a
million small files and some large ones of noise, sealed part by part, each part on S3 before the next is made.
Usage: onefile.py SCRATCH S3.json GIB (S3.json: what tests/lab/s3server.py prints); run.py has it as a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple

SMALL, FILES_A_FOLDER, LARGE = 10 << 10, 1000, 50 << 20
PART_SIZE = 4 << 30
FRAME = 4 << 20
LINES = 2048  # as the agent sends them
CLIENT, SOURCE, ROOT = "bench", "data", "/srv/data"
TARGET = "cloud"


class Made(NamedTuple):
    """The image. path, data: of a small file in its middle."""

    dump: str
    size: int
    entries: int
    path: str
    data: bytes


def noise() -> bytes:
    """Bytes that nothing can compress; files are pieces of it."""
    return os.urandom(64 << 20)


def content(block: bytes, number: int, size: int) -> bytes:
    """The content of a file: a piece of the noise of its own, and its number."""
    start = number * 7919 % (len(block) - size)
    return number.to_bytes(8, "big") + block[start : start + size - 8]


def configure(lab: Path, s3: dict) -> Any:
    """A server with one S3 target and recipients whose keys open without a passphrase; the opened Engine."""
    from backupcore.app.engine import Engine

    lab.mkdir(parents=True, exist_ok=True)
    secret = lab / "s3.json"
    secret.write_text(json.dumps({name: s3[name] for name in ("access_key", "secret_key")}))
    secret.chmod(0o600)
    plain = {
        "state": str(lab / "state"), "holding": [{"path": str(lab / "holding"), "use": "10 GiB"}],
        "targets": {TARGET: {
            "type": "s3", "bucket": "onefile", "prefix": "b", "endpoint": s3["endpoint"], "region": s3["region"],
            "addressing": "path", "credentials": str(secret),
        }},
        "policies": {"standard": {"compress": "zstd:1", "encrypt": "server"}},
        "clients": {CLIENT: {"address": "127.0.0.1", "sources": {SOURCE: {"type": "tree", "path": ROOT}}}},
    }  # fmt: skip
    file = lab / "stowage.yml"
    file.write_text(json.dumps(plain))
    file.chmod(0o600)
    if not (lab / "state" / "keys" / "recipients").exists():
        subprocess.run([stowage(), "--config", str(file), "key", "generate", "--no-passphrase"], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return Engine(file)


def stowage() -> str:
    """The command."""
    return str(Path(sys.executable).parent / "stowage")


class Writer:
    """An image being made: parts and tables as dump/receive.py makes them."""

    def __init__(self, engine: Any, lab: Path):
        from backupcore.dump.sealing import Sealing
        from backupcore.image import codec, layout
        from backupcore.keys import store

        self.engine, self.folder = engine, lab / "incoming"
        self.folder.mkdir(exist_ok=True)
        self.dump = "20261122T120000Z-L0-0badcafe"
        self.prefix = layout.dump_prefix(CLIENT, SOURCE, self.dump)
        recipients = [one.recipient for one in store.active(engine.settings.keys)]
        self.sealing = Sealing("server", self.prefix, recipients)
        self.codec = codec.get("zstd:1")
        self.target = engine.target(TARGET)
        self.parts: list = []
        self.table: list = []
        self.frame: list[bytes] = []
        self.filled = self.offset = self.begun = 0
        self.continues = False
        self.file = self.sealer = None
        self.lines: list[bytes] = []
        self.index = b""
        self.entries = 0

    def member(self, path: bytes, kind: str, data: bytes = b"") -> None:
        """Adds an entry."""
        from backupcore.image import index, order, pax

        header = pax.member(order.member_name(path, kind == "d"), kind, 0o644, 0, 0, len(data), 10**18)
        length = len(header) + len(data) + len(pax.padding(len(data)))
        self.lines.append(index.format_entry(
            path, kind, 0o644, 0, 0, len(data), 10**18, 10**18, self.entries, b"",
            hashlib.sha256(data).digest() if data else None, self.offset, length, "",
        ))  # fmt: skip
        self.entries += 1
        if len(self.lines) == LINES:
            self._index()
        if self.filled + length > FRAME and length <= 1 << 20:
            self._frame()
        for piece in (header, data, pax.padding(len(data))):
            self.add(piece)

    def add(self, piece: bytes) -> None:
        """Bytes of the archive."""
        view = memoryview(piece)
        while view:
            taken = view[: FRAME - self.filled]
            self.frame.append(taken)
            self.filled += len(taken)
            self.offset += len(taken)
            view = view[len(taken) :]
            if view:
                self._frame()
                self.continues = True

    def _index(self) -> None:
        self.index += self.codec.compress(b"".join(self.lines))
        self.lines = []

    def _frame(self, last: bool = False) -> None:
        from backupcore.image import frames, layout, seal

        data, number = b"".join(self.frame), len(self.table)
        stored = self.codec.compress(data)
        if self.file is None or self.place + len(stored) > PART_SIZE:
            self._end_part()
            name = layout.part_name(len(self.parts), "zstd") + layout.SEALED
            self.sealer = self.sealing.sealer(name, seal.PART, len(self.parts))
            self.file, self.place, self.digest = open(self.folder / name, "wb"), 0, hashlib.sha256()  # noqa: SIM115
        sealed = self.sealer.seal(stored)
        flags = (frames.LAST if last else 0) | (frames.CONTINUES if self.continues else 0)
        mac = self.sealer.mac(number, sealed, last)
        self.table.append(
            frames.Frame(len(self.parts), number, self.place, len(sealed), self.begun, len(data), mac, flags)
        )
        self.file.write(sealed)
        self.digest.update(sealed)
        self.place += len(sealed)
        self.begun += len(data)
        self.frame, self.filled, self.continues = [], 0, False

    def _end_part(self) -> None:
        from backupcore.image.manifest import FileRecord

        if self.file is not None:
            path = Path(self.file.name)
            self.file.close()
            self.parts.append(FileRecord(path.name, self.place, self.digest.hexdigest()))
            self._put(path, self.digest.hexdigest())
            path.unlink()
            self.file = None

    def _put(self, path: Path, sha256: str | None = None) -> None:
        self.target.put(f"{self.prefix}/{path.name}", path, sha256=sha256)

    def finish(self) -> Any:
        """Tables, manifest, catalog; the row."""
        from backupcore.catalog import places
        from backupcore.catalog.records import CopyRow, DumpRow
        from backupcore.image import folder, frames, layout, pax, seal
        from backupcore.image.manifest import FileRecord, Manifest, Signer

        self.add(pax.END)
        self._frame(last=True)
        self._end_part()
        self._index()
        records = []
        table = self.codec.compress(b"".join(frames.write(self.table)))
        for name, data, kind in (("index.tsv.zst", self.index, seal.INDEX), ("frames.tsv.zst", table, seal.FRAMES)):
            sealer = self.sealing.sealer(name + layout.SEALED, kind)
            sealed = sealer.seal(data)
            (self.folder / (name + layout.SEALED)).write_bytes(sealed)
            records.append(FileRecord(name + layout.SEALED, len(sealed), hashlib.sha256(sealed).hexdigest()))
            self.sealing.table(sealer, records[-1])
        state = self.engine.settings.state
        kept = places.index_folder(state, CLIENT, SOURCE) / (self.dump + ".tsv.zst")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(self.index)
        draft = Manifest(
            server=places.server_id(state), client=CLIENT, source=SOURCE, type="tree", path=ROOT, dump=self.dump,
            level=0, counter=1, begun_ns=10**18, ended_ns=10**18 + 1, codec="zstd", archive_size=self.offset,
            entries=self.entries, parts=tuple(self.parts), index=records[0], frames=records[1],
            seal=self.sealing.record(),
        )  # fmt: skip
        signer = Signer.load_or_make(self.engine.settings.keys)
        made = folder.finish(self.folder, draft, signer, keys=self.sealing.keys())
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == layout.MANIFEST):
            self._put(path)
        catalog = self.engine.catalog
        row = DumpRow(
            id=self.dump, client=CLIENT, source=SOURCE, segment="", type="tree", path=ROOT, level=0, counter=1,
            begun_ns=10**18, ended_ns=10**18 + 1, base=None, previous=None, run="bench", codec="zstd",
            archive_size=self.offset, stored_size=made.manifest.stored_size, entries=self.entries,
            files=self.entries, holding=None, manifest_sha256=made.manifest_sha256,
        )  # fmt: skip
        catalog.add_dump(row)
        catalog.put_copy(CopyRow(self.dump, TARGET, "verified", {}, row.stored_size, 1, 1, ""))
        return row


def make(engine: Any, lab: Path, size: int) -> Made:
    """An image of that many bytes: half of it files of 10 KiB, at most a million; half large ones."""
    block, writer = noise(), Writer(engine, lab)
    small = min(1_000_000, size // 2 // SMALL)
    writer.member(b".", "d")
    for number in range((size - small * SMALL) // LARGE):
        writer.member(b"big%05d" % number, "f", content(block, number, LARGE))
    chosen: tuple[str, bytes] = ("", b"")
    for folder in range(-(-small // FILES_A_FOLDER)):
        writer.member(b"d%04d" % folder, "d")
        for file in range(FILES_A_FOLDER):
            number = folder * FILES_A_FOLDER + file
            path, data = b"d%04d/f%04d.dat" % (folder, file), content(block, number, SMALL)
            writer.member(path, "f", data)
            if number == small * 2 // 3:
                chosen = (path.decode(), data)
    row = writer.finish()
    return Made(row.id, row.stored_size, row.entries, f"{CLIENT}:{ROOT}/{chosen[0]}", chosen[1])


def by_command(lab: Path, made: Made, runs: int) -> list[float]:
    """Seconds of whole processes `stowage restore --stdout`; the content is compared."""
    times = []
    for _run in range(runs + 1):
        begun = time.monotonic()
        done = subprocess.run(
            [stowage(), "--config", str(lab / "stowage.yml"), "restore", made.path, "--stdout"], capture_output=True
        )
        times.append(time.monotonic() - begun)
        assert done.stdout == made.data, (done.returncode, done.stderr)
    return times[1:]


def connection(lab: Path, runs: int) -> list[float]:
    """Seconds of a process that loads the S3 client and asks the bucket one question: what a connection costs."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from backupcore.app.engine import Engine\nengine = Engine(Path(sys.argv[1]))\n"
        f"print(len(b''.join(engine.target('{TARGET}').read(sys.argv[2], 0, 1))))\n"
    )
    times = []
    for _run in range(runs + 1):
        begun = time.monotonic()
        name = f"{CLIENT}/{SOURCE}/20261122T120000Z-L0-0badcafe/manifest.json"
        done = subprocess.run([sys.executable, "-c", script, str(lab / "stowage.yml"), name], capture_output=True)
        times.append(time.monotonic() - begun)
        assert done.stdout == b"1\n", done.stderr
    return times[1:]


def in_process(engine: Any, made: Made) -> tuple[float, int, int]:
    """(seconds once the target is open, bytes read from it, requests) of the same in this process."""
    from backupcore.app import restoring
    from backupcore.restore import deliver

    list(engine.target(TARGET).read(f"{CLIENT}/{SOURCE}/{made.dump}/manifest.json", 0, 1))
    begun = time.monotonic()
    images = restoring.images(engine)
    data = b"".join(deliver.cat(images, restoring.wanted(engine, [made.path], None)))
    seconds = time.monotonic() - begun
    assert data == made.data
    return seconds, sum(use.bytes for use in images.uses()), images.requests()


def rows(lab: Path, s3: dict, size: int, runs: int) -> Iterator[tuple[str, str, str, str]]:
    """What was measured: (what, value, wanted, note)."""
    engine = configure(lab, s3)
    known = lab / "made.json"
    if known.exists():
        plain = json.loads(known.read_text())
        made = Made(**{**plain, "data": bytes.fromhex(plain["data"])})
    else:
        begun = time.monotonic()
        _bucket(s3)
        made = make(engine, lab, size)
        known.write_text(json.dumps({**made._asdict(), "data": made.data.hex()}))
        print(f"image made in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    inside = [in_process(engine, made) for _run in range(runs)]
    whole, reach = statistics.median(by_command(lab, made, runs)), statistics.median(connection(lab, runs))
    what = f"one 10 KiB file of a sealed image of {made.size / (1 << 30):.1f} GiB on S3, {made.entries} entries"
    note = f"{inside[0][2]} requests; whole command {whole:.2f} s, {reach:.2f} s of it to load and reach S3"
    yield f"{what}: seconds beyond the connection", f"{max(0.0, whole - reach):.2f} s", "0.5 s", note
    seconds = statistics.median(one[0] for one in inside)
    yield f"{what}: bytes read", f"{inside[0][1] / (1 << 20):.2f} MiB", "16 MiB", f"{seconds:.2f} s in the program"


def _bucket(s3: dict) -> None:
    import boto3

    boto3.client(
        "s3", endpoint_url=s3["endpoint"], region_name=s3["region"], aws_access_key_id=s3["access_key"],
        aws_secret_access_key=s3["secret_key"],
    ).create_bucket(Bucket="onefile")  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    scratch, server, gib = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), float(sys.argv[3])
    for one in rows(scratch, server, int(gib * (1 << 30)), 5):
        print("\t".join(one))
