"""What targets were used for goes into the catalog while they are open, and when they are closed.

Here lives the taking of notes; what is counted says each target's spent(), what is kept catalog/spending.py. A kill
costs what was used since the last note, a minute at most; nothing is added twice, since only the difference is, and
what was added is remembered by the process that counts. That nothing could be noted stops nobody's work.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import fields
from typing import Any, Callable, List

from ..errors import StowageError
from ..hookspecs import Spent

EVERY = 60.0  # seconds


class Noting:
    """Notes what open targets are used for. catalog: gives the catalog when there is something to note."""

    def __init__(self, catalog: Callable[[], Any]):
        self._catalog = catalog
        self._lock = threading.Lock()
        self._watched: List[_Watched] = []
        self._stop = threading.Event()
        self._thread: Any = None

    def watch(self, name: str, target: Any) -> None:
        """From now on what this target is used for is noted; nothing where its driver does not count."""
        if not callable(getattr(target, "spent", None)):
            return
        with self._lock:
            self._watched.append(_Watched(name, target))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="noting", daemon=True)
                self._thread.start()

    def note(self) -> None:
        """Notes what was used since the last note."""
        from ..catalog import spending

        with self._lock:
            for one in self._watched:
                now = one.now()
                if now == one.noted:
                    continue
                more = Spent(*(max(0, getattr(now, f.name) - getattr(one.noted, f.name)) for f in fields(Spent)))
                with contextlib.suppress(StowageError):
                    spending.add_spent(self._catalog(), one.name, more)
                    one.noted = now

    def close(self) -> None:
        """The last note; call it before the catalog is closed, and after the last use of the targets."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.note()
        self._watched.clear()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            self.note()


class _Watched:
    def __init__(self, name: str, target: Any):
        self.name, self.target = name, target
        self.noted = Spent()

    def now(self) -> Spent:
        try:
            found = self.target.spent()
            return found if isinstance(found, Spent) else self.noted
        except Exception:  # a third party's driver may raise anything; what it cannot tell is not noted
            return self.noted
