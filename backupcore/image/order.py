"""Walk order: the one order of archive, index and state.

A folder, then its other entries sorted as unsigned bytes, then its sub-folders in that order, each with
its content. Here lives the sort key that makes it, and the two ways to write a path; nothing here walks.
"""

from __future__ import annotations

ROOT = b"."


def key(path: bytes, is_dir: bool) -> bytes:
    """Bytes whose plain order is the walk order; path as in the index: `.` or `a/b`.

    A folder's name is preceded by 0 1, any other last name by 0 0; names hold no 0, so nothing else can
    come between a folder and its content.
    """
    if path == ROOT:
        return b""
    if is_dir:
        return b"\0\1" + path.replace(b"/", b"\0\1")
    folder, slash, name = path.rpartition(b"/")
    return b"\0\1" + folder.replace(b"/", b"\0\1") + b"\0\0" + name if slash else b"\0\0" + name


def member_name(path: bytes, is_dir: bool) -> bytes:
    """The name in the archive of a path of the index: `./`, `./a/b`, folders with a slash behind."""
    if path == ROOT:
        return b"./"
    return b"./" + path + b"/" if is_dir else b"./" + path


def index_path(name: bytes) -> bytes:
    """The path in the index of a name of the archive, which must begin with `./`."""
    return name[2:].rstrip(b"/") or ROOT
