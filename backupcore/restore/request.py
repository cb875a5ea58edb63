"""What a person asks for: words of the command line in, Wanted records out.

Here live the reading of `CLIENT:/PATH…` and `CLIENT SOURCE [PATH…]`, globs, and the choice of the sources that bring
a path. Which dumps show them is moments.py's affair; whether a path was there is known only from an index (view.py).

A path names an entry and all below it. `*`, `?` and `[…]` do not cross a slash, `**` does; a backslash takes a
sign's meaning away; a path that is there as it is written wins over its meaning as a glob.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Iterable, Sequence

from .. import clock, ids, text
from ..catalog.records import DumpRow
from ..errors import NothingThatOld, RequestError
from ..settings import Settings
from . import moments
from .lastcopy import is_last
from .recent import notes as interim_notes
from .report import path_word

ROOT = b"."


@dataclass(frozen=True)
class Pattern:
    """One path that was asked for, of one source. text: absolute, as asked for.

    literal: the path in the index, None when it lies above the source or can only be a glob. base: the path in the
    index below which everything lies that can match. glob: matches absolute paths, None when there is no sign of one.
    """

    text: bytes
    literal: bytes | None
    base: bytes
    glob: re.Pattern | None = None


@dataclass(frozen=True)
class Wanted:
    """What to restore of one source: root is its absolute path, chain its dumps, the full first.

    without: paths in the index that another source of the same request brings. notes: what is left out, and why.
    shares: of a source in segments, whose dumps are which of chain.
    """

    client: str
    source: str
    root: bytes
    chain: tuple[DumpRow, ...]
    patterns: tuple[Pattern, ...]
    moment_ns: int
    without: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()
    shares: tuple[Any, ...] = ()

    @property
    def dump(self) -> DumpRow:
        """The newest dump of the chain, whose moment it is."""
        return self.chain[-1]

    @property
    def whole(self) -> bool:
        """Whether everything of the source is wanted."""
        return not self.without and any(pattern.literal == ROOT for pattern in self.patterns)

    def absolute(self, path: bytes) -> bytes:
        """The path on the client of a path in the index."""
        return self.root if path == ROOT else self.root.rstrip(b"/") + b"/" + path


def resolve(
    settings: Settings, catalog: Any, words: Sequence[str], at_ns: int | None = None, only: str | None = None,
    last: bool = False, named: DumpRow | None = None,
) -> list[Wanted]:  # fmt: skip
    """What words ask for, as of at_ns (None: now), from what is readable (only: at one place).

    last: damaged copies at that place, too, of dumps that are good nowhere: lastcopy.LastImages reads them. named: the
    dump that names the moment: its source is shown by it, or not at all.

    Raises RequestError for what is unknown and NothingThatOld where the request is right, but no dump is as old.
    """
    if named is not None:
        at_ns = named.begun_ns
    client, source, paths = parse_words(words)
    rows = catalog.dumps(client=client)
    if not rows and client not in settings.clients:
        raise unknown("client", client, set(settings.clients) | {row.client for row in catalog.dumps()})
    moment = clock.now_ns() if at_ns is None else at_ns
    asked = moments.Moment(catalog, moment, only, last, named)
    known = moments.sources(settings, client, rows, asked)
    if not known:
        raise NothingThatOld(f"{client} has no source and no dump", f"stowage run --client {client}", client=client)
    absent: list[moments.Known] = []
    if source is not None:
        if source not in known:
            raise unknown(f"source of {client}", source, known)
        one = known[source]
        chosen = {source: [_pattern(path, one.root) for path in paths or [one.root]]}
        known[source] = moments.narrowed(one, bases_of(chosen[source]), asked)
    else:
        chosen = _by_path(client, known, paths, absent, asked)
    found = []
    for name in sorted(chosen, key=lambda name: known[name].root):
        one = known[name]
        if named is not None and (named.client, named.source) == (client, name):
            bases = bases_of(chosen[name])
            shown = [f"{client} {name}"] if bases is None else [path_word(client, each.text) for each in chosen[name]]
            moments.check_named(client, one, bases, " ".join(shown), asked)
        if not one.chain:
            raise moments.none_that_old(client, one, moment, at_ns is not None, only)
        without = ()
        if source is None:
            inner = {_relative(known[other].root, one.root) for other in chosen if other != name}
            without = tuple(sorted(path for path in inner if path is not None and path != ROOT))
        patterns = tuple(dict.fromkeys(chosen[name]))
        found.append(Wanted(client, name, one.root, one.chain, patterns, moment, without, shares=one.shares))
    notes = [moments.none_that_old(client, one, moment, at_ns is not None, only).message for one in absent]
    notes += [moments.older(client, known[one.source], one.dump, only) for one in found if known[one.source].passed]
    notes += [
        f"{one.client}:{one.source}: the last copy of {dump.id}, on {only}, is damaged: what is right of it is read"
        for one in found for dump in one.chain if last and is_last(dump, catalog.copies(dump=dump.id), only)
    ]  # fmt: skip
    notes += interim_notes(catalog, ((one.client, one.source, one.chain) for one in found))
    return [replace(found[0], notes=tuple(notes)), *found[1:]]


def parse_words(words: Sequence[str]) -> tuple[str, str | None, list[bytes]]:
    """(client, source or None, paths). With a source a path may be relative to it. Raises RequestError."""
    usage = "stowage restore CLIENT:/PATH…   or   stowage restore CLIENT SOURCE [PATH…]"
    if not words:
        raise RequestError("nothing to restore was named", usage)
    first = re.match(r"([^/:]*):(.*)\Z", words[0], re.DOTALL)
    if first is None:
        if len(words) < 2 or words[1].startswith("/"):
            hint = f"stowage restore {text.escape(words[0])}:/" if len(words) < 2 else usage
            raise RequestError(f"{text.escape(words[0])!r} is no CLIENT:/PATH", hint)
        client = ids.check_name(words[0], "client")
        return client, ids.check_name(words[1], "source"), [_clean(word, False) for word in words[2:]]
    client = ids.check_name(first.group(1), "client")
    paths = []
    for word in words:
        match = re.match(r"([^/:]*):(.*)\Z", word, re.DOTALL)
        if match and match.group(1) != client:
            raise RequestError(
                f"{client} and {text.escape(match.group(1))} in one restore", "restore one client at a time"
            )
        paths.append(_clean(match.group(2) if match else word, True))
    return client, None, paths


def _clean(word: str, absolute: bool) -> bytes:
    data = os.fsencode(word)
    shown = text.escape(data)
    if absolute and not data.startswith(b"/"):
        raise RequestError(f"{shown!r} is no absolute path", "write CLIENT:/PATH with the path as it is on the client")
    if b"\0" in data:
        raise RequestError(f"{shown!r} cannot be a path")
    parts = [part for part in data.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise RequestError(f"{shown!r} holds '..'", "write the path without it")
    return (b"/" if data.startswith(b"/") else b"") + b"/".join(parts)


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is none of known, with the nearest one."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    listed = ", ".join(sorted(known)[:8])
    return RequestError(
        f"unknown {what} {text.escape(name)!r}" + (f", did you mean {near[0]!r}" if near else ""),
        f"known: {listed}" if listed else "stowage list dumps",
    )


def _by_path(
    client: str, known: dict[str, moments.Known], paths: Sequence[bytes], absent: list[moments.Known],
    asked: moments.Moment,
) -> dict[str, list[Pattern]]:  # fmt: skip
    """The sources that bring paths: for each the one with the longest prefix, and all that lie below it.

    known: the chosen ones become those of their paths. absent: gets those below it that have no dump of the moment.
    """
    chosen: dict[str, list[Pattern]] = {}
    for path in paths:
        base = _literal_base(path)
        here = {
            name: moments.narrowed(one, bases_of([_pattern(path, one.root)]), asked)
            for name, one in known.items()
            if _relative(base, one.root) is not None or _relative(one.root, base) is not None
        }
        above = [one for one in here.values() if _relative(base, one.root) is not None]
        above.sort(key=lambda one: (bool(one.chain), one.alive, len(one.root)))
        best = above[-1:]
        below = [
            one for one in here.values()
            if one not in best and one.alive and one.chain and _relative(one.root, base) not in (None, ROOT)
        ]  # fmt: skip
        absent += [
            one for one in here.values()
            if one not in absent and one.alive and not one.chain and _relative(one.root, base) is not None
        ]  # fmt: skip
        if not best and not below:
            # none has a dump: name one, so that the error says why
            below = [one for one in here.values() if _relative(one.root, base) is not None][:1]
        if not best and not below:
            listed = ", ".join(f"{one.name} {text.escape(one.root)}" for one in known.values())
            raise RequestError(
                f"no source of {client} covers {text.escape(path)}", f"sources of {client}: {listed}", client=client
            )
        for one in best + below:
            chosen.setdefault(one.name, []).append(_pattern(path, one.root))
    for name, patterns in chosen.items():
        known[name] = moments.narrowed(known[name], bases_of(patterns), asked)
    return chosen


def bases_of(patterns: Iterable[Pattern]) -> list[bytes] | None:
    """Below which paths of the index everything lies that patterns can match; None for everywhere."""
    found = []
    for pattern in patterns:
        found.append(pattern.base)
        if pattern.literal is not None:
            found.append(pattern.literal)
    return None if ROOT in found else found


def inside(path: bytes, folders: frozenset[bytes]) -> bool:
    """Whether path is one of folders or below one."""
    while path:
        if path in folders:
            return True
        path = path.rpartition(b"/")[0]
    return False


def _relative(path: bytes, root: bytes) -> bytes | None:
    """The path in the index of an absolute path below root; None when it is not below."""
    if path == root:
        return ROOT
    stem = root.rstrip(b"/") + b"/"
    return path[len(stem) :] if path.startswith(stem) else None


def _literal_base(path: bytes) -> bytes:
    """The folder below which everything lies that an absolute path, read as a glob or not, can mean."""
    parts = []
    for part in path.split(b"/")[1:]:
        if re.search(rb"[*?\[\\]", part):
            break
        parts.append(part)
    return b"/" + b"/".join(parts)


def _pattern(path: bytes, root: bytes) -> Pattern:
    """A path, absolute or relative to root, as a pattern of the source at root."""
    if not path.startswith(b"/"):
        path = root.rstrip(b"/") + b"/" + path if path else root
    literal = ROOT if _relative(root, path) is not None else _relative(path, root)
    glob = glob_regex(path) if re.search(rb"[*?\[\\]", path) else None
    base = literal
    if glob is not None:
        below = _literal_base(path)
        base = ROOT if _relative(root, below) is not None else _relative(below, root)
    if base is None:
        raise RequestError(
            f"{text.escape(path)} is not below {text.escape(root)}", "name paths of this source, or use CLIENT:/PATH"
        )
    return Pattern(path, literal, base, glob)


def parse_pattern(word: str) -> tuple[str | None, bytes]:
    """(client or None, path or part of one) of a pattern of find."""
    match = re.match(r"([^/:]*):(/.*)\Z", word, re.DOTALL)
    if match:
        return ids.check_name(match.group(1), "client"), _clean(match.group(2), True)
    return None, _clean(word, False)


def glob_regex(pattern: bytes, below: bool = True) -> re.Pattern:
    """A glob of whole paths as a regular expression; below: it also matches everything below what it names."""
    out, at = [], 0
    while at < len(pattern):
        sign = pattern[at : at + 1]
        at += 1
        if pattern.startswith(b"**/", at - 1) and (at == 1 or pattern[at - 2 : at - 1] == b"/"):
            out.append(rb"(?:.*/)?")
            at += 2
        elif sign == b"*":
            deep = pattern[at : at + 1] == b"*"
            at += deep
            out.append(rb".*" if deep else rb"[^/]*")
        elif sign == b"?":
            out.append(rb"[^/]")
        elif sign == b"[" and b"]" in pattern[at + 1 :]:
            end = pattern.index(b"]", at + 1)
            inside = pattern[at:end]
            negated = inside[:1] in (b"!", b"^")
            body = re.sub(rb"([\\\[\]^&~|])", rb"\\\1", inside[negated:])
            out.append(rb"(?!/)[" + (b"^" if negated else b"") + body + b"]")
            at = end + 1
        elif sign == b"\\" and at < len(pattern):
            out.append(re.escape(pattern[at : at + 1]))
            at += 1
        else:
            out.append(re.escape(sign))
    try:
        return re.compile(b"(?:" + b"".join(out) + (rb")(?:/.*)?\Z" if below else rb")\Z"), re.DOTALL)
    except re.error:
        raise RequestError(f"{text.escape(pattern)!r} is no glob", "check what stands in [ ]") from None
