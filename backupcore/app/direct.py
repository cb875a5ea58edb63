"""The targets of dumps that go straight to them: which take part now, how fast, and how the small files follow.

Here the rooms of dumping and staging meet: what a copy is, and when it is verified, is stage/copy.py's for direct dumps
as for others; lanes and parts are dump/direct.py's.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

from ..catalog.records import CopyRow, DumpRow
from ..dump.lanes import Place
from ..errors import StowageError, TargetRefused
from ..hookspecs import TargetError
from ..settings import CopyRule, Source

if TYPE_CHECKING:
    from ..stage.pace import Paces
    from .engine import Engine

RETRY = 30.0  # seconds after which a target that was away is asked anew: a dump cannot be made without it


class DirectTargets:
    """As dump/direct.py's Targets. staging: gives the paces of a staging beside the dumps, so that a rate is one limit
    for both; None: there is none."""

    def __init__(self, engine: Engine):
        self._engine, self._settings, self._catalog = engine, engine.settings, engine.catalog
        self.staging: Optional[Callable[[], Optional[Paces]]] = None
        self._lock = threading.Lock()
        self._places: Dict[str, Any] = {}

    @cached_property
    def paces(self) -> Paces:
        """The rates, of this run."""
        from ..stage.pace import Paces  # most runs have nothing that goes straight

        shared = self.staging() if self.staging is not None else None
        return shared or Paces(self._settings, lambda: None)

    def of(self, row: DumpRow) -> Tuple[List[Place], List[str], bool]:
        """The targets that want this dump and take streams now; why others that should do not, and whether one of these
        is only down. Windows are passed over: a dump waits for nobody's window. Where a copy comes after another, the
        other is made first."""
        from ..stage.pace import Gate, Pace, said_by

        source = self._settings.source(row.client, row.source)
        found: List[Place] = []
        down: List[str] = []
        unable: List[str] = []
        later = False
        for rule in self._rules(source, row):
            try:
                target = self._ready(rule.target)
                if not getattr(target.capabilities, "streams", False):
                    unable.append(f"target {rule.target} takes no streams")
                    continue
            except (StowageError, TargetError) as error:
                told = TargetRefused.of(rule.target, error) if isinstance(error, TargetError) else error
                down.append(told.message)
                later = later or told.again
                continue
            except Exception as error:  # a third party's driver may raise anything
                down.append(f"target {rule.target}: its driver failed: {type(error).__name__}")
                continue
            paced = self.paces.of(said_by(source, rule.target), rule.target, rule)
            pace = Pace(Gate(None), paced.limiters) if paced.limiters else None
            found.append(Place(rule.target, target, pace))
        return found, down if found else down + unable, later

    def _rules(self, source: Source, row: DumpRow) -> List[CopyRule]:
        from ..catalog import wants
        from ..stage import wanted

        key = (row.client, row.source)
        mine = replace(row, holding="on its way")  # what it is made of is at hand
        names = wants.wanted(
            source, [*self._catalog.dumps(*key), mine], wanted.copies_by_dump(self._catalog, key)
        )[row.id]  # fmt: skip
        rules = [rule for rule in source.copies if rule.target in names]
        return [rule for rule in rules if rule.after not in names] or rules

    def open(self, name: str, pruning: bool = False) -> Any:
        """The open target; pruning: with the credential that may delete."""
        return self._engine.target(name, pruning=True) if pruning else self._engine.target(name)

    def bring(self, row: DumpRow, folder: Path, target: str, there: Mapping[str, str]) -> CopyRow:
        """Brings what is in folder to where the parts are."""
        from ..image.manifest import load_public_keys
        from ..stage.copy import Copying
        from ..stage.origins import FromHolding

        kept = _Kept(self._catalog)
        begun = CopyRow(row.id, target, "copying", {"files": dict(there)})
        origin = FromHolding(replace(row, holding=str(folder)), load_public_keys(self._settings.keys), parts=False)
        try:
            Copying(kept, row, begun, self._ready(target), [origin], lambda *_told: None).make()
        except (StowageError, TargetError):
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise TargetRefused(f"target {target}: its driver failed: {what}", "stowage drivers") from None
        return kept.row

    def tidy(self) -> None:
        """At the end of a night: where nothing but direct dumps went, nobody else brings the records of runs, and takes
        away what killed processes left; the latter also where nothing went tonight."""
        from ..targets import _streaming

        for name in self._settings.targets:
            if any(_streaming.left(self._settings.state / "targets" / name)):
                with contextlib.suppress(Exception):  # it is away: another time
                    self._ready(name)
        for place in self._places.values():
            place.tidy()

    def _ready(self, name: str) -> Any:
        from ..stage.place import Place as Ready

        with self._lock:
            if name not in self._places:
                self._places[name] = Ready(name, self._engine.target, self._engine.server_id, self._settings, RETRY)
            one = self._places[name]
        return one.ready()


class _Kept:
    """The catalog, but for a copy of a dump that it does not have yet: its row is kept here."""

    def __init__(self, catalog: Any):
        self._catalog = catalog
        self.row: Any = None

    def put_copy(self, row: CopyRow, lasting: bool = True) -> None:
        self.row = row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)


def unable(engine: Engine) -> List[Tuple[Source, str]]:
    """Sources that must go straight to their targets and cannot, each with why."""
    found = []
    for source in engine.settings.sources():
        if source.holding != "never" or engine.settings.clients[source.client].state == "retired":
            continue
        for what, level in (("fulls", 0), ("incrementals", 1)):
            names = [rule.target for rule in source.copies if rule.takes(level)]
            if not names:
                found.append((source, f"holding is never, and no copy rule wants its {what}"))
            elif not any(_streams(engine, name) for name in names):
                found.append((source, f"holding is never, and none of {', '.join(names)} takes streams"))
            else:
                continue
            break
    return found


def _streams(engine: Engine, name: str) -> bool:
    """Whether a target takes streams; one that cannot be asked may."""
    try:
        return bool(getattr(engine.target(name).capabilities, "streams", False))
    except Exception:  # said by its own check
        return True
