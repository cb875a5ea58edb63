"""A server with dumps of three kinds (plain, sealed by the server, sealed by the client) on three places, and those who
attack them: everything that somebody can do with files on a place, without the keys. For tests only.

``World`` makes it and looks at it: ``cat`` restores one file, ``verify`` reads a whole copy. An attack is a function
of ``ATTACKS``: it gets a random generator, the world and a victim, and says which files it puts in the place of
which ({name below the place: bytes, None: removed}); nothing is changed before ``World.under``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import sealed
import yaml

from backupcore import clock
from backupcore.app import restoring
from backupcore.app.engine import Engine
from backupcore.catalog.records import CopyRow
from backupcore.catalog.rows import row_of
from backupcore.errors import StowageError
from backupcore.image import codec, copies, frames, layout, recipients
from backupcore.image.manifest import Link, Manifest, Signer, load_public_keys
from backupcore.image.seal import FRAMES, FileKey, Opener
from backupcore.keys.store import private_keys
from backupcore.verify import full
from backupcore.verify.verdict import Verdict

KINDS = {"plain": None, "server": "server", "client": "client"}  # name of the source -> who seals
CODECS = {"plain": "zstd", "server": "zstd", "client": "none"}
SIZES = {"big": 300_000, "mid": 90_000, "small": 3_000, "tiny": 40}
PART, FRAME = 160_000, 40_000
HOLDING, NAS, CLOUD = "holding", "nas", "cloud"


class Victim(NamedTuple):
    """A dump. files: name -> content, as they were."""

    row: object
    manifest: Manifest
    files: dict
    keys: dict

    @property
    def prefix(self):
        return self.manifest.prefix

    def at(self, name):
        return f"{self.prefix}/{name}"

    @property
    def sealed(self):
        return self.manifest.seal is not None


class World:
    """The server. cloud: {"client": boto3 client, "bucket", options…} of a real S3 server, or None."""

    def __init__(self, base: Path, random, cloud=None):
        self.base, self.random, self.cloud = base, random, cloud
        for name in (HOLDING, NAS, "clients.d"):
            (base / name).mkdir()
        targets = {NAS: {"type": "directory", "path": str(base / NAS)}}
        if cloud:
            targets[CLOUD] = cloud["options"]
        sources = {name: {"type": "tree", "path": f"/srv/{name}"} for name in KINDS}
        (base / "stowage.yml").write_text(yaml.safe_dump({
            "state": str(base / "state"), "holding": [{"path": str(base / HOLDING), "use": "1 GB"}],
            "keys": {"folder": str(base / "keys")}, "targets": targets,
            "clients": {name: {"transport": "local", "sources": sources} for name in ("web1", "web2")},
        }))  # fmt: skip
        self.signer = Signer.load_or_make(base / "keys")
        self.operations, self.escrow = sealed.recipient(), sealed.recipient("escrow")
        sealed.prove(base / "keys", self.operations)
        self.engine = Engine(base / "stowage.yml")
        self.public_keys = load_public_keys(base / "keys")
        self.server = self.engine.server_id
        self.victims, self.pristine, self.stores = [], {}, {HOLDING: FolderStore(base / HOLDING)}
        self.drafts = {}  # manifests that this server signed as well, and that nobody ever used
        for client in ("web1", "web2"):
            for source in KINDS:
                base_link = None
                for number in (1, 2):
                    base_link = self._dump(client, source, number, base_link)
        key = f"{layout.SIGNERS}{self.signer.fingerprint}.pub"
        self.pristine[key] = self.signer.public_pem
        for name, store in ((NAS, FolderStore(base / NAS)), (CLOUD, cloud and S3Store(cloud))):
            if store:
                self.stores[name] = store
                for path, data in self.pristine.items():
                    store.put(path, data)
                for victim in self.victims:
                    self.engine.catalog.put_copy(CopyRow(victim.row.id, name, "verified"))
        self.ring = private_keys(base / "keys", [])

    def close(self):
        self.engine.close()

    def _dump(self, client, source, number, before):
        files = {name: self.random.randbytes(size) for name, size in SIZES.items()}
        files["tiny"] = b"the secret of %s %s %d" % (client.encode(), source.encode(), number)
        dump = f"20261{number}22T120000Z-L0-{len(self.victims):08x}"
        made = sealed.make(
            self.base / HOLDING, dict(sorted(files.items())), by=KINDS[source], codec=CODECS[source], part_size=PART,
            frame_size=FRAME, privates=(self.operations, self.escrow), signer=self.signer, client=client,
            source=source, dump=dump, counter=number, server=self.server,
        )  # fmt: skip
        for name in (layout.MANIFEST, layout.SIGNATURE):
            self.drafts[made.manifest.prefix, name] = (made.path / name).read_bytes()
        begun = made.manifest.begun_ns + number * 86400 * clock.NS
        dated = replace(made.manifest, previous=before, begun_ns=begun, ended_ns=begun + clock.NS)
        manifest = self._signed(made.path, dated)
        data = (made.path / layout.MANIFEST).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        row = replace(row_of(manifest, digest), holding=str(made.path))
        self.engine.catalog.add_dump(row)
        keys = sealed.unlocked(made, self.operations) if manifest.seal else {}
        self.victims.append(Victim(row, manifest, files, keys))
        for path in made.path.iterdir():
            self.pristine[f"{manifest.prefix}/{path.name}"] = path.read_bytes()
        return Link(dump, digest)

    def _signed(self, folder, manifest):
        data = manifest.to_bytes()
        (folder / layout.MANIFEST).write_bytes(data)
        (folder / layout.SIGNATURE).write_bytes(self.signer.sign(data))
        return manifest

    @contextlib.contextmanager
    def under(self, place, changes):
        """The attack's files in place, and everything as it was afterwards."""
        store = self.stores[place]
        try:
            for name, data in changes.items():
                store.put(name, data) if data is not None else store.remove(name)
            yield
        finally:
            for name in changes:
                if name in self.pristine:
                    store.put(name, self.pristine[name])
                else:
                    store.remove(name)

    def forget(self):
        """The server keeps no index at all: every one comes from the place."""
        shutil.rmtree(self.base / "state" / "index", ignore_errors=True)

    def cat(self, victim, name, place=None, engine=None):
        """(what `restore --stdout` of a file gave out, its error or None)."""
        engine = engine or self.engine
        out = bytearray()
        words = [victim.row.client, victim.row.source, f"{victim.row.path}/{name}"]
        try:
            for piece in restoring.cat(engine, self.request(words, victim, place)):
                out += piece
        except StowageError as error:
            return bytes(out), error
        return bytes(out), None

    def request(self, words, victim, place, **more):
        """A restore of that dump."""
        return restoring.Request(words, at=victim.row.id, place=place, ring=self.ring, **more)

    @contextlib.contextmanager
    def alone(self, victim, place=NAS):
        """An engine without any server over that place, told whom to believe; the error of its reading else."""
        from backupcore.app.serverless import Loose, Place

        engine = None
        try:
            engine = Loose(Place(str(self.base / place), signers=[self.signer.fingerprint]), (victim.row.client,))
            yield engine
        except StowageError as error:
            if engine is not None:
                raise
            yield error
        finally:
            if engine is not None:
                engine.close()

    def verify(self, victim, place, noted=False):
        """The verdict of a full reading of one copy. noted: the wrapped keys are known as they were."""
        copy = (
            copies.FolderCopy(victim.row.holding, HOLDING) if place == HOLDING
            else copies.TargetCopy(self.engine.target(place), place, victim.prefix)
        )  # fmt: skip
        known = {}
        if noted and victim.sealed:
            known[layout.keys_name()] = hashlib.sha256(self.pristine[victim.at(layout.keys_name())]).hexdigest()
        verdict = Verdict(victim.row, place, "full")
        full.check(copy, verdict, self.public_keys, known, self.ring, self.base / "state", lambda _count: None)
        return verdict

    # what attackers need to know

    def of(self, victim, name):
        return self.pristine[victim.at(name)]

    def names(self, victim):
        """All files of a dump."""
        return sorted(path[len(victim.prefix) + 1 :] for path in self.pristine if path.startswith(victim.prefix + "/"))

    def table(self, victim):
        """Its frames: no secret to whoever has seen the sizes of what was written."""
        record = victim.manifest.frames
        data = self.of(victim, record.name)
        if victim.sealed:
            data = Opener(victim.keys[record.name], victim.prefix, FRAMES).stream().update(data)
        return list(frames.read(codec.get(victim.manifest.codec).unpack([data])))

    def other(self, rng, victim, same_kind=False):
        """Another dump."""
        found = [
            one for one in self.victims
            if one is not victim and (not same_kind or one.row.source == victim.row.source)
        ]  # fmt: skip
        return rng.choice(found)


class FolderStore:
    """Files below a folder."""

    def __init__(self, root):
        self.root = root

    def put(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        if isinstance(data, Path):
            path.unlink(missing_ok=True)
            path.symlink_to(data)
        else:
            path.write_bytes(data)

    def remove(self, name):
        (self.root / name).unlink(missing_ok=True)


class S3Store:
    """Objects of a bucket."""

    def __init__(self, cloud):
        self.client, self.bucket = cloud["client"], cloud["options"]["bucket"]

    def put(self, name, data):
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def remove(self, name):
        self.client.delete_object(Bucket=self.bucket, Key=name)


# attacks


def flip(data, rng):
    """One bit the other way round."""
    found = bytearray(data)
    at = rng.randrange(len(found))
    found[at] ^= 1 << rng.randrange(8)
    return bytes(found)


def _some_file(rng, world, victim):
    """Any file of the dump; parts and small files equally often."""
    groups = {}
    for name in world.names(victim):
        groups.setdefault(name.split("-")[0].split(".")[0], []).append(name)
    return rng.choice(groups[rng.choice(sorted(groups))])


def bit(rng, world, victim):
    name = _some_file(rng, world, victim)
    return {victim.at(name): flip(world.of(victim, name), rng)}


def bit_in_a_part(rng, world, victim):
    name = rng.choice(victim.manifest.parts).name
    return {victim.at(name): flip(world.of(victim, name), rng)}


def cut(rng, world, victim):
    name = _some_file(rng, world, victim)
    data = world.of(victim, name)
    return {victim.at(name): data[: rng.randrange(len(data))]}


def longer(rng, world, victim):
    name = _some_file(rng, world, victim)
    data = world.of(victim, name)
    more = rng.choice([b"\0" * 7, b"\n", data[: rng.randint(1, 500)], rng.randbytes(rng.randint(1, 99))])
    return {victim.at(name): data + more}


def zeros(rng, world, victim):
    name = rng.choice(victim.manifest.parts).name
    data = world.of(victim, name)
    at = rng.randrange(len(data) - 600)
    return {victim.at(name): data[:at] + bytes(512) + data[at + 512 :]}


def removed(rng, world, victim):
    return {victim.at(_some_file(rng, world, victim)): None}


def frames_swapped(rng, world, victim):
    """Two frames of one part, of the same length where there are such."""
    table = world.table(victim)
    part = rng.choice([one for one in range(len(victim.manifest.parts)) if sum(f.part == one for f in table) > 1])
    mine = [one for one in table if one.part == part]
    first, second = sorted(rng.sample(mine, 2), key=lambda one: one.place)
    name = victim.manifest.parts[part].name
    data = world.of(victim, name)
    cuts = [data[one.place : one.place + one.stored] for one in (first, second)]
    between = data[first.place + first.stored : second.place]
    changed = data[: first.place] + cuts[1] + between + cuts[0] + data[second.place + second.stored :]
    return {victim.at(name): changed}


def frame_of_another(rng, world, victim):
    """A frame in the place of one of the same length: of another part, dump, source or client."""
    other = rng.choice([victim, world.other(rng, victim, same_kind=True)])
    mine, theirs = world.table(victim), world.table(other)
    pairs = [
        (a, b) for a in mine for b in theirs
        if a.stored == b.stored and (other is not victim or a.number != b.number)
    ]  # fmt: skip
    if not pairs:
        return frames_swapped(rng, world, victim)
    a, b = rng.choice(pairs)
    name, source = victim.manifest.parts[a.part].name, other.manifest.parts[b.part].name
    data = world.of(victim, name)
    piece = world.of(other, source)[b.place : b.place + b.stored]
    return {victim.at(name): data[: a.place] + piece + data[a.place + a.stored :]}


def frame_twice(rng, world, victim):
    one = rng.choice(world.table(victim))
    name = victim.manifest.parts[one.part].name
    data = world.of(victim, name)
    end = one.place + one.stored
    return {victim.at(name): data[:end] + data[one.place : end] + data[end:]}


def parts_swapped(rng, world, victim):
    a, b = rng.sample(victim.manifest.parts, 2)
    return {victim.at(a.name): world.of(victim, b.name), victim.at(b.name): world.of(victim, a.name)}


def part_of_another(rng, world, victim):
    other = world.other(rng, victim, same_kind=rng.random() < 0.7)
    name = rng.choice(victim.manifest.parts).name
    taken = name if other.at(name) in world.pristine else other.manifest.parts[0].name
    return {victim.at(name): world.of(other, taken)}


def images_swapped(rng, world, victim):
    """Each whole image in the other's place: client, source or dump."""
    other = world.other(rng, victim, same_kind=rng.random() < 0.7)
    return {**_moved(world, victim, other), **_moved(world, other, victim)}


def image_of_another(rng, world, victim):
    return _moved(world, world.other(rng, victim, same_kind=rng.random() < 0.7), victim)


def all_but_the_manifest(rng, world, victim):
    """Another's files under our own manifest and signature."""
    other = world.other(rng, victim, same_kind=True)
    found = _moved(world, other, victim)
    return {path: data for path, data in found.items() if not path.endswith((layout.MANIFEST, layout.SIGNATURE))}


def _moved(world, source, to):
    found = {to.at(name): None for name in world.names(to)}
    found.update((to.at(name), world.of(source, name)) for name in world.names(source))
    return found


def manifest_of_another(rng, world, victim):
    other = world.other(rng, victim)
    names = rng.choice([[layout.MANIFEST], [layout.SIGNATURE], [layout.MANIFEST, layout.SIGNATURE]])
    return {victim.at(name): world.of(other, name) for name in names}


def small_file_of_another(rng, world, victim):
    other = world.other(rng, victim)
    name = rng.choice([layout.SUMS, layout.RESTORE])
    return {victim.at(name): world.of(other, name)}


def index_of_another(rng, world, victim):
    return {victim.at(victim.manifest.index.name): _index(world, world.other(rng, victim))}


def table_of_another(rng, world, victim):
    other = world.other(rng, victim, same_kind=True)
    return {victim.at(victim.manifest.frames.name): world.of(other, other.manifest.frames.name)}


def index_and_table_swapped(rng, world, victim):
    index, table = victim.manifest.index.name, victim.manifest.frames.name
    return {victim.at(index): world.of(victim, table), victim.at(table): world.of(victim, index)}


def _index(world, victim):
    return world.of(victim, victim.manifest.index.name)


def keys_of_another(rng, world, victim):
    if not victim.sealed:
        return index_of_another(rng, world, victim)
    other = rng.choice([one for one in world.victims if one.sealed and one is not victim])
    return {victim.at(layout.keys_name()): world.of(other, layout.keys_name())}


def key_of_our_own(rng, world, victim):
    """A key that the attacker made, wrapped rightly for the recipients, whose public keys are no secret."""
    if not victim.sealed:
        return index_of_another(rng, world, victim)
    file = rng.choice([record.name for record in victim.manifest.all_files()])
    lines = [line for line in world.of(victim, layout.keys_name()).splitlines(True) if not _of(line, file)]
    mine = FileKey(rng.randbytes(64))
    named = [world.operations.recipient, world.escrow.recipient]
    text = b"".join(lines) + b"".join(recipients.key_lines(file, mine, named))
    return {victim.at(layout.keys_name()): text}


def keys_among_files(rng, world, victim):
    """The right wrapped keys, each at another file of the dump."""
    if not victim.sealed:
        return table_of_another(rng, world, victim)
    names = [record.name.encode() for record in victim.manifest.all_files()]
    turned = dict(zip(names, names[1:] + names[:1]))
    lines = [line.split(b"\t", 1) for line in world.of(victim, layout.keys_name()).splitlines(True)]
    return {victim.at(layout.keys_name()): b"".join(turned[name] + b"\t" + rest for name, rest in lines)}


def _of(line, file):
    return line.split(b"\t", 1)[0] == file.encode()


def signed_by_another(rng, world, victim):
    """A forged image, whole and consistent, signed by a key of the attacker's, whose public half lies there too."""
    mine = _attacker()
    manifest = replace(victim.manifest, signer=mine.fingerprint, **_forged_sizes(rng, victim))
    data = manifest.to_bytes()
    return {
        victim.at(layout.MANIFEST): data, victim.at(layout.SIGNATURE): mine.sign(data),
        f"{layout.SIGNERS}{mine.fingerprint}.pub": mine.public_pem,
    }  # fmt: skip


def named_as_the_signer(rng, world, victim):
    """The same, naming the server's key as its signer, which it is not."""
    data = replace(victim.manifest, **_forged_sizes(rng, victim)).to_bytes()
    return {victim.at(layout.MANIFEST): data, victim.at(layout.SIGNATURE): _attacker().sign(data)}


def signed_before(rng, world, victim):
    """Another manifest of this very dump that the server once signed: only the catalog knows better."""
    names = (layout.MANIFEST, layout.SIGNATURE)
    return {victim.at(name): world.drafts[victim.prefix, name] for name in names}


def forged_image(rng, world, victim):
    """A plain dump with other content and all files made to fit, the manifest too; signed by the attacker under the
    server's name."""
    if victim.sealed:
        return named_as_the_signer(rng, world, victim)
    found = forge(world, victim, b"FORGED")
    records = {}
    for record in victim.manifest.all_files():
        data = found.get(victim.at(record.name), world.of(victim, record.name))
        records[record.name] = replace(record, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = victim.manifest
    manifest = replace(
        manifest, parts=tuple(records[one.name] for one in manifest.parts), index=records[manifest.index.name],
        frames=records[manifest.frames.name],
        sums_sha256=hashlib.sha256(found[victim.at(layout.SUMS)]).hexdigest(),
    )  # fmt: skip
    data = manifest.to_bytes()
    return {**found, victim.at(layout.MANIFEST): data, victim.at(layout.SIGNATURE): _attacker().sign(data)}


def _forged_sizes(rng, victim):
    return {"entries": victim.manifest.entries + rng.randint(1, 9)}


def manifest_edited(rng, world, victim):
    """Fields of the manifest changed, the old signature beside it."""
    plain = json.loads(world.of(victim, layout.MANIFEST))
    what = rng.choice(["counter", "client", "seal", "parts", "base", "signer", "path"])
    plain[what] = {
        "counter": plain["counter"] + 7, "client": "web9", "seal": None, "parts": plain["parts"][:-1],
        "base": {"dump": victim.row.id, "manifest_sha256": "0" * 64}, "signer": "0" * 64, "path": "/etc",
    }[what]  # fmt: skip
    if json.dumps(plain) == json.dumps(json.loads(world.of(victim, layout.MANIFEST))):
        plain["counter"] += 1
    return {victim.at(layout.MANIFEST): json.dumps(plain, sort_keys=True, indent=1).encode() + b"\n"}


def seal_taken_off(rng, world, victim):
    """All files in the clear, made by the attacker, under the names of a dump that is not sealed."""
    plain = next(one for one in world.victims if not one.sealed and one is not victim)
    found = _moved(world, plain, victim)
    found[victim.at(layout.SIGNATURE)] = world.of(victim, layout.SIGNATURE)
    return found


def forged_part(rng, world, victim):
    """Other content with a frame table and SHA256SUMS that fit it: only the manifest does not."""
    if victim.sealed:
        return part_of_another(rng, world, victim)
    return forge(world, victim, rng.randbytes(2000))


def forge(world, victim, content):
    """The changes that give a plain dump's first part another content, all else made to fit."""
    packer = codec.get(victim.manifest.codec)
    table = world.table(victim)
    record = victim.manifest.parts[0]
    data, fitted = bytearray(world.of(victim, record.name)), []
    first = table[0]
    plain = bytearray(packer.decompress(bytes(data[: first.stored]), first.length))
    plain[-len(content) :] = content
    stored = packer.compress(bytes(plain))
    shift = len(stored) - first.stored
    for one in table:
        if one.number == 0:
            one = one._replace(stored=len(stored), digest=hashlib.sha256(stored).digest())
        elif one.part == 0:
            one = one._replace(place=one.place + shift)
        fitted.append(one)
    part = stored + bytes(data[first.stored :])
    frame_table = packer.compress(b"".join(frames.write(fitted)))
    return {
        victim.at(record.name): part, victim.at(victim.manifest.frames.name): frame_table,
        victim.at(layout.SUMS): _sums(world, victim, {record.name: part, victim.manifest.frames.name: frame_table}),
    }  # fmt: skip


def _sums(world, victim, changed):
    lines = []
    for record in victim.manifest.all_files():
        data = changed.get(record.name, world.of(victim, record.name))
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {record.name}\n")
    return "".join(lines).encode()


def link(rng, world, victim):
    """A symbolic link in the place of a file, to a file with the right content: on a folder that others may write to
    it may lead anywhere a moment later."""
    name = _some_file(rng, world, victim)
    away = world.base / "elsewhere"
    away.mkdir(exist_ok=True)
    (away / name).write_bytes(flip(world.of(victim, name), rng))
    return {victim.at(name): away / name}


# attacks that must do no harm: whoever restores is served, and what can be seen is said


def line_of_another_recipient(rng, world, victim):
    """The key wrapped for somebody else is spoiled: we still open, verify says so."""
    lines = world.of(victim, layout.keys_name()).splitlines(True)
    theirs = [n for n, line in enumerate(lines) if line.split(b"\t")[2].decode() == world.escrow.recipient.fingerprint]
    at = rng.choice(theirs)
    head, value = lines[at].rsplit(b"\t", 1)
    lines[at] = head + b"\t" + base64.b64encode(flip(base64.b64decode(value), rng)) + b"\n"
    return {victim.at(layout.keys_name()): b"".join(lines)}


def keys_more(rng, world, victim):
    """A second file of wrapped keys, by the attacker: keys of his own, and garbage."""
    file = victim.manifest.parts[0].name
    mine = recipients.key_lines(file, FileKey(rng.randbytes(64)), [world.operations.recipient])
    return {victim.at(layout.keys_name(2)): b"".join(mine) + b"x\ty\n" + rng.randbytes(100)}


def file_more(rng, world, victim):
    """A file that belongs to no dump, in its folder."""
    return {victim.at(f"image-{len(victim.manifest.parts):04d}.tar.zst"): rng.randbytes(500)}


def _attacker(made=[]):  # noqa: B006 - one key pair for all attacks
    if not made:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        made.append(Signer(Ed25519PrivateKey.generate()))
    return made[0]


ATTACKS = [
    bit, bit, bit, bit, bit_in_a_part, bit_in_a_part, bit_in_a_part, cut, cut, longer, zeros, removed, frames_swapped,
    frames_swapped, frame_of_another, frame_of_another, frame_twice, parts_swapped, part_of_another, images_swapped,
    image_of_another, all_but_the_manifest, manifest_of_another, small_file_of_another, index_of_another,
    table_of_another, index_and_table_swapped, keys_of_another, key_of_our_own, keys_among_files, signed_by_another,
    named_as_the_signer, manifest_edited, seal_taken_off, forged_part, forged_image, signed_before,
]  # fmt: skip
