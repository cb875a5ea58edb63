"""Staging beside the dumps of a run, and the room it makes for them.

Here lives what brings the two together: dump/ asks for room and says what it has made, stage/ makes copies and removes
images. It is begun in a thread of its own: loading what copies need is not to hold up the first dump.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from .engine import Engine

Source = Tuple[str, str]


class Beside:
    """Use as a context manager around the dumps. sources: only their copies are made, None: all that are due.
    status: where copies tell how far they are."""

    def __init__(self, engine: Engine, sources: Optional[Sequence[Source]], status: Any):
        self._engine, self._sources, self._status = engine, sources, status
        self._lock = threading.Lock()
        self._made: List[Source] = []
        self._service: Any = None
        self._rooms: Any = None
        self._relief: Any = None
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._begin, name="stage")

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()
        if self._service is not None:
            self._service.__exit__(*exc)

    def _begin(self) -> None:
        from ..stage import stager
        from ..stage.relief import Relief

        engine = self._engine
        try:
            service = stager.beside_dumps(
                engine.settings, engine.catalog, engine.target, sources=self._sources, progress=self._status.event
            )
            relief = Relief(service)
            service.copier.make_room = relief.room
            with self._lock:
                service.copier.rooms = self._rooms
            service.__enter__()
        except BaseException as error:  # told when the dumps are through: they do not need it
            self._error = error
            return
        with self._lock:
            self._service, self._relief = service, relief
            service.copier.rooms = self._rooms
            for source in self._made:
                service.made(*source)

    def made(self, client: str, source: str) -> None:
        """A dump of this source is in the catalog: its copies begin."""
        with self._lock:
            if self._service is not None:
                self._service.made(client, source)
            else:
                self._made.append((client, source))

    def lend(self, space: Any) -> None:
        """Where copies take room from that come by way of a holding disk: where the dumps take theirs."""
        with self._lock:
            self._rooms = space
            if self._service is not None:
                self._service.copier.rooms = space

    def relief(self, missing: Mapping[Path, int], dumped: Sequence[Tuple[Path, Source, int]]) -> Tuple[str, str, str]:
        """As dump.space.Relief."""
        self._thread.join()
        return self._relief(missing, dumped) if self._relief is not None else ("", "", "")

    def paces(self) -> Any:
        """The rates of its copies: a target's holds for what goes straight to it as well."""
        self._thread.join()
        return self._service.copier.paces if self._service is not None else None

    def finish(self) -> tuple:
        """No dump comes any more: makes the rest, and returns what became of each copy."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._service.finish()

    def waiting(self) -> list:
        """The copies that are not at work, as stage.service tells them."""
        with self._lock:
            service = self._service
        return service.waiting() if service is not None else []

    @property
    def released(self) -> Tuple[str, ...]:
        """The dumps whose images left a holding disk to make room."""
        return tuple(self._relief.released) if self._relief is not None else ()

    @property
    def problems(self) -> Tuple[str, ...]:
        """Images that should have left and could not."""
        return tuple(self._relief.problems) if self._relief is not None else ()


def rooms(settings: Any) -> Any:
    """What room on the holding disks is taken from where no dumps are made; a bare mount point has none."""
    from ..catalog import aside
    from ..dump.space import Space

    return Space([disk for disk in settings.holding if (disk.path / aside.OWNER).is_file()])
