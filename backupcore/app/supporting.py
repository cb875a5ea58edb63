"""One archive for whoever helps: what this server is, what it was told, what it did; no secret, no content, no key.

Here lives what goes in and what is left out. Each piece is made by itself: what cannot be had is said in its place, and
costs no more. What drivers call secret, what stands in the files that their options name, and what looks like a
password is taken out of every piece, wherever it came from. Names of clients, of sources and of files that failed stay:
without them it helps nobody.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import socket
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .. import __version__, clock, text
from ..errors import StowageError

RUNS, REPORTS, BUGS = 10, 3, 5
MOST = 4 << 20  # bytes of a piece; of a longer one its end is taken
LEFT_OUT = "(left out)"
LEAST = 5  # characters: what is shorter would be found in words
PRIVATE = 64 << 10  # bytes of a file that may hold secrets of a driver
_SECRET_KEY = re.compile(r"passw|secret|token|passphrase|api_?key|access_?key", re.IGNORECASE)
_SCRIPTS = ("before", "after")
_ARGUMENT = re.compile(r"(?:--[a-z][a-z-]*=?|-\w|/[\w./-]*)?(?:\{\w+\}[/-]?)*\Z", re.ASCII)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@\"']*:[^/\s@\"']*@")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Made:
    """The archive: its bytes, a name for it, its pieces, and what could not be had."""

    data: bytes
    name: str
    pieces: Tuple[str, ...]
    failed: Tuple[str, ...]


def make(engine: Any, lines: int, check: bool, wrong: Optional[StowageError] = None) -> Made:
    """The archive. engine: None where the configuration is wrong, and wrong is why. lines: of the journal."""
    asked: Dict[str, Callable[[], str]] = {
        "README.txt": lambda: _README, "versions.txt": _versions, "drivers.json": _drivers,
        "journal.txt": lambda: _journal(lines),
    }  # fmt: skip
    if engine is None:
        asked["configuration.txt"] = lambda: f"{wrong.message}\n" if wrong else ""
    else:
        asked.update({
            "configuration.yml": lambda: _configuration(engine), "runs.json": lambda: _runs(engine),
            "catalog.json": lambda: _catalog(engine), "disks.txt": lambda: _disks(engine),
            "status.json": lambda: _json(engine.status()), "audit.txt": lambda: _audit(engine),
            "bugs.txt": lambda: _bugs(engine.settings.state),
        })  # fmt: skip
        asked.update(_reports(engine))
        if check:
            asked["check.json"] = lambda: _check(engine)
    hidden = secrets_of(engine) if engine is not None else set()
    stamp = clock.stamp(clock.now_ns())
    name = f"stowage-support-{stamp}"
    failed: List[str] = []
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for piece, ask in asked.items():
            try:
                told = ask()
            except Exception as error:  # of a sick server: that is what this is for
                why = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
                told = f"this could not be had: {why}\n"
                failed.append(f"{piece}: {clean(text.escape(why), hidden)}")
            data = clean(told, hidden).encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"{name}/{piece}")
            data = data if len(data) <= MOST else b"(the beginning is left out)\n" + data[-MOST:]
            member.size, member.mode, member.mtime = len(data), 0o600, clock.now_ns() // clock.NS
            archive.addfile(member, io.BytesIO(data))
    return Made(out.getvalue(), f"{name}.tar.gz", tuple(asked), tuple(failed))


def clean(told: str, hidden: Iterable[str]) -> str:
    """told without secrets."""
    for one in sorted(hidden, key=len, reverse=True):
        told = told.replace(one, LEFT_OUT)
        quoted = json.dumps(one)[1:-1]
        if quoted != one:
            told = told.replace(quoted, LEFT_OUT)
    return _PEM.sub(LEFT_OUT, _USER_IN_URL.sub(f"{LEFT_OUT}@", told))


def secrets_of(engine: Any) -> Set[str]:
    """The values that must stand in no piece: of options that drivers call secret, and in files that options name."""
    found: Set[str] = set()
    settings = engine.settings
    for kind, sections in (("target", settings.targets), ("event", settings.events)):
        known = engine.drivers.of(kind)
        for section in sections.values():
            named = tuple(getattr(known.get(section.type), "secrets", ()))
            for key, value in dict(section.options).items():
                if value in (None, "", False):
                    continue
                if key in named or _SECRET_KEY.search(key) and not _is_path(value):
                    for one in _leaves(value):
                        found.update((one, *_address(one)))
                elif _is_path(value):
                    found.update(_inside(Path(str(value))))
    return {one for one in found if len(one) >= LEAST}


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and os.fspath(value).startswith("/")


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield str(getattr(value, "get_secret_value", lambda: value)())


def _address(value: str) -> Iterator[str]:
    """What of an address that is secret as a whole may turn up alone: long words of its path and its query."""
    if "://" in value:
        yield from (word for word in re.split(r"[/?&=#]", value.split("://", 1)[1])[1:] if len(word) >= 8)


def _inside(path: Path) -> Iterator[str]:
    """What such a file holds: values of its JSON, or its lines, also behind a colon or equals sign."""
    try:
        there = path.stat()
        if not stat.S_ISREG(there.st_mode) or there.st_size > PRIVATE:
            return
        told = path.read_text("utf-8", "surrogateescape")
    except OSError:
        return
    try:
        yield from _leaves(json.loads(told))
    except ValueError:
        for line in told.splitlines():
            yield line.strip()
            yield re.split(r"[:=]", line, maxsplit=1)[-1].strip().strip("\"'")


# the pieces

_README = """What a Stowage server tells of itself, made by `stowage support`.

In it: versions, the configuration, what `stowage check` finds, the last runs and reports, drivers, what the catalog
counts, sizes of disks, what the audit log shows, tracebacks of bugs, the journal of Stowage's units.
Not in it: secrets of drivers, what their files of credentials hold, keys, passphrases, scripts before and after dumps,
contents of any backup. Names and addresses of clients, names of sources, and of files that failed are in it.
Look through it before you give it away.
"""


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"


def _versions() -> str:
    lines = [f"stowage {__version__}", f"python {sys.version}", f"system {platform.platform()}",
             f"host {socket.gethostname()}", f"time {clock.iso(clock.now_ns())}", f"user {os.getuid()}"]  # fmt: skip
    lines += sorted(f"{one.metadata['Name']} {one.version}" for one in importlib.metadata.distributions())
    for command in (["ssh", "-V"], ["openssl", "version"], ["zstd", "--version"], ["systemctl", "--version"]):
        lines.append(f"{command[0]}: {_said(command).strip().splitlines()[0]}")
    return "\n".join([*lines, "", _read(Path("/etc/os-release"))])


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=30, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be asked: {getattr(error, 'strerror', None) or 'no answer in 30 s'}\n"
    return done.stdout.decode("utf-8", "backslashreplace") or f"said nothing, exit status {done.returncode}\n"


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(MOST).decode("utf-8", "backslashreplace")
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def _journal(lines: int) -> str:
    return _said(["journalctl", "--no-pager", "--quiet", "-o", "short-iso", "-n", str(lines), "-u", "stowage*"])


def _drivers() -> str:
    from . import drivers

    found = drivers.load()
    known = [{"kind": one.kind, "type": one.driver.type, "origin": one.origin} for one in found.loaded]
    return _json({"drivers": known, "broken": list(found.broken)})


def _configuration(engine: Any) -> str:
    import yaml

    from . import config_files

    content = config_files.read(engine.settings.file).content
    named = {
        section: {name: tuple(getattr(engine.drivers.of(kind).get(one.type), "secrets", ()))
                  for name, one in there.items()}
        for section, kind, there in (("targets", "target", engine.settings.targets),
                                     ("events", "event", engine.settings.events))
    }  # fmt: skip

    def bare(value: Any, place: Tuple[str, ...]) -> Any:
        key = place[-1] if place else ""
        secret = key in named.get(place[0], {}).get(place[1], ()) if len(place) == 3 else False
        script = key in _SCRIPTS and "copies" not in place
        if value is not None and (secret or script or _SECRET_KEY.search(key) and not _is_path(value)):
            return LEFT_OUT
        if isinstance(value, Mapping):
            return {str(name): bare(one, (*place, str(name))) for name, one in value.items()}
        if isinstance(value, list):
            if len(place) == 3 and place[0] == "targets":  # a program and its arguments
                value = [*value[:1], *map(_word, value[1:])]
            return [bare(one, place) for one in value]
        return value

    return f"# {engine.settings.file} with clients.d and targets.d\n" + yaml.safe_dump(
        bare(content, ()), sort_keys=False, allow_unicode=True
    )


def _word(value: Any) -> Any:
    """One of a program's arguments: its path, an option, what Stowage puts in. Anything else may be a password."""
    return value if not isinstance(value, str) or _ARGUMENT.match(value) else LEFT_OUT


def _check(engine: Any) -> str:
    from . import check

    found = check.check(engine)
    return _json({"status": found.status, "findings": [one.as_dict() for one in found.findings],
                  "ready": found.ready, "away": found.away})  # fmt: skip


def _runs(engine: Any) -> str:
    from . import listing

    found = listing.runs(engine, RUNS)
    for one in found:
        one["results"] = [{"client": row.client, "source": row.source, "ok": row.ok, "level": row.level,
                           "code": row.code, "message": text.escape(row.message), "seconds": row.seconds}
                          for row in engine.catalog.results(one["run"])]  # fmt: skip
    return _json(found)


def _reports(engine: Any) -> Dict[str, Callable[[], str]]:
    from ..report import text as report_text

    try:
        names = [row.id for row in engine.catalog.runs(limit=REPORTS, kind="run")]
    except StowageError:  # runs.json says why
        return {}
    return {f"report-{name}.txt": lambda name=name: report_text.render(engine.report(name)) + "\n" for name in names}


def _catalog(engine: Any) -> str:
    from collections import Counter

    from ..catalog import places

    file = places.catalog_file(engine.settings.state)
    dumps, copies = engine.catalog.dumps(), engine.catalog.copies()
    return _json({
        "file": str(file), "bytes": file.stat().st_size, "server": places.known_server_id(engine.settings.state),
        "dumps": len(dumps), "damaged": sum(one.damaged for one in dumps),
        "on_holding": sum(one.holding is not None for one in dumps), "levels": Counter(one.level for one in dumps),
        "stored_bytes": sum(one.stored_size for one in dumps), "entries": sum(one.entries for one in dumps),
        "copies": Counter(f"{one.target} {one.state}" for one in copies),
        "clients": len(engine.settings.clients), "sources": len(list(engine.settings.sources())),
    })  # fmt: skip


def _disks(engine: Any) -> str:
    lines = []
    for name, path in [("state", engine.settings.state), *(("holding", disk.path) for disk in engine.settings.holding)]:
        try:
            found = os.statvfs(path)
            free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
            lines.append(f"{name} {path}: {text.size(free)} of {text.size(size)} free, {found.f_ffree} inodes free")
        except OSError as error:
            lines.append(f"{name} {path}: {error.strerror}")
    for path in sorted(engine.settings.state.iterdir()):
        lines.append(f"  {path.name}: {text.size(_size(path))}")
    return "\n".join(lines) + "\n"


def _size(path: Path) -> int:
    total = path.lstat().st_size
    for folder, _folders, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # it went meanwhile
    return total


def _audit(engine: Any) -> str:
    from . import auditing

    found = auditing.verify(engine)
    return _json({"status": found.status, "entries": found.checked.entries, "missing": found.checked.missing,
                  "broken": vars(found.checked.broken) if found.checked.broken else None,
                  "torn": found.checked.torn, "strange": found.strange})  # fmt: skip


def _bugs(state: Path) -> str:
    folder = state / "bugs"
    paths = sorted(folder.glob("*.txt"))[-BUGS:] if folder.is_dir() else []
    return "\n".join(f"== {path.name}\n{_read(path)}" for path in paths) or "none\n"
