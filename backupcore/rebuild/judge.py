"""Whom to believe, and what contradicts what: the signers, the server, the order of each source's dumps.

Here live decisions over what a scan found; reading is scan.py, writing merge.py. A signature says who made a dump,
never that it is the newest: a place that shows an older state of itself shows right signatures. What contradicts
that (the catalog, another target, the last run that somebody remembers) is asked here, and what one place alone
cannot show is listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..errors import NothingThatOld, RequestError, StowageError
from .scan import FOREIGN, GOOD
from .spool import Row, Source, Spool

LEAST_SHORT = 16  # digits of a fingerprint that name a key
OK, NOTE, WARN, FAIL = "OK", "note", "WARN", "FAIL"


class Contradicted(StowageError):
    """A target shows an older state than somebody else can prove."""

    code = "contradicted"


@dataclass(frozen=True)
class Finding:
    """Something that a person should know. status: note, WARN or FAIL; source: `client:source`, or ''."""

    status: str
    source: str
    message: str
    hint: str = ""

    def as_dict(self) -> dict:
        """JSON-ready."""
        return {"status": self.status, "source": self.source, "message": self.message, "hint": self.hint}


def choose_signers(
    found: Mapping[str, Mapping[str, int]], known: Sequence[str], asked: Sequence[str], place: str, command: str
) -> List[str]:
    """The signers whose dumps are taken. found: fingerprint -> state -> count; known: those this server trusts;
    asked: what --signer names. command: what to type again. Raises RequestError.

    Who is asked for counts, and nobody else. Without that a server that knows a signer accepts no other; one that
    knows none takes the one that signed everything there.
    """
    told = ", ".join(f"{name} ({sum(states.values())} dumps)" for name, states in sorted(found.items()))
    if asked:
        chosen = []
        for word in asked:
            if not re.fullmatch(r"[0-9a-f]{%d,64}" % LEAST_SHORT, word):
                hint = f"write the {LEAST_SHORT} first or all 64 hex digits that stand in the key kit"
                raise RequestError(f"--signer {word[:80]!r} is no fingerprint", hint)
            fits = [name for name in found if name.startswith(word)]
            if len(fits) != 1:
                raise RequestError(f"no dump on {place} is signed by {word}; they are signed by {told or 'nobody'}",
                                   "compare with the key kit, and do not use what it does not name")  # fmt: skip
            if GOOD not in found[fits[0]]:
                raise RequestError(
                    f"the public key of {fits[0]} is neither here nor on {place}",
                    "give it from the key kit: --signer-key FILE",
                )
            chosen.append(fits[0])
        return chosen
    if known:
        chosen = [name for name in known if GOOD in found.get(name, {})]
        if not chosen and found:
            raise RequestError(
                f"no dump on {place} is signed by a key that this server trusts; they are signed by {told}",
                f"compare with the key kit; if it names that one: {command} --signer {sorted(found)[0]}",
            )
        return chosen
    if len(found) > 1:
        hint = f"take what stands in the key kit: {command} --signer FINGERPRINT"
        raise RequestError(f"the dumps on {place} are signed by {len(found)} keys: {told}", hint)
    for name, states in found.items():
        if FOREIGN in states:
            raise RequestError(
                f"the dumps on {place} are signed by {name}, whose public key is not there",
                f"give it from the key kit: {command} --signer-key FILE",
            )
    return list(found)


def choose_server(found: Mapping[str, int], mine: Optional[str], fresh: bool, asked: Optional[str], place: str) -> str:
    """The server id whose dumps are taken. mine: this server's, None when it has none; fresh: its catalog has no dump.
    Raises RequestError, NothingThatOld when there is no dump at all."""
    if not found:
        raise NothingThatOld(f"{place} holds no dump that can be taken", "is it the right place, and the right prefix?")
    told = ", ".join(f"{name} ({count} dumps)" for name, count in sorted(found.items()))
    if asked is not None and asked not in found:
        raise RequestError(f"no dump on {place} is of the server {asked}; there are {told}")
    if not fresh and mine is not None and mine not in ([asked] if asked else found):
        raise RequestError(
            f"the dumps on {place} are of another backup server, {told}; this is {mine}, and it has dumps of its own",
            "restore them with: stowage restore --from URL (docs/restore.md)",
        )
    if asked is not None:
        return asked
    if mine in found:
        return mine
    if len(found) > 1:
        raise RequestError(f"the dumps on {place} are of several backup servers: {told}", "choose one: --server ID")
    return next(iter(found))


def contradictions(
    spool: Spool, place: str, newest: Mapping[Source, Tuple[int, str]], by: str
) -> Dict[Source, Finding]:
    """The sources of which somebody else (by) knows a newer dump that place should have and has not."""
    here = spool.newest()
    found = {}
    for source, (counter, dump) in newest.items():
        have, newest_here = here.get(source, (0, "none"))
        if counter > have:
            name = f"{source[0]}:{source[1]}"
            found[source] = Finding(
                FAIL, name, f"{by} knows {dump}, number {counter}, and {place} has nothing newer than {newest_here}",
                "it lost dumps, or shows an older state of itself",
            )  # fmt: skip
    return found


def links(spool: Spool, place: str, elsewhere: Any) -> Iterator[Tuple[Row, List[Finding], bool]]:
    """Each of ours with what is wrong between it and the others, source by source, and whether it can no longer be
    restored as it was made. elsewhere(dump) -> digest of its manifest when the catalog knows it, else None."""
    before: Optional[Row] = None
    for row in spool.rows():
        found: List[Finding] = []
        if before is not None and before.of != row.of:
            before = None
        damaged = False
        if row.base is not None:
            base = _digest(spool, elsewhere, row.base)
            if base is None:
                told = f"{row.dump} cannot be restored: its base {row.base} is not there"
                found.append(Finding(WARN, row.name, told))
            elif base != row.base_sha256:
                damaged = True
                told = f"{row.dump} is not based on the {row.base} that is there, but on another of that name"
                found.append(Finding(FAIL, row.name, told, "somebody replaced a dump"))
        if row.previous is not None:
            previous = _digest(spool, elsewhere, row.previous)
            if previous is not None and previous != row.previous_sha256:
                told = f"{row.dump} does not follow the {row.previous} that is there, but another of that name"
                found.append(Finding(FAIL, row.name, told, "somebody replaced a dump"))
            elif previous is None and before is not None:
                told = f"{row.previous}, made before {row.dump}, is not on {place}"
                found.append(Finding(NOTE, row.name, told))
        elif before is not None and before.counter != row.counter:
            told = f"{row.dump}, number {row.counter}, says that none was made before it, but {before.dump} was"
            found.append(Finding(WARN, row.name, told, "was the server's catalog an older one for a while?"))
        if before is not None and row.begun_ns < before.begun_ns:
            found.append(Finding(NOTE, row.name, f"the clock went back between {before.dump} and {row.dump}"))
        if row.lacks:
            found.append(Finding(WARN, row.name, f"{row.dump} is not whole on {place}: {row.lacks}"))
        yield row, found, damaged
        before = row


def unmade(spool: Spool, place: str, elsewhere: Any) -> Iterator[Finding]:
    """What the signed records of runs say against the dumps that are there."""
    newest: Dict[Source, int] = {}
    for row in spool.rows():
        newest[row.of] = max(newest.get(row.of, 0), row.counter)
    behind: Dict[Source, Tuple[int, str, str]] = {}
    for source, dump, counter, sha256, run in spool.made():
        digest = _digest(spool, elsewhere, dump)
        if digest is not None and digest != sha256:
            told = f"{dump} is another dump than the run {run} made"
            yield Finding(FAIL, _named(source), told, "somebody replaced a dump")
        elif digest is None and counter > newest.get(source, 0):
            behind[source] = (behind.get(source, (0, "", ""))[0] + 1, dump, run)
    for source, (count, dump, run) in sorted(behind.items()):
        dumps = f"{count} newer dumps were" if count > 1 else "a newer dump was"
        told = f"{dumps} made than {place} has, the last {dump} by the run {run}"
        yield Finding(WARN, _named(source), told, "are they wanted there? then they are lost")


def _named(source: Source) -> str:
    client, name, segment = source
    return f"{client}:{name}" + (f".{segment}" if segment else "")


def _digest(spool: Spool, elsewhere: Any, dump: str) -> Optional[str]:
    row = spool.get(dump)
    return row.sha256 if row is not None else elsewhere(dump)
