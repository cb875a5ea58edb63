"""Archives for tests of the extractor: a tree as our own archive, and one restore through a pair of pipes.

``pack(path)`` walks a tree in walk order and writes it with image.pax, by plain means and without the agent;
``restore(data, digests, …)`` runs the extractor on it as a server would have it run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct

from backupcore import wire
from backupcore.agent.extract import extract
from backupcore.image import dumpdir, pax

KINDS = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
}  # fmt: skip


def pack(path, names=False):
    """(archive, digests) of a tree; names: folders carry STOWAGE.names, for --exact."""
    found, digests, first = [], [], {}
    top = os.fsencode(os.fspath(path))

    def add(place, name):
        status = os.lstat(place)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        xattrs = {}
        for key in os.listxattr(place, follow_symlinks=False):
            xattrs[os.fsencode(key)] = os.getxattr(place, key, follow_symlinks=False)
        more = {"mtime_ns": status.st_mtime_ns, "xattrs": xattrs}
        content = b""
        if kind == "d":
            if names:
                below = os.scandir(place)
                more["names"] = dumpdir.build_of((one.name, "YD"[one.is_dir(follow_symlinks=False)]) for one in below)
        elif (status.st_dev, status.st_ino) in first:
            kind, more["link"], more["xattrs"] = "h", first[status.st_dev, status.st_ino], {}
        else:
            first[status.st_dev, status.st_ino] = name
            if kind == "l":
                more["link"] = os.readlink(place)
            elif kind in "cb":
                more["dev"] = os.major(status.st_rdev), os.minor(status.st_rdev)
            elif kind == "f":
                more["size"] = status.st_size
                segments = holes(place, status)
                with open(place, "rb") as stream:
                    if segments is None:
                        content = stream.read()
                    else:
                        more["sparse"] = pax.align_segments(segments, status.st_size)
                        for offset, length in more["sparse"]:
                            stream.seek(offset)
                            content += stream.read(length)
                if status.st_size:
                    digests.append(hashlib.sha256(content).digest())
        found.append(pax.member(name, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, **more))
        found.append(content + pax.padding(len(content)))

    def walk(place, name):
        add(place, name)
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                add(place + b"/" + entry.name, name + entry.name)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                walk(place + b"/" + entry.name, name + entry.name + b"/")

    walk(top, b"./")
    return b"".join(found) + pax.END, digests


def holes(place, status):
    """The data segments of a file with holes, else None."""
    if status.st_blocks * 512 >= status.st_size:
        return None
    segments, at = [], 0
    fd = os.open(place, os.O_RDONLY)
    try:
        while at < status.st_size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            segments.append((start, at - start))
    finally:
        os.close(fd)
    return segments


def messages(data, digests, cut=300000, codec=None, end=True):
    """The bytes that a server sends for an archive: digests, then pieces of about `cut` bytes; codec: as frames."""
    stream = io.BytesIO()
    channel = wire.Channel(io.BytesIO(), stream)
    if digests:
        channel.send(wire.EXPECT, *digests)
    for number, place in enumerate(range(0, len(data), cut)):
        piece = data[place : place + cut]
        if codec is None:
            channel.send(wire.ARCHIVE, piece)
        else:
            head = wire.FrameHead(0, number, place, len(piece), 0)
            channel.send(wire.FRAME, wire.pack_frame_head(head), codec.compress(piece))
    if end:
        channel.send(wire.END)
    return stream.getvalue()


def restore(sent, config, workers=0, **request):
    """Runs the extractor on what a server sends; (its last message, its notes). Errors come through."""
    out = io.BytesIO()
    request = {
        "request": "restore", "dump": "d", "name": "r", "destination": None, "permit": None, "existing": "refuse",
        "exact": False, "codec": "none", "prefix": "", **request,
    }  # fmt: skip
    extract(wire.Channel(io.BytesIO(sent), out), request, config, workers)
    done, notes = replies(out.getvalue())
    return done, notes


def replies(data):
    """(DONE, [NOTE, …]) of what the extractor sent."""
    notes, done, place = [], None, 0
    while place < len(data):
        kind, length = struct.unpack_from(">cI", data, place)
        payload = data[place + 5 : place + 5 + length]
        place += 5 + length
        if kind == wire.NOTE:
            notes.append(json.loads(payload))
        elif kind == wire.DONE:
            done = json.loads(payload)
    return done, notes
