"""What clients are asked before a plan: whether they are there, and how large dumps would be where that may change it.

Here lives who is asked and what becomes of the answers; asking is dump.estimate's. A client that does not answer costs
its own estimates only.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import Any, Callable, Collection, Dict, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple

from .. import ids
from ..schedule import estimates
from ..schedule.records import Wish
from ..settings import Client, Settings, Source
from .plan_state import Kept, unit_id

PROBE = 5.0  # seconds until a client that may be away counts as away

Keys = Collection[Tuple[str, str]]
Answer = Tuple[FrozenSet[str], Dict[str, Any], Tuple[str, ...]]


class Round:
    """One round of questions. ready: a dump.warm.Warm whose connections are used, and kept for the dumps."""

    def __init__(
        self, settings: Settings, catalog: Any, kept: Kept, now_ns: int, ready: Any,
        progress: Optional[Callable[..., None]] = None, untold: Collection[str] = (),
    ):  # fmt: skip
        self.untold = untold  # types of sources whose driver tells no sizes: they are not asked
        self.settings, self.catalog, self.kept, self.now_ns = settings, catalog, kept, now_ns
        self.ready, self.progress = ready, progress
        self.recent: Dict[str, estimates.Walked] = {}  # unit -> a walk that tells what of it is recent
        self.old: Set[str] = set()  # clients whose agent knows no interim dumps

    def ask(
        self, ones: Mapping[str, Any], wanted: Keys, wishes: Mapping[str, Wish], walk: bool, forced: bool
    ) -> Answer:
        """(clients that are away, what walks found by unit, what could not be had). ones: planning.One by unit; wanted:
        (client, source) of what is to be dumped; walk: all are asked; forced: their level is given."""
        away = self._away(wanted)
        asked = self._to_walk(ones, wanted, wishes, away, walk, forced)
        if not asked:
            return away, {}, ()
        walked, gone, notes = self._walk(asked)
        return away | gone, walked, notes

    def _away(self, wanted: Keys) -> FrozenSet[str]:
        """The clients that cannot be reached now, of those of which that is to be feared."""
        names = {client for client, _source in wanted}
        unasked = frozenset(name for name in self.kept.away if name not in names)
        if len(names) < 2:
            return unasked  # the dump itself is the question
        feared = [
            client for name, client in self.settings.clients.items()
            if name in names and client.transport == "ssh" and (client.presence == "roaming" or name in self.kept.away)
        ]  # fmt: skip
        return unasked | (_unreachable(feared) if feared else frozenset())

    def _to_walk(
        self, ones: Mapping[str, Any], wanted: Keys, wishes: Mapping[str, Wish], away: FrozenSet[str], walk: bool,
        forced: bool,
    ) -> Dict[str, List[Any]]:  # fmt: skip
        """Of each client, what it is to be asked the size of, since that may change the plan."""
        mode = "walk" if walk else self.settings.planning.estimate
        total = sum(one.habits.size or 0.0 for one in ones.values())
        found: Dict[str, List[Any]] = {}
        for unit, one in ones.items():
            wish = wishes[unit]
            if one.key not in wanted or one.source.client in away or wish.strategy == "skip":
                continue
            if one.source.type in self.untold:
                continue
            why = estimates.needs_walk(
                mode, one.habits, alone=len(wanted) == 1, forced=forced or wish.forced is not None,
                share=(one.habits.size or 0.0) / total if total and one.habits.fulls else None,
                error=partial(self._error, one), leveled=wish.strategy != "full",
            )  # fmt: skip
            if mode == "auto" and unit in self.kept.ended and wish.forced is None:
                why = "its last dump was ended, since it was larger than the night's limits left room for"
            if why:
                found.setdefault(one.source.client, []).append(one)
        if any(one.share is not None for listed in found.values() for one in listed):
            # one walk tells of all segments of a source, and needs them to tell where one ends
            keys = {one.key for listed in found.values() for one in listed}
            found = {client: [one for one in ones.values() if one.key in keys and one.source.client == client]
                     for client in found}  # fmt: skip
        return found

    def ask_recent(self, ones: Sequence[Any]) -> Tuple[str, ...]:
        """Asks how much of these sources is recent, where no walk of this round told; what could not be had."""
        asked: Dict[str, List[Any]] = {}
        for one in ones:
            if one.id not in self.recent and one.source.client not in self.old and one.source.type not in self.untold:
                asked.setdefault(one.source.client, []).append(one)
        return self._walk(asked)[2] if asked else ()

    def _error(self, one: Any) -> Optional[float]:
        """How far off the estimates by its history were."""
        from ..dump import estimate

        found = estimate.accuracy(self.catalog, self.now_ns, *one.key).get((*one.key, one.segment))
        return found.history if found is not None else None

    def _walk(
        self, asked: Mapping[str, Sequence[Any]]
    ) -> Tuple[Dict[str, Any], FrozenSet[str], Tuple[str, ...]]:
        """(what walks found by unit, clients that are away, what could not be had)."""
        from ..dump import estimate

        asks = {}
        for client, ones in asked.items():
            parts: Dict[Tuple[str, str], List[Any]] = {}
            for one in ones:
                since = {level: dump.begun_ns for level, _base, dump in one.rungs}
                folders = () if one.share is None or one.share.rest else one.share.folders
                recent = None if one.segment or one.past else newer_of(one.source, self.now_ns)
                listed = parts.setdefault((one.source.name, _division(one.segment)), [])
                listed.append(estimate.Part(since, one.segment, folders, recent))
            asks[client] = [estimate.Ask(source, tuple(listed)) for (source, _cut), listed in parts.items()]
        heard = estimate.ask(
            self.settings, asks, connect=self.ready.connect, keep=self.ready.keep,
            limit=self.settings.planning.estimate_time, progress=self.progress,
        )  # fmt: skip
        walked = {
            unit_id(client, source, part): found
            for client, one in heard.items() for (source, part), found in one.walked.items()
        }  # fmt: skip
        self.recent.update((unit, found) for unit, found in walked.items() if found.recent is not None)
        self.old |= {client for client, one in heard.items() if one.reachable and not one.interim}
        notes = tuple(note for one in heard.values() for note in one.notes)
        return walked, frozenset(client for client, one in heard.items() if one.away), notes


def newer_of(source: Source, now_ns: int) -> Optional[int]:
    """Since when an interim dump of a source takes what was changed; None where it is to have none."""
    days = source.timing.interim
    return int(now_ns - days * estimates.DAY_NS) if days > 0 and source.type == "tree" else None


def _division(segment: str) -> str:
    """What one walk can count apart: the whole, or the segments of one cut, of which the last has what no other has."""
    name = ids.parse_segment(segment)
    return name.cut if name is not None else ""


def _unreachable(clients: Sequence[Client]) -> FrozenSet[str]:
    """Those whose port does not answer in a few seconds."""
    there: Dict[str, bool] = {}

    def knock(client: Client) -> None:
        try:
            socket.create_connection((client.address.strip("[]"), client.port), PROBE).close()
            there[client.name] = True
        except (OSError, UnicodeError):
            pass

    # daemons: a resolver that hangs must not hold up the night
    threads = [threading.Thread(target=knock, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROBE + 1)
    return frozenset(client.name for client in clients if not there.get(client.name))
