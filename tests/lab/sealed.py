"""A sealed dump folder for tests, made quickly by the parts that make real ones: no agent, no ssh, no catalog.

``make(below, tree)`` packs a tree (or takes archive bytes, or {name: content}) and puts the finished, signed dump
under a folder as on a holding disk; what comes back knows the keys that open it; by=None: it is not sealed.
``recipient()`` is a key pair of 3072 bits, made once a process. ``prove(keys_folder, pair)`` makes it a recipient of a
server, as `stowage key` would.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

from backupcore import wire
from backupcore.dump.holding import Space, landing
from backupcore.dump.receive import receive
from backupcore.dump.sealing import Sealing
from backupcore.image import codec as codecs
from backupcore.image import folder, index, layout, recipients, seal
from backupcore.image.manifest import Link, Manifest, Signer
from backupcore.settings import HoldingDisk

FULL = "20261122T120000Z-L0-00000001"


class Sealed(NamedTuple):
    """A dump folder; private: the key that opens it; keys: those of its files; archive: in the clear."""

    path: Path
    manifest: Manifest
    manifest_sha256: str
    private: object
    archive: bytes


def recipient(name="operations"):
    """A private key, the same for the same name."""
    return _recipient(name)


@functools.lru_cache(maxsize=None)
def _recipient(name):
    return recipients.generate(name, recipients.LEAST_BITS)


def prove(keys, *privates, protected=None):
    """Makes private keys proven, active recipients in a key folder; their files lie there, open or by a passphrase."""
    from backupcore.keys import store

    with store.changing(Path(keys)):
        for one in privates or (recipient(),):
            name = one.recipient.name or "operations"
            data = one.protect_pem(protected) if protected else one.to_pem()
            store.add(Path(keys), name, one.recipient.public)
            store.prove(Path(keys), name, data, (lambda what, wrong: protected) if protected else None)
            path = store.private_file(Path(keys), name)
            path.write_bytes(data)
            path.chmod(0o600)


def make(
    below, tree, by="server", codec="zstd", part_size=1 << 30, privates=None, signer=None, client="web1", source="etc",
    dump=FULL, base=None, counter=1, frame_size=100_000, server="00112233aabbccdd", private=None,
):  # fmt: skip
    """The dump of tree under the folder below: a path, archive bytes, or {name: content}. base: (name, digest)."""
    from packing import pack

    archive = tree if isinstance(tree, bytes) else _of(tree) if isinstance(tree, dict) else pack(tree)[0]
    privates = privates or (recipient(),)
    signer = signer or Signer.load_or_make(Path(below).parent / "keys")
    prefix = layout.dump_prefix(client, source, dump)
    named = [one.recipient for one in privates]
    sealing = Sealing(by, prefix, named) if by else None
    private = private or Path(below).parent / "pending"
    place = landing(Path(below), client, source, dump, private=private if by else None)
    place.make()
    lines = list(index_lines(archive))
    sent = stream(archive, lines, codec, part_size, frame_size, (prefix, named) if by == "client" else None)
    channel = wire.Channel(io.BytesIO(sent), io.BytesIO(), client)
    room = Space([HoldingDisk(Path(below), 1 << 50)]).reserve(None)
    got = receive(channel, place, room, codec, part_size, sealing=sealing)
    room.close()
    level = int(dump.split("-L")[1].split("-")[0])
    draft = Manifest(
        server=server, client=client, source=source, type="tree", path="/etc", dump=dump, level=level, counter=counter,
        begun_ns=1_700_000_000_000_000_000, ended_ns=1_700_000_001_000_000_000, codec=codec,
        archive_size=got.archive_size, entries=got.entries, parts=got.parts, index=got.index, frames=got.frames,
        base=Link(*base) if base else None, previous=Link(*base) if base else None, agent="0.1.0",
        seal=sealing.record() if sealing else None,
    )  # fmt: skip
    made = folder.finish(place.folder, draft, signer, [base[0]] if base else [], sealing.keys() if sealing else b"")
    place.final.parent.mkdir(parents=True, exist_ok=True)
    place.folder.rename(place.final)
    place.remove_beside()
    return Sealed(place.final, made.manifest, made.manifest_sha256, privates[0], archive)


def stream(archive, lines, codec="zstd", part_size=1 << 30, frame_size=100_000, seal_for=None):
    """What an agent sends after START. seal_for: (prefix, recipients) when the agent seals."""
    out = io.BytesIO()
    channel, packer = wire.Channel(io.BytesIO(), out), codecs.get(codec)
    if lines:
        channel.send(wire.INDEX, packer.compress(b"".join(lines)))
    part, used, sealer = 0, 0, None
    places = range(0, max(1, len(archive)), frame_size)
    for number, place in enumerate(places):
        piece = archive[place : place + frame_size]
        stored = packer.compress(piece)
        if used and used + len(stored) > part_size:
            part, used, sealer = part + 1, 0, None
        used += len(stored)
        last = place == places[-1]
        flags = (wire.LAST if last else 0) | (wire.CONTINUES if number else 0)
        head = wire.pack_frame_head(wire.FrameHead(part, number, place, len(piece), flags))
        if seal_for is None:
            channel.send(wire.FRAME, head, stored)
            continue
        if sealer is None:
            key = seal.FileKey.make()
            sealer = seal.Sealer(key, seal_for[0], seal.PART, part)
            channel.send_json(wire.KEY, key_message(part, key, seal_for[1]))
        stored = sealer.seal(stored)
        channel.send(wire.FRAME, head, sealer.mac(number, stored, last), stored)
    done = {"archive_size": len(archive), "entries": len(lines), "files": len(lines), "bytes": len(archive)}
    channel.send_json(wire.DONE, {**done, "suspects": 0})
    return out.getvalue()


def key_message(part, key, named):
    """The payload of a KEY message."""
    wrapped = {one.fingerprint: base64.b64encode(recipients.wrap(one, key)).decode() for one in named}
    return {"part": part, "commitment": key.commitment, "wrapped": wrapped}


def index_lines(archive):
    """Index lines of an archive, well enough to find and cut out what is in it."""
    kinds = {tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l"}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        ends = [one.offset for one in members[1:]] + [len(archive) - 1024]
        for one, end in zip(members, ends):
            kind = kinds.get(one.type)
            if kind is None:
                continue
            name = one.name[2:] if one.name.startswith("./") else one.name
            content = tar.extractfile(one).read() if kind == "f" else b""
            yield index.format_entry(
                path=(name or ".").rstrip("/").encode("utf-8", "surrogateescape"), kind=kind, mode=one.mode,
                uid=one.uid, gid=one.gid, size=len(content), mtime_ns=int(one.mtime) * 10**9, ctime_ns=0, inode=1,
                link=one.linkname.encode() if kind == "l" else b"",
                sha256=hashlib.sha256(content).digest() if content else None,
                offset=one.offset, length=end - one.offset, flags="",
            )  # fmt: skip


def unlocked(made, private=None):
    """{file: FileKey} of a dump folder by a private key."""
    texts = [(made.path / name).read_bytes() for name in folder.key_files(made.path)]
    return recipients.unlock(
        made.manifest.prefix, made.manifest.sealed, recipients.read_keys(texts), [private or made.private]
    )  # fmt: skip


def _of(content):
    from backupcore.image import pax

    found = [pax.member(b"./", "d", 0o755, 0, 0)]
    for name, data in content.items():
        found.append(pax.member(b"./" + name.encode(), "f", 0o644, 0, 0, size=len(data)))
        found.append(data + pax.padding(len(data)))
    return b"".join(found) + pax.END


def open_all(path, manifest, keys):
    """(archive, index text, frame lines) of a sealed dump, everything authenticated before it is used."""
    from backupcore.image import frames

    packer = codecs.get(manifest.codec)
    texts = []
    for record, kind in ((manifest.index, seal.INDEX), (manifest.frames, seal.FRAMES)):
        opener = seal.Opener(keys[record.name], manifest.prefix, kind)
        data = (path / record.name).read_bytes()
        digest = hashlib.sha256(data).digest()
        opener.check_table(len(data), digest, bytes.fromhex(manifest.sealed.macs[record.name]))
        texts.append(b"".join(packer.unpack([opener.stream().update(data)])))
    table = list(frames.read([texts[1]]))
    archive = []
    for number, record in enumerate(manifest.parts):
        opener = seal.Opener(keys[record.name], manifest.prefix, seal.PART, number)
        data = (path / record.name).read_bytes()
        for one in table:
            if one.part == number:
                stored = data[one.place : one.place + one.stored]
                plain = opener.frame(one.number, one.place, stored, bool(one.flags & frames.LAST), one.digest)
                archive.append(packer.decompress(plain, one.length))
    return b"".join(archive), texts[0], table


def opens(row, private=None):
    """(archive, index text, frames) of a row's image on the holding disk, opened."""
    path = Path(row.holding)
    manifest = Manifest.from_bytes((path / layout.MANIFEST).read_bytes())
    made = Sealed(path, manifest, row.manifest_sha256, private or recipient(), b"")
    return open_all(path, manifest, unlocked(made))


def names_in(folder_, words):
    """Files below a folder in which one of the words stands."""
    found = []
    for path in Path(folder_).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(str(path), word) for word in words if word in data or word.decode() in str(path)]
    return found
