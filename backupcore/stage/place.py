"""A target while copies are made: made ready once, and not asked again for each copy while it is down.

Here live the marker, the signers' keys and the signed records of runs that lie beside the dumps at each target, and
when a target is given up for a while. Not here: the copies (copier.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, Dict, Optional

from .. import clock, files
from ..catalog import places
from ..hookspecs import Target, TargetError
from ..image import layout
from ..image.manifest import load_public_keys
from ..image.signing import write_public
from ..settings import Settings
from .identity import Identities

GIVEN_UP_AFTER_NS = 7 * 86400 * clock.NS  # a half-made upload that no staging went on with for so long
GIVEN_UP_WINDOWS = 5  # times that where copies have windows: the next may be a week away, and one not enough
GIVE_UP_AFTER = 3  # failures of one target in a row that trying again might help: the rest of its copies wait
RETRY = 600.0  # seconds after which a target that was given up is asked anew: copies are made all night


class Place:
    """One target in this staging: made ready once; what is down is not asked again for each copy."""

    def __init__(self, name: str, open_target: Callable[[str], Target], server: str, settings: Settings,
                 retry: float = RETRY):  # fmt: skip
        self.name, self.server, self.settings = name, server, settings
        self._open, self._retry = open_target, retry
        self._lock = threading.Lock()
        self._target: Optional[Target] = None
        self._error: Optional[BaseException] = None
        self._error_at = 0.0
        self._failures = 0

    def ready(self) -> Target:
        """The open target, with this server's marker on it and its capabilities known. Raises what it refused with."""
        with self._lock:
            if self._error is not None:
                if time.monotonic() - self._error_at < self._retry:
                    raise self._error
                self._error, self._failures = None, 0
            if self._target is None:
                try:
                    self._target = self._made_ready()
                except BaseException as error:
                    self._gives_up(error)
                    raise
            return self._target

    def is_given_up(self) -> bool:
        """Whether it is not asked any more for a while."""
        with self._lock:
            return self._error is not None and time.monotonic() - self._error_at < self._retry

    def _gives_up(self, error: BaseException) -> None:
        self._error, self._error_at = error, time.monotonic()

    def _made_ready(self) -> Target:
        target = self._open(self.name)
        target.capabilities  # noqa: B018  asked here, so that a place that cannot be reached is found out once
        Identities(self.settings, self.server, self._open).settle(self.name, target)
        self._put_signers(target)
        return target

    def _put_signers(self, target: Target) -> None:
        """The public keys that dumps here are signed by: who rebuilds a lost server has nothing but this place."""
        there = {found.name for found in target.list(layout.SIGNERS)}
        for fingerprint, raw in load_public_keys(self.settings.keys).items():
            name = f"{layout.SIGNERS}{fingerprint}.pub"
            if name not in there:
                local = self.settings.state / "targets" / self.name / "signer.pub"
                files.make_folder(local.parent)
                files.replace(local, write_public(raw), 0o644)
                target.put(name, local)

    def worked(self) -> None:
        """A copy was made."""
        with self._lock:
            self._failures = 0

    def failed(self, error: TargetError) -> None:
        """A copy was refused; a few in a row that only time can help, and the rest of the copies wait for it."""
        with self._lock:
            self._failures = self._failures + 1 if error.retry else 0
            if self._failures >= GIVE_UP_AFTER and self._error is None:
                self._gives_up(error)

    def tidy(self) -> None:
        """Brings the signed records of this server's runs that the target lacks, and ends uploads that were given up.

        A refusal costs nothing but that: the next staging tries again.
        """
        folder = places.run_record(self.settings.state, "x").parent
        if self._target is None or self._error is not None:
            return
        below = f"{layout.RUNS}{self.server}/"
        with contextlib.suppress(TargetError):
            there: Dict[str, int] = {found.name: found.size for found in self._target.list(below)}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix in (".json", ".sig") and there.get(below + path.name) != path.stat().st_size:
                    self._target.put(below + path.name, path)
            windows = any(rule.windows for source in self.settings.sources() for rule in source.copies)
            self._target.clean(clock.now_ns() - GIVEN_UP_AFTER_NS * (GIVEN_UP_WINDOWS if windows else 1))
