"""Trees for tests: a hostile one, changes to it, and whether two trees are the same in everything.

``snapshot(path)`` is everything a backup must bring back, ``differences(a, b)`` says in lines what is not the same,
``make_hostile_tree(path)`` makes what breaks backups, ``change_hostile_tree(path, step)`` changes it for incrementals.
Works without root too: then no owners, devices, capabilities. Nothing here imports the engine: a judge of its own.

By hand:  python tests/lab/tree.py make DIR | change DIR [STEP] | compare DIR DIR
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import struct
import sys

KINDS = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p",
    stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFSOCK: "s",
}  # fmt: skip
ACLS = {"system.posix_acl_access": "acl", "system.posix_acl_default": "default_acl"}
BIG = 64 << 20  # above it, contents are hashed by their blocks that are not zero: holes cost nothing
BLOCK = 4096
NS = 10**9


# ---------------------------------------------------------------- what is there


def snapshot(path, contents=True) -> dict:
    """Path below `path` (bytes, the root is b".") -> dict of everything that a restore must bring back.

    Keys: type, mode, uid, gid, size, mtime_ns, xattrs, acl, default_acl, caps, link, links (the other names of the same
    file in the tree), rdev, data (extents that are no holes), sha256. Never follows a link; any depth.
    """
    found, groups = {}, {}
    root = os.open(os.fspath(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found[b"."] = _look(root, None, os.fstat(root), contents)
        _walk(root, b"", found, groups, contents)
    finally:
        os.close(root)
    for names in groups.values():
        for name in names:
            found[name]["links"] = tuple(sorted(other for other in names if other != name))
    return found


def _walk(folder, prefix, found, groups, contents):
    for name in sorted(map(os.fsencode, os.listdir(folder))):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        path = prefix + name
        found[path] = _look(folder, name, status, contents)
        if stat.S_ISDIR(status.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                _walk(below, path + b"/", found, groups, contents)
            finally:
                os.close(below)
        elif status.st_nlink > 1:
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)


def _look(folder, name, status, contents):
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    row = {
        "type": kind,
        "mode": "%04o" % stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
    }
    place = "/proc/self/fd/%d" % folder if name is None else b"/proc/self/fd/%d/" % folder + name
    follow = name is None
    row.update(_attributes(place, follow))
    if kind == "l":
        row["link"] = os.readlink(name, dir_fd=folder)
    elif kind in "cb":
        row["rdev"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif kind == "f":
        row["size"] = status.st_size
        if contents:
            row["data"], row["sha256"] = _content(folder, name, status)
    return row


def _attributes(place, follow):
    row, xattrs = {}, {}
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError:
        names = []
    for name in names:
        try:
            value = os.getxattr(place, name, follow_symlinks=follow)
        except OSError:
            continue
        if name in ACLS:
            row[ACLS[name]] = tuple(sorted(struct.iter_unpack("<HHI", value[4:])))
        elif name == "security.capability":
            row["caps"] = value.hex()
        else:
            xattrs[name] = value
    row["xattrs"] = xattrs
    return row


def _content(folder, name, status):
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        extents, place = [], 0
        while place < status.st_size:
            try:
                begin = os.lseek(fd, place, os.SEEK_DATA)
            except OSError:
                break
            place = os.lseek(fd, begin, os.SEEK_HOLE)
            extents.append((begin, place))
        digest = hashlib.sha256()
        if status.st_size <= BIG:
            os.lseek(fd, 0, os.SEEK_SET)
            while True:
                data = os.read(fd, 1 << 20)
                if not data:
                    return tuple(extents), digest.hexdigest()
                digest.update(data)
        for begin, end in extents:
            for offset in range(begin - begin % BLOCK, end, BLOCK):
                block = os.pread(fd, BLOCK, offset)
                if block.strip(b"\0"):
                    digest.update(struct.pack(">Q", offset))
                    digest.update(block)
        return tuple(extents), "blocks:" + digest.hexdigest()
    finally:
        os.close(fd)


def differences(a, b, ignore=()) -> list:
    """Lines that say what differs between two snapshots; [] when nothing does. ignore: keys not to compare."""
    lines = []
    for path in sorted(set(a) | set(b)):
        if path not in b:
            lines.append("%r: only in the first (%s)" % (path, a[path]["type"]))
        elif path not in a:
            lines.append("%r: only in the second (%s)" % (path, b[path]["type"]))
        elif a[path] != b[path]:
            for key in sorted(set(a[path]) | set(b[path])):
                one, two = a[path].get(key), b[path].get(key)
                if one != two and key not in ignore:
                    lines.append("%r: %s %s, then %s" % (path, key, _short(one), _short(two)))
    return lines


def _short(value):
    text = repr(value)
    return text if len(text) < 200 else text[:150] + "… (%d)" % len(text)


# ---------------------------------------------------------------- a tree that breaks backups


def acl(entries) -> bytes:
    """The kernel's bytes of an ACL from (tag, permissions, id).

    Tags: 1 owner, 2 user, 4 group, 8 named group, 16 mask, 32 other.
    """
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL_ACCESS = acl(
    [(1, 6, NOBODY), (2, 4, 1234), (2, 6, 2500001), (4, 4, NOBODY), (8, 5, 77), (16, 6, NOBODY), (32, 0, NOBODY)]
)
ACL_DEFAULT = acl([(1, 7, NOBODY), (2, 5, 4321), (4, 5, NOBODY), (16, 7, NOBODY), (32, 1, NOBODY)])
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep

NAMES = [
    b"new\nline", b"tab\there", b" leading", b"trailing ", b"-rf", b"--checkpoint=1", b"back\\slash", b"\\n", b"\\x41",
    b"\xff\xfe\x80", b"latin-\xe9", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xf0\x9f\x92\xbe", b"quote'\"`$(x)", b"*",
    b"?[a]", b"-", b"...", b"..a", b".hidden", b"~", b"#hash", b"a=b", b"C:con", b"\x01\x7f\x1b[31m", b"percent%41",
    b"n" * 255,
    b"bidi\xe2\x80\xae",
]  # fmt: skip


def make_hostile_tree(path, seed=1) -> None:
    """Makes `path` (must not exist) with everything that breaks backups. The same seed makes the same contents.

    Folders: names, deep (a path beyond 1,000 bytes), order, modes, times, links, sparse, xattrs, special, owners,
    content, swap (what change_hostile_tree works on).
    """
    dice = random.Random(seed)
    root = os.geteuid() == 0
    top = os.path.abspath(os.fsencode(os.fspath(path)))
    os.mkdir(top, 0o755)

    def place(*parts):
        return os.path.join(top, *parts)

    def folder(*parts):
        os.makedirs(place(*parts))
        return place(*parts)

    def file(*parts, data=None, mode=0o644):
        write(place(*parts), noise(dice, dice.randrange(0, 3000)) if data is None else data)
        os.chmod(place(*parts), mode)
        return place(*parts)

    folder(b"names")
    for name in NAMES:
        file(b"names", name)
    for name in (b"dir\nnew", b"\xfe dir", b"d" * 255):
        folder(b"names", name)
        file(b"names", name, b"inside \xff")
    deep = [b"deep"] + [b"%02d-" % n + b"x" * 120 for n in range(11)]  # some 1,370 bytes
    folder(*deep)
    file(*deep, b"bottom \n of it")
    os.symlink(b"t" * 1200, place(*deep, b"long link"))
    folder(b"empty folder")

    # the walk order of the format is not the order of whole paths
    for name in (b"a", b"a/x", b"a/x/z", b"a.d", b"a-b.d", b"a b", b"a0"):
        folder(b"order", name)
        file(b"order", name, b"f")
    file(b"order", b"a-b")
    file(b"order", b"zz")

    folder(b"modes")
    for mode in (0o0, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        file(b"modes", b"%04o" % mode, mode=mode)
    for mode in (0o755, 0o1777, 0o2775, 0o700, 0o555) + ((0o0,) if root else ()):
        file(b"modes", folder(b"modes", b"d%04o" % mode), b"inside")
        os.chmod(place(b"modes", b"d%04o" % mode), mode)

    folder(b"content")
    file(b"content", b"empty", data=b"")
    for size in (1, 511, 512, 513, 4096, 1 << 20, (1 << 20) + 1, (5 << 20) + 77):
        file(b"content", b"%d" % size, data=noise(dice, size))
    file(b"content", b"zeros", data=bytes(300000))
    file(b"content", b"text", data=b"the same line\n" * 20000)
    for n in range(12):
        folder(b"content", b"many %d" % n)
        for m in range(12):
            file(b"content", b"many %d" % n, b"file %d" % m)

    folder(b"links", b"one", b"two")
    folder(b"links", b"other")
    file(b"links", b"one", b"first")
    for name in (b"links/other/second", b"links/one/two/third", b"links/last"):
        os.link(place(b"links", b"one", b"first"), place(name))
    file(b"links", b"zz first in a folder behind", data=b"")
    os.link(place(b"links", b"zz first in a folder behind"), place(b"links", b"other", b"empty and linked"))
    for name, target in (
        (b"dangling", b"nowhere"), (b"absolute", b"/etc/passwd"), (b"up", b"../../../../../../etc"),
        (b"to folder", b"other"), (b"raw", b"\xff\n\\"), (b"self", b"self"), (b"dot", b"."),
    ):  # fmt: skip
        os.symlink(target, place(b"links", name))
    os.link(place(b"links", b"dangling"), place(b"links", b"other", b"hard link to a link"), follow_symlinks=False)

    folder(b"sparse")
    sparse(place(b"sparse", b"nine gigabytes"), 9 << 30, [(0, b"begin"), (5 << 30, b"middle"), ((9 << 30) - 3, b"end")])
    sparse(place(b"sparse", b"only a hole"), 1 << 20, [])
    sparse(place(b"sparse", b"hole at the end"), 3 << 20, [(0, b"x" * 5000)])
    sparse(place(b"sparse", b"hole at the beginning"), (3 << 20) + 5, [((3 << 20) - 1000, b"y" * 1005)])
    sparse(place(b"sparse", b"many holes"), 40 << 16, [(n << 16, b"%d" % n * 900) for n in range(0, 40, 2)])

    folder(b"xattrs")
    file(b"xattrs", b"user")
    xattr(place(b"xattrs", b"user"), "user.empty", b"")
    xattr(place(b"xattrs", b"user"), "user.binary", bytes(range(256)))
    xattr(place(b"xattrs", b"user"), "user.text = 10 x", b"value=1\n23 a=b\n")
    xattr(place(b"xattrs", b"user"), "user.percent%3D", b"percent")
    file(b"xattrs", b"long")
    xattr(place(b"xattrs", b"long"), "user.long", b"v" * 3000)
    xattr(folder(b"xattrs", b"folder"), "user.on folder", b"yes")
    xattr(file(b"xattrs", b"acl", mode=0o640), "system.posix_acl_access", ACL_ACCESS)
    xattr(folder(b"xattrs", b"acl folder"), "system.posix_acl_default", ACL_DEFAULT)
    file(b"xattrs", b"acl folder", b"inherits")
    folder(b"xattrs", b"acl folder", b"sub")

    os.mkdir(place(b"special"))
    os.mkfifo(place(b"special", b"fifo"), 0o620)
    if root:
        os.mknod(place(b"special", b"null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(place(b"special", b"big numbers"), 0o600 | stat.S_IFBLK, os.makedev(259, 70000))
        xattr(file(b"special", b"capability", mode=0o755), "security.capability", CAPABILITY)
        xattr(file(b"special", b"trusted"), "trusted.mine", b"\0\1")
        os.chown(file(b"special", b"capability of another", mode=0o755), 2500003, 2500004)
        xattr(place(b"special", b"capability of another"), "security.capability", CAPABILITY)
        folder(b"owners")
        for uid, gid in ((1000, 1000), (2500001, 2500002), (4294967294, 4294967294), (65534, 0), (2097151, 2097152)):
            os.chown(file(b"owners", b"%d" % uid), uid, gid)
        os.chown(file(b"owners", b"setuid of another"), 2500001, 50)
        os.chmod(place(b"owners", b"setuid of another"), 0o6755)
        os.chown(folder(b"owners", b"folder of another"), 3000000, 3000001)
        os.symlink(b"x", place(b"owners", b"link of another"))
        os.lchown(place(b"owners", b"link of another"), 2222222, 3333333)

    folder(b"swap")
    file(b"swap", b"becomes folder")
    for name in (b"becomes file", b"becomes link", b"gone", b"renamed", b"moved"):
        folder(b"swap", name, b"deep", b"deeper")
        file(b"swap", name, b"file")
        file(b"swap", name, b"deep", b"deeper", b"file")
    for name in (b"edited", b"grown", b"cut", b"gone file", b"renamed file", b"mode", b"becomes a link", b"quiet edit"):
        file(b"swap", name, data=noise(dice, 5000))
    os.symlink(b"edited", place(b"swap", b"link changes"))
    os.symlink(b"edited", place(b"swap", b"link becomes file"))
    file(b"swap", b"linked 1")
    os.link(place(b"swap", b"linked 1"), place(b"swap", b"linked 2"))
    file(b"swap", b"alone")

    # times last, from the bottom up, so that nothing made later changes them
    folder(b"times", b"old folder")
    moments = [
        ("1969", -1, 500000001), ("1960", -315619200, 999999999), ("1902", -2145916800, 1), ("zero", 0, 0),
        ("half", 0, 500000000), ("minus one ns", -1, 999999999), ("2038", 2147483648, 7),
        ("2106", 4294967296, 123456789), ("2200", 7258118400, 987654321), ("now", 1763800000, 100),
        ("whole", 1500000000, 0),
    ]  # fmt: skip
    for name, seconds, ns in moments:
        file(b"times", name.encode())
        when(place(b"times", name.encode()), seconds * NS + ns)
    os.symlink(b"gone", place(b"times", b"old link"))
    when(place(b"times", b"old link"), -1234567 * NS + 89)
    folders = {b"times/old folder": -5 * NS + 1, b"modes": 5 * 10**18 + 3, b"xattrs/acl folder": 7 * NS, b"deep": 11}
    for name, ns in folders.items():
        when(place(name), ns)
    when(place(*deep), -987654321 * NS + 123456789)
    when(top, 1234567890 * NS + 987654321)


def change_hostile_tree(path, step=1) -> None:
    """Changes what make_hostile_tree made, for two incrementals: step 1, then step 2, which turns back some of it."""
    top = os.path.abspath(os.fsencode(os.fspath(path)))

    def place(*parts):
        return os.path.join(top, b"swap", *parts)

    def fresh(name):
        os.mkdir(place(name))
        write(place(name, b"new \n inside"), b"step %d" % step)

    names = (b"becomes folder", b"becomes file")
    to_folder, to_file = names if step % 2 else reversed(names)
    os.unlink(place(to_folder))
    fresh(to_folder)
    shutil.rmtree(place(to_file))
    write(place(to_file), b"I was a folder, step %d" % step)
    quiet_edit(place(b"quiet edit"))
    with open(place(b"edited"), "r+b") as stream:
        stream.seek(1000)
        stream.write(b"edited in place %d" % step)
    with open(place(b"grown"), "ab") as stream:
        stream.write(b"more" * 50 * step)
    write(place(b"new %d \xfd" % step), b"new")
    xattr(top + b"/xattrs/user", "user.step", b"%d" % step)  # only the ctime tells
    os.chmod(place(b"mode"), 0o600 if step % 2 else 0o6755)
    os.unlink(place(b"link changes"))
    os.symlink(b"target of step %d" % step, place(b"link changes"))
    if step % 2:
        shutil.rmtree(place(b"becomes link"))
        os.symlink(b"edited", place(b"becomes link"))
        shutil.rmtree(place(b"gone"))
        os.unlink(place(b"gone file"))
        os.rename(place(b"renamed"), place(b"a new name"))  # what lies below keeps its ctimes
        os.rename(place(b"moved"), place(b"a new name", b"moved"))
        os.rename(place(b"renamed file"), place(b"a new name", b"renamed file"))
        os.truncate(place(b"cut"), 1234)
        os.unlink(place(b"link becomes file"))
        write(place(b"link becomes file"), b"a file now")
        os.unlink(place(b"becomes a link"))
        os.symlink(b"alone", place(b"becomes a link"))
        os.unlink(place(b"linked 2"))
        os.link(place(b"alone"), place(b"linked to alone"))
        os.unlink(top + b"/links/one/first")  # the name that held the content
        os.rmdir(top + b"/empty folder")
        write(top + b"/content/empty", b"no longer")
    else:
        os.unlink(place(b"becomes link"))
        fresh(b"becomes link")
        os.rename(place(b"a new name"), place(b"renamed"))
        os.unlink(place(b"link becomes file"))
        os.symlink(b"a link again", place(b"link becomes file"))
        fresh(b"gone")  # the same name again, other content
        write(place(b"gone file"), b"back")
        os.link(place(b"linked 1"), place(b"linked 2"))
        write(top + b"/empty folder", b"now a file")
        os.truncate(top + b"/content/empty", 0)
        os.rename(top + b"/names/new\nline", top + b"/names/another\nline")
    for name, ns in ((b"", -777 * NS + step), (b"becomes file", 10**18 + step), (b"becomes folder", -(10**17) + step)):
        when(place(name) if name else top + b"/swap", ns)


def quiet_edit(path) -> None:
    """Turns a byte of a file around and leaves size and mtime as they were: only the ctime tells."""
    status = os.stat(path)
    with open(path, "r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 255]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def noise(dice, count) -> bytes:
    """Random bytes; Python 3.8 has no randbytes."""
    return dice.getrandbits(8 * count).to_bytes(count, "little") if count else b""


def write(path, data) -> None:
    """A file with data."""
    with open(path, "wb") as stream:
        stream.write(data)


def when(path, ns) -> None:
    """Sets the time of what path names, a link itself."""
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def xattr(path, name, value) -> None:
    """Sets an extended attribute where file system and rights allow; a tree without it is still a test."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError:
        if os.geteuid() == 0 and not name.startswith("trusted."):
            raise


def sparse(path, size, pieces) -> None:
    """A file of `size` bytes with holes everywhere but at the pieces (offset, bytes)."""
    with open(path, "wb") as stream:
        for offset, data in pieces:
            stream.seek(offset)
            stream.write(data)
        stream.truncate(size)


def main(arguments) -> int:
    """make DIR | change DIR [STEP] | compare DIR DIR."""
    verb, path = arguments[0], arguments[1]
    if verb == "make":
        make_hostile_tree(path)
    elif verb == "change":
        change_hostile_tree(path, int(arguments[2]) if len(arguments) > 2 else 1)
    else:
        lines = differences(snapshot(path), snapshot(arguments[2]))
        sys.stdout.write("".join(line + "\n" for line in lines) or "the same\n")
        return 1 if lines else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
