"""Patterns: which paths of a source are dumped.

Here lives the matching of `exclude` and `include`, as in a .gitignore: a pattern without a slash means any name
at any depth; with a slash before or inside, it is anchored at the source's folder; a slash behind means folders
only; `*`, `?` and `[…]` stay within a name, `**` crosses folders. An excluded folder is not entered.
"""

from __future__ import annotations

import re
from typing import Iterable, List, Optional, Pattern, Tuple


def _one_name(pattern: str) -> str:
    """The regular expression of a pattern within one name."""
    text, place = "", 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            text += "[^/]*"
        elif char == "?":
            text += r"(?:[\xc0-\xf7][\x80-\xbf]+|[^/])"  # a letter of UTF-8 counts as one
        elif char == "\\" and place < len(pattern):
            text += re.escape(pattern[place])
            place += 1
        elif char == "[":
            end = place + (pattern[place : place + 1] in ("!", "^"))
            end = pattern.find("]", end + 1)
            if end < 0:
                text += re.escape(char)
                continue
            inner = pattern[place:end]
            if not inner.isascii():
                raise ValueError("%r: only ASCII letters within []" % pattern)
            negated = inner[0] in "!^"
            inner = re.sub(r"([\\\[&~|^])", r"\\\1", inner[1:] if negated else inner)
            text += "(?!/)[%s%s]" % ("^" if negated else "", inner)
            place = end + 1
        else:
            text += re.escape(char)
    return text


def check(pattern: str) -> str:
    """Returns pattern; raises ValueError with the reason when it cannot be one."""
    bare = pattern.rstrip("/")
    names = bare.lstrip("/").split("/")
    if not bare.strip("/") or "\0" in pattern:
        raise ValueError("%r matches nothing" % pattern)
    if pattern.startswith("!"):
        raise ValueError("%r: '!' is not supported; write \\! for a name that begins with it" % pattern)
    if "" in names or "." in names or ".." in names:
        raise ValueError("%r: '.', '..' and double slashes match nothing" % pattern)
    try:
        _expression(names)
    except re.error as error:
        raise ValueError("%r: %s" % (pattern, error)) from None
    return pattern


def _expression(names: List[str]) -> "Pattern[bytes]":
    """The regular expression of an anchored pattern given by its names, for a whole path."""
    text = ""
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == "**":
            text += ".+" if last else "(?:.*/)?"
        else:
            text += _one_name(name) + ("" if last else "/")
    return re.compile(text.encode("utf-8", "surrogateescape") + rb"\Z", re.DOTALL)


class Exclude:
    """The patterns of `exclude`, compiled. Matches on (path below the source, name, is a folder)."""

    def __init__(self, patterns: Iterable[str]):
        names: List[str] = []
        folder_names: List[str] = []
        self._anchored: List[Tuple["Pattern[bytes]", bool]] = []
        for pattern in patterns:
            check(pattern)
            bare = pattern.rstrip("/")
            only_folders = bare != pattern
            if "/" in bare:
                self._anchored.append((_expression(bare.lstrip("/").split("/")), only_folders))
            else:
                (folder_names if only_folders else names).append("(?:%s)" % _one_name(bare.replace("**", "*")))
        self._names = self._any(names)
        self._folder_names = self._any(folder_names)
        self.empty = not (names or folder_names or self._anchored)

    @staticmethod
    def _any(texts: List[str]) -> Optional["Pattern[bytes]"]:
        text = "(?:%s)" % "|".join(texts)
        return re.compile(text.encode("utf-8", "surrogateescape") + rb"\Z", re.DOTALL) if texts else None

    def matches(self, path: bytes, name: bytes, is_dir: bool) -> bool:
        """Whether the entry is excluded."""
        if self._names is not None and self._names.match(name):
            return True
        if is_dir and self._folder_names is not None and self._folder_names.match(name):
            return True
        for expression, only_folders in self._anchored:
            if (is_dir or not only_folders) and expression.match(path):
                return True
        return False


OUT, PARENT, IN = 0, 1, 2


class Include:
    """The patterns of `include`: only these anchored paths, what lies below them, and their parents."""

    def __init__(self, patterns: Iterable[str]):
        self._patterns: List[List[Optional["Pattern[bytes]"]]] = []
        for pattern in patterns:
            check(pattern)
            names = pattern.strip("/").split("/")
            self._patterns.append([None if name == "**" else _expression([name]) for name in names])
        self.empty = not self._patterns

    def matches(self, path: bytes, is_dir: bool) -> int:
        """IN: it and all below; PARENT: a folder on the way to something included; OUT."""
        names = path.split(b"/")
        best = OUT
        for pattern in self._patterns:
            found = self._one(pattern, names)
            if found == IN:
                return IN
            best = max(best, found)
        return best if is_dir else OUT

    @staticmethod
    def _one(pattern: List[Optional["Pattern[bytes]"]], names: List[bytes]) -> int:
        # all ways through a pattern with **: the set of places in it reached after each name
        places = {0}
        for name in names:
            reached = set()
            for place in places:
                while place < len(pattern) and pattern[place] is None:
                    reached.add(place)  # ** takes this name and stays
                    place += 1
                if place < len(pattern) and pattern[place].match(name):
                    reached.add(place + 1)
            if len(pattern) in reached:
                return IN
            places = reached
        if pattern[-1] is None and len(pattern) - 1 in places:
            return IN  # a/** means all below a
        return PARENT if places else OUT
