"""Rebuild: opens the target, hands over keys and lock, and makes the holding disks this server's again.

Here live what rebuild/ needs from the configuration and the key folder; what is believed is decided there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

from .. import files
from ..errors import RequestError, TargetRefused
from ..hookspecs import TargetContext, TargetError
from .engine import Engine, Progress


@dataclass(frozen=True)
class Request:
    """What `stowage rebuild` was asked. ask: as of keys.ring.KeyRing, None: nobody knows a passphrase."""

    place: str
    signers: Sequence[str] = ()
    signer_keys: Sequence[str] = ()
    server: Optional[str] = None
    witness: Optional[str] = None
    last_run: Optional[str] = None
    keys: Sequence[str] = ()
    ask: Any = None


def rebuild(engine: Engine, asked: Request, progress: Progress = None) -> Any:
    """Makes the catalog again: rebuild.merge.Report. Raises Busy, RequestError, Contradicted, TargetRefused."""
    from ..dump import runlock
    from ..image.signing import load_public_keys
    from ..rebuild import merge

    if asked.witness == asked.place:
        raise RequestError("a target cannot witness against itself", "name another one")
    place = engine.target_name(asked.place)
    opened = [_open(engine, place)]
    try:
        if asked.witness is not None:
            opened.append(_open(engine, engine.target_name(asked.witness)))
        witness = (asked.witness, opened[1]) if asked.witness is not None else None
        given = read_signers(asked.signer_keys)
        with runlock.hold(engine.settings, what="rebuild", command=engine.command):
            wanted = merge.Request(
                place, f"stowage rebuild --from {place}", tuple(word.lower() for word in asked.signers), given,
                asked.server, asked.last_run,
            )  # fmt: skip
            report = merge.rebuild(
                engine.settings, engine.catalog, opened[0], load_public_keys(engine.settings.keys), wanted,
                keys=key_ring(engine.settings.keys, asked.keys, asked.ask), witness=witness,
                take_over=_take_over(engine), progress=progress,
            )  # fmt: skip
            _read_locks(engine, opened[0], place, report)
            return report
    except TargetError as error:
        raise TargetRefused(f"target {place}: {error.message}", error.hint or "stowage check") from None
    finally:
        for target in opened:
            target.close()


def _read_locks(engine: Engine, target: Any, place: str, report: Any) -> None:
    """What the place says of locks and holds, into the catalog; a refusal costs no more than that."""
    from ..rebuild.merge import NOTE, WARN, Finding
    from ..stage import locks

    try:
        locked, held = locks.read_back(engine.catalog, target, place)
    except TargetError as error:
        told = f"{place} does not say what is locked there: {error.message}"
        report.tell(Finding(WARN, "", told, f"stowage rebuild --from {place}"))
        return
    if locked:
        report.tell(Finding(NOTE, "", f"{locked} dumps are locked there"))
    if held:
        report.tell(Finding(NOTE, "", f"{held} dumps are held there, and here from now on", "stowage hold"))


def key_ring(folder: Path, given: Sequence[str], ask: Any) -> Any:
    """What opens sealed dumps."""
    from ..keys.store import private_keys

    return private_keys(folder, list(given), ask)


def read_signers(paths: Sequence[str]) -> Dict[str, bytes]:
    """Fingerprint -> raw key of public keys in files. Raises RequestError."""
    from ..image.signing import fingerprint, read_public

    found = {}
    for path in paths:
        try:
            with open(path, "rb") as stream:
                raw = read_public(stream.read(1 << 16))
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise RequestError(f"{path}: {error}", "it is the signing key's text in the key kit") from None
        found[fingerprint(raw)] = raw
    return found


def _open(engine: Engine, name: str) -> Any:
    """The open target. Not engine.target(): that would give a server without an id a new one."""
    from ..catalog import places

    wanted = engine.settings.targets[name]
    driver = engine.drivers.of("target")[wanted.type]
    server = places.known_server_id(engine.settings.state) or "rebuild"
    context = TargetContext(name, server, engine.settings.state / "targets" / name)
    try:
        target = driver.open(driver.options.model_validate(dict(wanted.options)), context)
    except TargetError as error:
        raise TargetRefused(f"target {name}: {error.message}", error.hint or "stowage check") from None
    engine.noting.watch(name, target)
    return target


def _take_over(engine: Engine) -> Callable[[Optional[str], str], None]:
    """What belongs to the id that this server had for a moment goes over to the one it gets."""

    def take_over(old: Optional[str], new: str) -> None:
        from ..dump.holding import OWNER

        for disk in engine.settings.holding:
            owner = disk.path / OWNER
            try:
                known = owner.read_text("ascii", "replace").strip()
            except OSError:
                continue  # claimed when it is used
            if known == old:  # another server's stays another's: the next run says so
                files.replace(owner, (new + "\n").encode())

    return take_over
