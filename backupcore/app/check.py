"""`check`: everything a night needs, looked at before the night; and what no source covers.

Here live the whole and the questions about the server. Clients and targets are asked at the same time, each for itself:
check_client.py, check_targets.py. Nothing changes a client, and a target only by the small files of its own probe.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Sequence, Tuple

from .. import text
from ..errors import StowageError
from ..settings import Client
from . import check_client, check_copies, check_events, check_targets, coverage
from .engine import Engine
from .found import FAIL, OK, SITE, WARN, Finding

RANK = {FAIL: 0, WARN: 1, OK: 2}
AT_ONCE = 16


@dataclass(frozen=True)
class CheckAnswer:
    """All findings, the worst first. ready: clients whose agent answered and whose sources are all there."""

    findings: Tuple[Finding, ...]
    ready: Tuple[str, ...]
    asked: Tuple[str, ...]
    away: Tuple[str, ...]
    bare: Tuple[coverage.Bare, ...] = field(default=())

    @property
    def status(self) -> str:
        """The worst of all."""
        return min((one.status for one in self.findings), key=RANK.__getitem__, default=OK)


def check(engine: Engine, clients: Sequence[str] = ()) -> CheckAnswer:
    """Asks everything (clients: only these, and no targets)."""
    settings = engine.settings
    chosen = [engine.client(name) for name in clients] or list(settings.clients.values())
    chosen = [one for one in chosen if one.state != "retired"]
    findings = list(_server(engine, chosen))
    targets = () if clients else tuple(settings.targets)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked_targets = [pool.submit(_guarded, check_targets.look, "target", name, engine, name) for name in targets]
        asked_clients = [pool.submit(check_client.look, engine, one) for one in chosen]
        answers = [one.result() for one in asked_clients]
        for one in asked_targets:
            findings += one.result()
    findings += check_targets.alike(engine, [name for name in targets if not any(
        one.status == FAIL and (one.area, one.name) == ("target", name) for one in findings)])  # fmt: skip
    for answer in answers:
        findings += answer.findings
    ready = tuple(one.client for one in answers if all(found.status != FAIL for found in one.findings) and not one.away)
    away = tuple(one.client for one in answers if one.away)
    bare = tuple(one for answer in answers for one in answer.bare)
    findings.sort(key=lambda one: RANK[one.status])  # stable: else in the order of the night
    return CheckAnswer(tuple(findings), ready, tuple(one.name for one in chosen), away, bare)


def _guarded(ask: Callable[..., Iterable[Finding]], area: str, name: str, *args: Any) -> List[Finding]:
    """The findings of ask; an error is one of them."""
    found: List[Finding] = []
    try:
        for one in ask(*args):
            found.append(one)
    except StowageError as error:
        found.append(Finding(FAIL, area, name, error.message, error.hint, error.code))
    except OSError as error:
        found.append(Finding(FAIL, area, name, f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")))
    return found


def _server(engine: Engine, clients: Sequence[Client]) -> Iterator[Finding]:
    settings = engine.settings
    for warning in engine.configuration.warnings:
        yield Finding(WARN, "server", "configuration", warning)
    for broken in engine.drivers.broken:
        yield Finding(WARN, "server", "drivers", f"not loaded: {broken}", "stowage drivers")
    if not clients:
        yield Finding(WARN, "server", "configuration", "no client is registered", SITE)
    if not settings.targets:
        told = "no target is configured: every image is on the holding disk only"
        yield Finding(WARN, "server", "configuration", told, f"add one to targets: in {settings.file}")
    for name, looked in (
        ("copies", _copies), ("holding", _holding), ("holding", _straight), ("state", _state), ("catalog", _catalog),
        ("images", _images),
        ("keys", _signing_key), ("keys", _recipients), ("ssh", _ssh_key), ("events", _events),
        ("audit", _audit),
    ):  # fmt: skip
        yield from _guarded(looked, "server", name, engine, clients)


def _copies(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    told = check_copies.default(engine)
    if told:
        yield Finding(OK, "server", "copies", told, f"write copies in {engine.settings.file} to say otherwise")
    for found in (check_copies.wrong(engine), check_copies.stranded(engine), check_copies.late(engine),
                  check_copies.ahead(engine)):  # fmt: skip
        for message, hint in found:
            yield Finding(WARN, "server", "copies", message, hint)
    for message in check_copies.endless(engine):
        yield Finding(OK, "server", "copies", message, "write keep, or stowage prune --dry-run")


def _audit(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    from . import auditing

    found = auditing.verify(engine).checked
    if found.broken is not None:
        where = f"line {found.broken.line}: " if found.broken.line else ""
        yield Finding(FAIL, "server", "audit", f"the log is not as it was written: {where}{found.broken.message}",
                      "stowage audit verify", "audit")  # fmt: skip


def _events(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    for message, hint in check_events.wrong(engine):
        yield Finding(WARN, "server", "events", message, hint, "event-failed")


def _straight(engine: Engine, clients: Sequence[Client]) -> Iterator[Finding]:
    from . import direct

    for source, why in direct.unable(engine):
        if any(client.name == source.client for client in clients):
            told = f"{source.client}:{source.name}: {why}"
            yield Finding(FAIL, "server", "holding", told, "holding: auto, or a copy on a target that takes streams")


def _holding(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    from ..catalog.places import known_server_id
    from ..dump.holding import is_claimed
    from ..dump.stored import stored

    for disk in engine.settings.holding:
        path = disk.path
        hint = f"make it, owned by the user that runs stowage: install -d -m 0700 {path}"
        if not path.is_dir():
            yield Finding(FAIL, "server", "holding", f"the holding disk {path} is not there", hint, "holding-full")
            continue
        if not os.access(path, os.W_OK | os.X_OK):
            yield Finding(FAIL, "server", "holding", f"the holding disk {path} cannot be written", hint, "holding-full")
            continue
        try:  # what a run would refuse
            is_claimed(path, known_server_id(engine.settings.state) or "", engine.catalog)
        except StowageError as error:
            yield Finding(FAIL, "server", "holding", error.message, error.hint, error.code)
            continue
        space = os.statvfs(path)
        free = space.f_bavail * space.f_frsize
        total = space.f_blocks * space.f_frsize
        left, of = free, ""
        if disk.use < 0:
            left, of = free + disk.use, f", {text.size(-disk.use)} stay free"
        elif disk.use <= total:
            left, of = min(free, disk.use - stored(path)), f" of {text.size(disk.use)}"
        if disk.use < 0 and free <= -disk.use:
            told = f"the holding disk {path} is full: {text.size(free)} free, {text.size(-disk.use)} are to stay free"
            yield Finding(FAIL, "server", "holding", told, "stowage stage", "holding-full")
        elif disk.use > total:
            told = f"the holding disk {path} has {text.size(total)}, less than the {text.size(disk.use)} it may use"
            yield Finding(WARN, "server", "holding", told, f"lower use: in {engine.settings.file}")
        elif left < min(total, disk.use if disk.use > 0 else total) // 50:
            told = f"the holding disk {path} is nearly full: {text.size(max(0, left))}{of} may still be used"
            yield Finding(WARN, "server", "holding", told, "stowage stage")
        else:
            yield Finding(OK, "server", "holding", f"{path}: {text.size(left)}{of} may still be used")


def _state(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    path = engine.settings.state
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        yield Finding(FAIL, "server", "state", f"{path} cannot be written", "run as root or as the user stowage")
    elif path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o002:
        yield Finding(FAIL, "server", "state", f"{path} can be written by everyone", f"chmod 700 {path}")


def _catalog(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    runs = engine.catalog.runs(limit=1)
    yield Finding(OK, "server", "catalog", "opens" + ("" if runs else ", no run yet"))


def _images(engine: Engine, clients: Sequence[Client]) -> Iterator[Finding]:
    """Whether what a restore of each source's newest dump would read is where the catalog says."""
    from ..catalog import units
    from ..image import layout

    for client in clients:
        for source in client.sources:
            newest = engine.catalog.newest(client.name, source)
            needed = [one for name in units.in_force(newest) for one in engine.catalog.chain(newest[name].id)]
            for one in needed:
                if one.holding is None or (Path(one.holding) / layout.MANIFEST).is_file():
                    continue
                told = f"{client.name}:{source}: the image {one.id} is gone from {one.holding}"
                if any(row.state == "verified" for row in engine.catalog.copies(dump=one.id)):
                    yield Finding(WARN, "server", "images", f"{told}; a copy is at a target", "", "image-gone")
                else:
                    again = f"stowage run --client {client.name} --source {source}"
                    yield Finding(FAIL, "server", "images", f"{told} and has no copy", again, "image-gone")


def _signing_key(engine: Engine, _clients: Sequence[Client]) -> Iterator[Finding]:
    from ..image.manifest import Signer

    signer = Signer.load_or_make(engine.settings.keys)
    yield Finding(OK, "server", "keys", f"signing key {signer.fingerprint[:16]} in {engine.settings.keys}")


def _recipients(engine: Engine, clients: Sequence[Client]) -> Iterator[Finding]:
    """Whether dumps that are to be sealed can be: for somebody who was proven to open them."""
    from ..dump.source import no_key
    from ..keys import store

    policies = {source.policy.name: source.policy for client in clients for source in client.sources.values()}
    sealing = [policy for policy in policies.values() if policy.encrypt != "none"]
    if not sealing:
        return
    active = store.active(engine.settings.keys)
    if not active:
        raise no_key(sealing[0])
    names = ", ".join(f"{one.name} {one.fingerprint[:16]}" for one in active)
    yield Finding(OK, "server", "keys", f"dumps are sealed for {names}")
    if len(active) == 1:
        told = f"one key alone, {names}, opens the dumps: when it is lost, so are they"
        yield Finding(WARN, "server", "keys", told, "stowage key generate --only escrow")


def _ssh_key(engine: Engine, clients: Sequence[Client]) -> Iterator[Finding]:
    if not any(one.transport == "ssh" for one in clients):
        return
    path = engine.settings.ssh_key
    if not path.exists():
        told = f"the key that opens the clients, {path}, is missing"
        yield Finding(FAIL, "server", "ssh", told, SITE, "access-denied")
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        told = f"the key that opens the clients, {path}, can be read by others"
        yield Finding(FAIL, "server", "ssh", told, f"chmod 600 {path}", "access-denied")
    elif not os.access(path, os.R_OK):
        told = f"the key that opens the clients, {path}, cannot be read"
        yield Finding(FAIL, "server", "ssh", told, "run as root or as the user stowage", "access-denied")
