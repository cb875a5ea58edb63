"""Keys, wired: the list, the key kit, and renewing the wrapped keys of all dumps at all places.

Here lives what needs both the keys and the configuration, catalog or targets; keys themselves live in backupcore.keys,
prompts and files that somebody names in the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .. import clock, files
from ..errors import Busy, RequestError, StowageError
from ..image import recipients as wrapping
from ..image.signing import PRIVATE, PUBLIC, Signer, load_public_keys, write_public
from ..keys import kit, store
from ..locks import LockFile

HOLDING = "holding"
ASKING = 50  # dumps that are looked at one after the other until a key was needed
_GOOD = ("verified", "done")


def overview(settings: Any) -> Dict[str, Any]:
    """All keys of this server as a dictionary: recipients with `private` (where that is), the signing key."""
    found = []
    for record in store.recipients(settings.keys):
        plain = record.as_dict()
        # an administrator lists keys in front of others: not even a protected private key is shown
        plain.update(private=store.whereabouts(settings.keys, record), active=record.active)
        del plain["schema"]
        found.append(plain)
    signing = None
    if (settings.keys / PRIVATE).exists():
        signer = Signer.load(settings.keys)
        signing = {"fingerprint": signer.fingerprint, "public": signer.public_pem.decode("ascii")}
    return {"keys": found, "signing": signing}


def encrypting(settings: Any) -> List[str]:
    """The policies that seal."""
    return sorted(one.name for one in settings.policies.values() if one.encrypt != "none")


# -- the key kit


def make_kit(engine: Any, names: Sequence[str] = (), unprotected: bool = False) -> str:
    """The key kit with the private keys that are here, or of `names`. Raises RequestError, ConfigError."""
    settings = engine.settings
    known = store.recipients(settings.keys)
    for name in names:
        store.find(settings.keys, name)
    chosen = [one for one in known if one.name in names] if names else known
    parts, elsewhere = [], []
    for record in chosen:
        part = _private_part(settings.keys, record, unprotected)
        if part is None and names:
            raise RequestError(f"the private key of {record.name} is not on this server")
        if part is not None:
            parts.append(part)
        elif record.active:
            elsewhere.append(record.name)
    signer = Signer.load(settings.keys)
    trusted = sorted(load_public_keys(settings.keys).items())
    return kit.text(
        kit.Facts(
            server=engine.server_id, host=socket.gethostname(), made=clock.iso(clock.now_ns()),
            signing_fingerprint=signer.fingerprint, signing_pem=signer.public_pem.decode("ascii"),
            targets=[_where(one, engine.drivers.of("target")[one.type]) for one in settings.targets.values()],
            keys=parts, elsewhere=elsewhere,
            older=[(name, write_public(raw).decode("ascii")) for name, raw in trusted if name != signer.fingerprint],
        )
    )  # fmt: skip


def _private_part(folder: Any, record: store.Record, unprotected: bool) -> Optional[kit.PrivatePart]:
    state = "" if record.state == store.ACTIVE else " It was revoked: newer dumps are not sealed for it."
    if record.recipient.private:
        pem = wrapping.to_pem(record.recipient.private).decode("ascii")
        return kit.PrivatePart(record.name, record.fingerprint, pem, _PROTECTED + state)
    data = store.read_private(folder, record.name)
    if data is None:
        return None
    if not wrapping.is_protected(data):
        if not unprotected:
            raise RequestError(
                f"key {record.name} has no passphrase: whoever finds this paper could open everything",
                "stowage key kit --unprotected",
            )
        return kit.PrivatePart(record.name, record.fingerprint, data.decode("ascii"), _OPEN + state)
    return kit.PrivatePart(record.name, record.fingerprint, data.decode("ascii"), _PROTECTED + state)


_PROTECTED = "It opens sealed dumps together with its passphrase, which is asked for (openssl knows the format too)."
_OPEN = "IT HAS NO PASSPHRASE: whoever holds this sheet opens every sealed dump. Keep it in a safe."


def _where(target: Any, driver: Any) -> Tuple[str, str, Tuple[str, ...]]:
    """(name, where it is in words, how restore finds it without a configuration): what a driver calls secret and what
    lies on the lost server is left out."""
    lost = {*driver.secrets, "credentials", "profile", "ca"}
    options = {name: value for name, value in target.options.items() if name not in lost and value not in (None, "")}
    plain = driver.options.model_fields
    told = [f"{name} {_plain(value)}" for name, value in options.items()
            if isinstance(value, (str, os.PathLike)) and value != plain[name].default]  # fmt: skip
    found: Tuple[str, ...] = ()
    if "bucket" in options:
        address = "s3://" + "/".join(filter(None, (options["bucket"], options.get("prefix"))))
        more = [f"--{name} {shlex.quote(_plain(options[name]))}" for name in ("endpoint", "region") if name in options]
        found = (f"--from {address}", *more)
    elif "path" in options:
        found = (f"--from {shlex.quote(str(options['path']))}",)
    return target.name, ", ".join([target.type, *told]), found


def _plain(value: Any) -> str:
    # nobody should, but a URL can carry a password
    return re.sub(r"//[^/@\s]*@", "//", str(value))


# -- renewing


@dataclass
class Rewrapped:
    """What a renewal did. added: (dump, place, file); covered: dumps that needed nothing; unsealed: dumps without a
    seal; failed: (dump, place, error); later: dumps that are being copied right now; unlocked: what keeps new files of
    locked copies from being locked, too."""

    recipients: Tuple[str, ...] = ()
    added: List[Tuple[str, str, str]] = field(default_factory=list)
    covered: int = 0
    unsealed: int = 0
    failed: List[Tuple[str, str, StowageError]] = field(default_factory=list)
    later: List[str] = field(default_factory=list)
    unlocked: Tuple[str, ...] = ()


def rewrap(
    engine: Any, ring: Any, targets: Sequence[str] = (), clients: Sequence[str] = (),
    progress: Optional[Callable[[dict], None]] = None,
) -> Rewrapped:  # fmt: skip
    """Wraps the keys of all sealed dumps (of some clients, at some places) for every active recipient.

    ring: the keys.ring.KeyRing that opens them. What fails costs one dump at one place. Raises RequestError, Busy.
    """
    settings, catalog = engine.settings, engine.catalog
    for name in targets:
        if name != HOLDING:
            engine.target_name(name)
    for name in clients:
        _known_client(engine, name)
    active = [one.recipient for one in store.active(settings.keys)]
    if not active:
        raise RequestError("there is no active key to wrap anything for", "stowage key generate")
    answer = Rewrapped(tuple(one.name for one in active))
    seen: Set[Tuple[str, str]] = set()
    with _alone(settings), ThreadPoolExecutor(settings.copies_at_once, "rewrap") as pool:
        work = _Work(engine, ring, active, answer, progress)
        while True:
            # a copy that was made while this ran has its turn in the next round
            jobs = [(dump, places) for dump, places in _jobs(catalog, targets, clients, seen) if places]
            if not jobs:
                break
            work.total += len(jobs)
            # a question for a passphrase comes in this thread, which ^C reaches, as long as one can be expected
            for _ in range(ASKING):
                if not jobs or answer.added or answer.failed:
                    break
                work.one(*jobs.pop(0))
            futures = [pool.submit(work.one, dump, places) for dump, places in jobs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    at_work = {row.dump for row in catalog.copies() if row.state == "copying"}
    chosen = (dump for dump in catalog.dumps() if not clients or dump.client in clients)
    answer.later = [dump.id for dump in chosen if dump.id in at_work]
    from .pruning import lock  # what was added to a locked copy is to stay as long

    answer.unlocked = lock(engine, {(dump, place) for dump, place, _name in answer.added}) if answer.added else ()
    answer.added.sort()
    answer.failed.sort(key=lambda one: one[:2])
    return answer


def _known_client(engine: Any, name: str) -> None:
    if name not in engine.settings.clients and not engine.catalog.dumps(client=name):
        engine.client(name)  # the error with the nearest name


def _jobs(
    catalog: Any, targets: Sequence[str], clients: Sequence[str], seen: Set[Tuple[str, str]]
) -> Iterator[Tuple[Any, List[str]]]:
    """(dump, names of the places that have it) not seen yet."""
    where: Dict[str, List[str]] = {}
    for row in catalog.copies():
        if row.state in _GOOD:
            where.setdefault(row.dump, []).append(row.target)
    for dump in catalog.dumps():
        names = ([HOLDING] if dump.holding else []) + where.get(dump.id, [])
        if clients and dump.client not in clients:
            continue
        chosen = [name for name in names if (not targets or name in targets) and (dump.id, name) not in seen]
        seen.update((dump.id, name) for name in chosen)
        yield dump, chosen


class _Work:
    def __init__(self, engine: Any, ring: Any, active: list, answer: Rewrapped, progress: Any):
        self.engine, self.ring, self.active, self.answer, self.progress = engine, ring, active, answer, progress
        self.total = self.done = 0
        self.lock = threading.Lock()

    def one(self, dump: Any, names: List[str]) -> None:
        """One dump at its places."""
        from ..image import layout
        from ..keys import rewrap as renewal

        prefix = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
        spool = self.engine.settings.state / "rewrap"
        outcome = renewal.Outcome()
        places: List[Any] = []
        for name in names:
            try:
                places.append(
                    renewal.HoldingFolder(dump.holding) if name == HOLDING
                    else renewal.TargetFolder(name, self.engine.target(name), prefix, spool)
                )  # fmt: skip
            except StowageError as error:
                outcome.failed[name] = error
        if places:
            done = renewal.rewrap(places, dump.manifest_sha256, self.active, self.ring)
            done.failed.update(outcome.failed)
            outcome = done
        if HOLDING in outcome.failed and self.engine.catalog.dump(dump.id).holding != dump.holding:
            del outcome.failed[HOLDING]  # it left the holding disk meanwhile
        with self.lock:
            answer = self.answer
            answer.added += [(dump.id, place, name) for place, (name, _sha256) in outcome.added.items()]
            for place, added in outcome.added.items():
                self._note(dump.id, place, *added)
            answer.failed += [(dump.id, place, error) for place, error in outcome.failed.items()]
            answer.unsealed += not outcome.sealed
            answer.covered += outcome.sealed and not outcome.added and not outcome.failed
            self.done += 1
            if self.progress:
                self.progress({"done": self.done, "total": self.total, "client": dump.client, "source": dump.source})

    def _note(self, dump: str, place: str, name: str, sha256: str) -> None:
        """Lets verify miss the file when it is lost: nothing that is signed names it."""
        self.engine.catalog.note_keys(dump, place, name, sha256)


@contextlib.contextmanager
def _alone(settings: Any) -> Iterator[None]:
    files.make_folder(settings.state)
    with contextlib.closing(LockFile(settings.state / "rewrap.lock")) as lock:
        if not lock.take():
            raise Busy("keys are being renewed already", "wait for it")
        spool = settings.state / "rewrap"
        for path in spool.iterdir() if spool.is_dir() else ():
            path.unlink()  # what a killed one left
        yield


def signing_key(settings: Any) -> Tuple[str, bool]:
    """(fingerprint of the signing key, whether it was made now)."""
    new = not (settings.keys / PRIVATE).exists()
    if new and (settings.keys / PUBLIC).exists():
        raise RequestError(
            f"{settings.keys / PUBLIC} is there, but not its private half",
            f"bring {PRIVATE} back from a copy; a new one needs {PUBLIC} renamed to OLD.pub first, to be trusted still",
        )
    return Signer.load_or_make(settings.keys).fingerprint, new
