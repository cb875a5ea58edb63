"""The commands of RESTORE.txt, as they stand there, with nothing but a shell, coreutils, grep, GNU tar, zstd and gzip.

Most images are made here by a small dumper of its own (walk, compare, write) on the writer of backupcore.image, so
that the format is tested without the agent; the last tests take real dumps, made by agent and dumper.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dump_lab import Lab

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
import tree

from backupcore.image import codec, dumpdir, folder, frames, index, layout, order, pax, recipients, seal
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer
from backupcore.settings import Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and capabilities need root")

TOOLS = """sh base64 basename cat cut dirname dd echo grep head ls mkdir mktemp od openssl printf rm sha256sum sort tail
    tar tr true zstd gzip""".split()
FRAME, PART = 64 << 10, 1 << 20
KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
         stat.S_IFIFO: "p", stat.S_IFSOCK: "n"}  # fmt: skip


class Dumper:
    """Dumps of one tree into folders below `store`, the way the agent and the server do it together."""

    def __init__(self, root, store, spec, exclude=(), recipients=()):
        self.root, self.store, self.codec = os.fsencode(root), store, codec.get(spec)
        self.exclude, self.recipients = exclude, recipients
        self.signer = Signer.load_or_make(store / "keys")
        self.made, self.before, self.names = [], {}, {}

    def dump(self, level):
        """One dump at level, the changes since the dump before it."""
        name = "202611%02dT000000Z-L%d-%08x" % (len(self.made) + 1, level, len(self.made))
        self.path = self.store / name
        self.path.mkdir()
        self.rows, self.frames, self.buffer, self.offset = [], [], bytearray(), 0
        self.name, self.keys, self.macs = name, {}, {}
        self.parts, self.out, self.flags = [], None, 0
        seen, names, self.inodes = {}, {}, {}
        self._folder(order.ROOT, level, seen, names)
        for path, (was_dir, _signature) in self.before.items() if level else ():
            if path not in seen or seen[path][0] != was_dir:
                self.rows.append(index.Entry(path, "-", link=b"d" if was_dir else b"f"))
        self._put(pax.END)
        self._cut(frames.LAST)
        self._close()
        self.rows.sort(key=index.Entry.key)
        tables = [
            self._file(
                layout.index_name(self.codec.name), b"".join(index.format_entry(*row) for row in self.rows), seal.INDEX
            ),
            self._file(layout.frames_name(self.codec.name), b"".join(frames.write(self.frames)), seal.FRAMES),
        ]
        keys = [*recipients.private_lines(self.recipients)]
        for file, key in self.keys.items():
            keys.extend(recipients.key_lines(file, key, self.recipients))
        before = self.made[-1] if self.made else None
        done = folder.finish(
            self.path,
            Manifest(
                server="0123456789abcdef", client="web1", source="all", type="tree", path="/srv/t", dump=name,
                level=level, counter=len(self.made) + 1, begun_ns=10**18 + 5, ended_ns=10**18 + 6,
                codec=self.codec.name, archive_size=self.offset, entries=len(self.rows), parts=tuple(self.parts),
                index=tables[0], frames=tables[1], base=Link(*before) if level else None,
                previous=Link(*before) if before else None, seal=self._seal(),
            ),
            self.signer,
            [made[0] for made in self.made] if level else [], b"".join(keys),
        )  # fmt: skip
        self.made.append((name, done.manifest_sha256))
        self.before, self.names = seen, names
        folder.check_folder(self.path, {self.signer.fingerprint: self.signer.public}, full=True)
        return self.path

    def _seal(self):
        named = tuple((one.type, one.fingerprint) for one in self.recipients)
        commitments = {file: key.commitment for file, key in self.keys.items()}
        return seal.Seal("server", named, commitments, self.macs).as_dict() if named else None

    def _sealer(self, name, kind, part=0):
        key = self.keys[name] = seal.FileKey.make()
        return seal.Sealer(key, "web1/all/" + self.name, kind, part)

    def _file(self, name, data, kind):
        packed = self.codec.compress(data)
        if self.recipients:
            name += layout.SEALED
            sealer = self._sealer(name, kind)
            packed = sealer.seal(packed)
            self.macs[name] = sealer.table_mac(len(packed), hashlib.sha256(packed).digest()).hex()
        (self.path / name).write_bytes(packed)
        return FileRecord(name, len(packed), hashlib.sha256(packed).hexdigest())

    def _put(self, data):
        view = memoryview(data)
        while view:
            piece = view[: FRAME - len(self.buffer)]
            self.buffer += piece
            self.offset += len(piece)
            view = view[len(piece) :]
            if view:
                self._cut(0)
                self.flags = frames.CONTINUES

    def _cut(self, flags):
        if not self.buffer:
            return
        packed = self.codec.compress(bytes(self.buffer))
        if self.out is None or (self.out.tell() and self.out.tell() + len(packed) > PART):
            self._close()
            name = layout.part_name(len(self.parts), self.codec.name) + layout.SEALED * bool(self.recipients)
            self.out = open(self.path / name, "wb")
            self.sealer = self._sealer(name, seal.PART, len(self.parts)) if self.recipients else None
        digest = hashlib.sha256(packed).digest()
        if self.sealer:
            packed = self.sealer.seal(packed)
            digest = self.sealer.mac(len(self.frames), packed, bool(flags & frames.LAST))
        self.frames.append(
            frames.Frame(
                len(self.parts), len(self.frames), self.out.tell(), len(packed), self.offset - len(self.buffer),
                len(self.buffer), digest, self.flags | flags,
            )
        )  # fmt: skip
        self.out.write(packed)
        self.buffer.clear()
        self.flags = 0

    def _close(self):
        if self.out:
            self.out.close()
            data = Path(self.out.name).read_bytes()
            self.parts.append(FileRecord(Path(self.out.name).name, len(data), hashlib.sha256(data).hexdigest()))

    def _folder(self, path, level, seen, names):
        place = os.path.join(self.root, path)
        found = [(name, os.lstat(os.path.join(place, name))) for name in sorted(os.listdir(place))]
        kept, letters = [], b""
        for name, status in found:
            kind = KINDS[stat.S_IFMT(status.st_mode)]
            letter = b"N" if kind == "n" or name in self.exclude else b"D" if kind == "d" else b"Y"
            letters += letter
            if letter != b"N":
                below = name if path == order.ROOT else path + b"/" + name
                kept.append((kind, below, status, (status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                                                   status.st_ino, kind)))  # fmt: skip
        now = [(below, kind == "d") for kind, below, _status, _signature in kept]
        changed = [one for one in kept if self.before.get(one[1]) != (one[0] == "d", one[3])]
        status = os.lstat(place)
        signature = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        listed = self.names.get(path) != (signature, now)
        names[path] = (signature, now)
        if path == order.ROOT:
            seen[path] = (True, None)
        record = dumpdir.build([name for name, _status in found], letters) if level and listed else None
        if not level or changed or listed:
            self._member(path, "d", status, dumpdir=record)
        for kind, below, status, signature in sorted(kept, key=lambda one: order.key(one[1], one[0] == "d")):
            seen[below] = (kind == "d", signature)
            if kind == "d":
                self._folder(below, level, seen, names)
            elif not level or self.before.get(below) != (False, signature):
                self._member(below, kind, status)

    def _member(self, path, kind, status, record=None, **more):
        place = os.path.join(self.root, path)
        dev, digest, sparse, segments = (0, 0), None, None, []
        first = self.inodes.setdefault(status.st_ino, path) if kind != "d" else path
        xattrs = {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False)
                  for name in os.listxattr(place, follow_symlinks=False)}  # fmt: skip
        size = status.st_size if kind == "f" else 0
        shown = member_link = b""
        if first != path:
            kind, shown, member_link, xattrs = "h", first, order.member_name(first, False), {}
        elif kind == "l":
            shown = member_link = os.readlink(place)
        elif kind in "cb":
            dev = os.major(status.st_rdev), os.minor(status.st_rdev)
            shown = b"%d,%d" % dev
        elif kind == "f":
            segments = [(0, size)] if size else []
            if status.st_blocks * 512 < size:
                segments = sparse = pax.align_segments(holes(place, size), size)
        begin = self.offset
        header = pax.member(
            order.member_name(path, kind == "d"), kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
            size if kind == "f" else 0, status.st_mtime_ns, member_link, dev, xattrs, sparse=sparse, **more,
        )  # fmt: skip
        content = b""
        if segments:
            with open(place, "rb") as stream:
                content = b"".join(os.pread(stream.fileno(), length, offset) for offset, length in segments)
        if kind == "f":
            digest = hashlib.sha256(content).digest()
        whole = header + content + pax.padding(len(content))
        if self.buffer and len(self.buffer) + len(whole) > FRAME:
            self._cut(0)
        self._put(whole)
        self.rows.append(
            index.Entry(path, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size,
                        status.st_mtime_ns, status.st_ctime_ns, status.st_ino, shown, digest, begin, len(whole),
                        "h" if sparse is not None else "")
        )  # fmt: skip


def holes(place, size):
    """The data segments of a file."""
    found, offset = [], 0
    with open(place, "rb") as stream:
        while offset < size:
            try:
                begin = os.lseek(stream.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(stream.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, offset - begin))
    return found


def blocks(path):
    """The command blocks of a RESTORE.txt in their order: check, everything, find, one file."""
    found, current = [], []
    for line in (path / layout.RESTORE).read_text("utf-8").splitlines() + [""]:
        if line.startswith("    "):
            current.append(line[4:])
        elif line.strip() == "" and current:
            found.append("\n".join(current) + "\n")
            current = []
    return found


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A PATH of nothing but what RESTORE.txt says is needed."""
    place = tmp_path_factory.mktemp("bin")
    for name in TOOLS:
        (place / name).symlink_to(shutil.which(name))
    return str(place)


@pytest.fixture
def run(tools):
    """Runs one block of the RESTORE.txt of a dump in its folder, as it stands there."""

    def run_block(path, number, **values):
        return subprocess.run(
            ["/bin/sh", "-c", blocks(path)[number]], cwd=path, env={"PATH": tools, **values}, capture_output=True,
            check=False,
        )  # fmt: skip

    return run_block


CHECK, EVERYTHING, FIND, ONE = range(4)


@pytest.fixture(scope="module")
def pair():
    return recipients.generate("operations", 3072)


@pytest.fixture(scope="module")
def rescue(tmp_path_factory):
    """A root with a shell, coreutils, grep, GNU tar, zstd, gzip and openssl, and nothing else: no Python."""
    root = tmp_path_factory.mktemp("rescue")
    for name in ("bin", "tmp", "dev", "srv", "root", "etc"):
        (root / name).mkdir()
    os.chmod(root / "tmp", 0o1777)
    needed = set()
    for name in TOOLS:
        program = shutil.which(name)
        shutil.copy(program, root / "bin" / name)
        for word in subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout.split():
            if word.startswith("/"):
                needed.add(word)
    for library in needed:
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    return root


KEYS = 1  # a sealed dump has one block more


@pytest.mark.parametrize("spec", ["zstd", "gzip", "none"])
@pytest.mark.parametrize("protected", ["key file", "passphrase alone"])
def test_a_sealed_chain_comes_back_in_a_root_without_python(tmp_path, rescue, pair, spec, protected):
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc" / "passwd").write_bytes(b"root:x:0:0\n")
    (source / "etc" / "big").write_bytes(os.urandom(1_500_000))
    (source / "etc" / "gone").write_bytes(b"gone")
    for number in range(30):
        (source / ("file %d" % number)).write_bytes(os.urandom(9001))
    store = rescue / "srv" / ("%s %s" % (spec, protected)).replace(" ", "-")
    store.mkdir()
    who = [recipients.generate("escrow", 3072).recipient]
    if protected == "key file":
        (rescue / "root" / "operations.pem").write_bytes(pair.protect_pem(b"two words"))
        who.append(pair.recipient)
    else:
        who.append(recipients.load_recipient(pair.recipient.public, "paper", pair.protect(b"two words")))
    dumper = Dumper(source, store, spec, recipients=who)
    dumper.dump(0)
    (source / "etc" / "passwd").write_bytes(b"root:x:0:0\nadded\n")
    (source / "etc" / "gone").unlink()
    path = dumper.dump(1)
    assert len(list(dumper.path.parent.glob("*/image-*.enc"))) > 2
    for file in store.rglob("*"):
        assert file.name in ("RESTORE.txt", "keys") or file.is_dir() or b"passwd" not in file.read_bytes()

    def paste(*numbers, expected=0, **values):
        # a terminal would be asked for the passphrase; here it comes the way that a test can give it
        key = "KEY=/root/operations.pem"
        if protected != "key file":
            key = "grep -h '^-' keys*.tsv | cut -f 4 | base64 -d > /root/key.der; KEY=/root/key.der"
        text = "".join(blocks(path)[number] for number in numbers)
        text = text.replace('openssl pkey -in "$KEY" -out', 'openssl pkey -passin pass:"two words" -in "$KEY" -out')
        (rescue / "root" / "pasted").write_text(key + "\n" + text)
        here = "/" + str(path.relative_to(rescue))
        done = subprocess.run(
            [shutil.which("chroot"), str(rescue), "/bin/sh", "-c", 'cd "$1" && . /root/pasted', "sh", here],
            env={"PATH": "/bin", **values}, capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == bool(expected), (done.stdout, done.stderr)
        assert not list((rescue / "tmp").iterdir())
        return done.stdout.decode() + done.stderr.decode()

    everything, find, one = 2, 3, 4
    assert "OK" in paste(CHECK)
    where = "/srv/to-%s" % store.name
    assert "restored to" in paste(KEYS, everything, DEST=where)
    assert same(source, rescue / where[1:]) == []
    assert "is not empty" in paste(KEYS, everything, DEST=where, expected=1)
    found = paste(KEYS, find, WORD="big")
    assert [line for line in found.splitlines() if line.startswith("etc/big\tf\t")]
    for number, name in enumerate(("etc/passwd", "etc/big", "file 17")):
        alone = "/srv/one-%s-%d" % (store.name, number)
        assert "restored" in paste(KEYS, one, DEST=alone, FILE=name)
        assert (rescue / alone[1:] / name).read_bytes() == (source / name).read_bytes()

    # frames of another place in the image are refused although their part is whole; and another key opens nothing
    full = next(store.glob("*-L0-*"))
    image = full / ("image-0000.tar" + layout.SUFFIXES[spec] + ".enc")
    data = image.read_bytes()
    image.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert "FAILED" in paste(KEYS, one, DEST="/srv/none", FILE="file 0", expected=1)
    assert "FAILED" in paste(KEYS, everything, DEST="/srv/none", expected=1)
    image.write_bytes(data)
    for keys in store.glob("*/keys.tsv"):
        kept = keys.read_bytes()
        spoiled = [line for line in kept.splitlines(True) if pair.recipient.fingerprint.encode() not in line]
        keys.write_bytes(b"".join(spoiled + [line for line in kept.splitlines(True) if line.startswith(b"-")]))
    assert "does not open" in paste(KEYS, everything, DEST="/srv/none", expected=1)
    assert not (rescue / "srv/none").exists() or not os.listdir(rescue / "srv/none")


def same(source, restored):
    """Nothing differs between two trees."""
    return tree.differences(tree.snapshot(source), tree.snapshot(restored))


@pytest.mark.parametrize("spec", ["zstd", "gzip", "none"])
def test_everything_of_each_level_comes_back(tmp_path, run, spec):
    source = tmp_path / "source"
    tree.make_hostile_tree(source)
    (tmp_path / "store").mkdir()
    dumper = Dumper(source, tmp_path / "store", spec)
    for level in range(3):
        if level:
            tree.change_hostile_tree(source, level)
        path = dumper.dump(level)
        destination = tmp_path / ("restored %d" % level)

        assert len(list(path.glob("image-*"))) > (level == 0) and len(dumper.frames) > 1
        checked = run(path, CHECK)
        assert checked.returncode == 0 and b"DAMAGED" not in checked.stdout and b"image-0000" in checked.stdout
        done = run(path, EVERYTHING, DEST=str(destination))
        assert done.returncode == 0, done.stderr
        assert same(source, destination) == []
        shutil.rmtree(destination)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(source, dumps): a full and an incremental of a tree with files in every place of a frame."""
    place = tmp_path_factory.mktemp("chain")
    source, store = place / "source", place / "store"
    (source / "a").mkdir(parents=True)
    for number in range(40):
        (source / "a" / ("file %d" % number)).write_bytes(os.urandom(7000))
    (source / "big").write_bytes(os.urandom(700_001))
    (source / "last").write_bytes(b"last")
    (source / "new\nline\\").write_bytes(b"odd")
    (source / "-").write_bytes(b"dash")
    (source / "gone").write_bytes(b"soon gone")
    tree.sparse(source / "sparse", 1 << 30, [(512 << 20, b"middle")])
    os.link(source / "big", source / "linked")
    os.mkfifo(source / "a" / "fifo")
    (source / "was folder" / "below").mkdir(parents=True)
    store.mkdir()
    dumper = Dumper(source, store, "zstd")
    full = dumper.dump(0)
    (source / "last").write_bytes(b"changed")
    (source / "gone").unlink()
    (source / "a" / "file 3").unlink()
    (source / "a" / "file 3").mkdir()
    shutil.rmtree(source / "was folder")
    (source / "was folder").write_bytes(b"now a file")
    return source, (full, dumper.dump(1))


@pytest.mark.parametrize(
    "name, written",
    [
        (name, name)
        for name in (
            "a/file 0",
            "a/file 17",
            "a/file 39",
            "big",
            "last",
            "sparse",
            "a/fifo",
            "a/file 3",
            "was folder",
            "-",
        )
    ]
    + [("new\nline\\", "new\\x0aline\\\\")],
)
def test_one_file_comes_back_alone(tmp_path, tmp_path_factory, run, chain, name, written):
    source, (_full, incremental) = chain
    written = "\\x2d" if name == "-" else written
    (tmp_path / "stays").write_text("stays")
    os.mkdir(tmp_path / "a")
    (tmp_path / "a" / "stays").write_text("stays")
    scratch = tmp_path_factory.mktemp("scratch")
    done = run(incremental, ONE, FILE=written, DEST=str(tmp_path), TMPDIR=str(scratch))

    assert done.returncode == 0, done.stderr
    assert os.listdir(scratch) == []
    expected, found = tree.snapshot(source)[name.encode()], tree.snapshot(tmp_path)
    expected.pop("links", None)  # big has another name, which was not asked for
    assert found[name.encode()] == expected
    assert sorted(set(found) - {b".", b"a", name.encode()}) == [b"a/stays", b"stays"]


def test_one_file_is_found_by_a_word(run, chain):
    found = run(chain[1][1], FIND, WORD="file 1").stdout.decode().splitlines()

    assert [line.split("\t")[0] for line in found if line.startswith("a/file 1")][:2] == ["a/file 1", "a/file 10"]


@pytest.mark.parametrize(
    "name, said", [("gone", "was gone"), ("nowhere", "in none of"), ("linked", "set FILE='big'"), ("ile 1", "in none")]
)
def test_one_file_that_is_not_there_is_said(tmp_path, run, chain, name, said):
    done = run(chain[1][1], ONE, FILE=name, DEST=str(tmp_path))

    assert done.returncode == 1 and said in done.stdout.decode()
    assert os.listdir(tmp_path) == []


def test_commands_stop_when_the_folder_is_not_empty(tmp_path, run, chain):
    (tmp_path / "precious").write_text("precious")
    done = run(chain[1][1], EVERYTHING, DEST=str(tmp_path))

    assert done.returncode != 0 and b"is not empty" in done.stdout
    assert os.listdir(tmp_path) == ["precious"]


@pytest.mark.parametrize("what", ["image-0000.tar.zst", "index.tsv.zst", "frames.tsv.zst"])
def test_damage_stops_the_commands_before_a_file_is_made(tmp_path, run, chain, what):
    copy = tmp_path / "store"
    shutil.copytree(chain[1][0].parent, copy)
    path = copy / chain[1][0].name
    data = bytearray((path / what).read_bytes())
    data[-20] ^= 1
    (path / what).write_bytes(data)
    for number, values in ((EVERYTHING, {}), (ONE, {"FILE": "big"})):
        if number == ONE and what.startswith("image"):
            data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
            (path / what).write_bytes(data)
        done = run(path, number, DEST=str(tmp_path / "to"), **values)

        assert done.returncode != 0 and b"FAILED" in done.stdout + done.stderr
        assert not (tmp_path / "to").exists() or not os.listdir(tmp_path / "to")
    assert b"DAMAGED" in run(path, CHECK).stdout


def test_a_missing_base_stops_the_commands(tmp_path, run, chain):
    shutil.copytree(chain[1][1], tmp_path / "store" / chain[1][1].name)
    done = run(tmp_path / "store" / chain[1][1].name, EVERYTHING, DEST=str(tmp_path / "to"))

    assert done.returncode != 0 and b"20261101T000000Z-L0-00000000" in done.stdout + done.stderr
    assert not (tmp_path / "to").exists()


def test_what_was_not_dumped_survives_an_incremental(tmp_path, run):
    """N rows: without them GNU tar deletes what was excluded, a socket, or what another dump put there."""
    source, store = tmp_path / "source", tmp_path / "store"
    source.mkdir()
    store.mkdir()
    (source / "kept").write_bytes(b"kept")
    (source / "cache").mkdir()
    (source / "cache" / "precious").write_bytes(b"precious")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    dumper = Dumper(source, store, "zstd", exclude=(b"cache",))
    full = dumper.dump(0)
    (source / "new").write_bytes(b"new")
    incremental = dumper.dump(1)
    restored = tmp_path / "restored"
    restored.mkdir()
    tar = ["tar", "-xpG", "--numeric-owner", "-C", str(restored), "-f", "-"]
    for path in (full, incremental):
        packed = b"".join(part.read_bytes() for part in sorted(path.glob("image-*")))
        subprocess.run(tar, input=b"".join(codec.get("zstd").unpack([packed])), check=True)
        if path is full:
            shutil.copytree(source / "cache", restored / "cache")
            os.mkfifo(restored / "socket")

    assert sorted(os.listdir(restored)) == ["cache", "kept", "new", "socket"]
    assert (restored / "cache" / "precious").read_bytes() == b"precious"


def test_the_commands_of_the_format_tell_what_the_server_signed(tmp_path, tools, chain):
    """docs/format.md, By hand, as it stands there."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text("utf-8")
    block = text[text.index("**Is it what the server signed?**") :].split("\n\n")[1]
    command = "".join(line[4:] + "\n" for line in block.splitlines())
    place = tmp_path / "bin"
    shutil.copytree(tools, place, symlinks=True)
    path = tmp_path / chain[1][0].name
    shutil.copytree(chain[1][0], path)

    def check(**values):
        return subprocess.run(["/bin/sh", "-c", command], cwd=path, env={"PATH": str(place), **values}, check=False)

    key = str(chain[1][0].parent / "keys" / "signing.pub")
    other = tmp_path / "other"
    Signer.make(other)
    assert check(PUB=key).returncode == 0
    assert check(PUB=str(other / "signing.pub")).returncode != 0
    for name in ("manifest.json", "SHA256SUMS", "RESTORE.txt", "image-0000.tar.zst", "manifest.sig"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        assert check(PUB=key).returncode != 0, name
        (path / name).write_bytes(data)
    assert check(PUB=key).returncode == 0


@pytest.mark.parametrize("compress", ["zstd:3", "gzip", "none"])
def test_real_dumps_come_back_at_each_level(tmp_path, run, compress):
    source = tmp_path / "source"
    tree.make_hostile_tree(source)
    lab = Lab(tmp_path)
    try:
        lab.client("web1", {"all": source}, policy=Policy("standard", compress=compress, part_size=3 << 20))
        for level in range(3):
            if level:
                tree.change_hostile_tree(source, level)
            results = lab.night(level)
            assert results["web1:all"].ok, results
            path = Path(lab.latest("web1", "all").holding)
            destination = tmp_path / ("restored %d" % level)

            checked = run(path, CHECK)
            assert checked.returncode == 0 and b"DAMAGED" not in checked.stdout
            done = run(path, EVERYTHING, DEST=str(destination))
            assert done.returncode == 0, done.stderr
            assert same(source, destination) == []
            shutil.rmtree(destination)
        assert len(list(Path(lab.catalog.chain(path.name)[0].holding).glob("image-*"))) > 1

        for name in (b"swap/edited", b"content/5242957", b"swap/becomes file/new \n inside", b"sparse/many holes"):
            one = tmp_path / "one"
            done = run(path, ONE, FILE=name.decode().replace("\n", "\\x0a"), DEST=str(one))
            assert done.returncode == 0, done.stderr
            before, found = tree.snapshot(source)[name], tree.snapshot(one)[name]
            assert found == before
            shutil.rmtree(one)
    finally:
        lab.catalog.close()
