"""Verify, wired: which copies, how deep, what is made anew, and the small sample of every night.

Here lives the order: look, mark, repair under the run lock. Reading is backupcore.verify, making anew backupcore.stage.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .. import clock, text
from ..catalog.records import HOLDING
from ..errors import Busy, RequestError, StowageError
from .engine import Engine, Progress, unknown

DAY = 86400.0
SAMPLE_ROUNDS = 20  # in which others are chosen for copies that sleep in an archive
SOON = 0.5  # days: a night's sample so shortly after the last one is not due


@dataclass(frozen=True)
class Asked:
    """What `stowage verify` was asked. kind: quick, full or sample; share: of all bytes, for a sample.
    last_run: the file of a run's signed record that was kept elsewhere."""

    clients: Sequence[str] = ()
    sources: Sequence[str] = ()
    dumps: Sequence[str] = ()
    targets: Sequence[str] = ()
    kind: str = "quick"
    share: float = 0.0
    repair: bool = True
    last_run: Optional[str] = None


@dataclass(frozen=True)
class Answer:
    """What a verify found. results: of each copy. repaired: copies made anew (stage.stager.CopyResult). notes: what was
    not looked at; problems: what could not be."""

    results: tuple = ()
    repaired: tuple = ()
    notes: Tuple[str, ...] = ()
    problems: Tuple[str, ...] = ()
    days: Optional[float] = None  # in which all of everything is read, at the pace of this sample
    bytes: int = field(default=0)
    rollbacks: tuple = ()  # app.rollback.Rollback: what contradicts the record of a run

    @property
    def bad(self) -> List[Any]:
        """What is not ok; what sleeps in an archive is neither."""
        return [one for one in self.results if one.status not in ("ok", "asleep")]

    @property
    def status(self) -> str:
        """FAIL when something is damaged, wrong or could not be read, even if it is repaired by now: a disk that lost
        bytes once is something a person must hear of."""
        if self.bad or self.problems or self.rollbacks or any(not one.ok for one in self.repaired):
            return "FAIL"
        return "WARN" if self.strays else "OK"

    @property
    def strays(self) -> List[str]:
        """What lies in a dump's folder and is no part of it: somebody can write there."""
        return [f"on {one.place}: {stray}" for one in self.results for stray in one.strays]


def share_of(word: str) -> float:
    """`3%` or `0.5%` as a share of 1. Raises RequestError."""
    match = re.match(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%?\Z", word)
    if not match or not 0 < float(match.group(1)) <= 100:
        raise RequestError(f"--sample {word}: write a share of all bytes, as 3%", "stowage verify --sample 3%")
    return float(match.group(1)) / 100


def verify(engine: Engine, asked: Asked, ring: Any = None, progress: Progress = None) -> Answer:
    """Reads what was asked for, marks what is damaged, makes it anew where there is a good copy."""
    from ..verify import verifier

    found, problems = verifier.jobs(
        engine.settings, engine.catalog, clients=asked.clients, sources=asked.sources, dumps=asked.dumps,
        targets=[name if name == HOLDING else engine.target_name(name) for name in asked.targets],
    )  # fmt: skip
    if not found and not problems:
        _say_what_is_not_there(engine, asked)
    rollbacks = _rollbacks(engine, asked)  # before anything is made anew
    run = engine.catalog.begin_run("verify")
    stopped = True
    status, headline = "FAIL", "stopped"
    notes: List[str] = []
    try:
        days = None
        if asked.kind == "sample":
            total = sum(job.dump.stored_size for job in found)
        else:
            jobs = verifier.oldest_first(engine.catalog, found, asked.kind)
            if asked.kind == "full":
                done, since = verifier.proven_before(engine.catalog, found, run.id)
                if done:
                    notes.append(
                        f"goes on with the verify of {clock.local(since)} that was cut: {len(done)} were read by it"
                    )
                jobs = [job for job in jobs if (job.dump.id, job.place) not in done]
        reader = verifier.Verifier(engine.settings, engine.catalog, engine.target, ring, progress)
        if asked.kind == "sample":
            results, taken = _sample(engine, reader, found, asked.share)
            days = total / taken if taken else None
        else:
            results = reader.work(jobs, asked.kind)
        notes += _asleep(results)
        repaired, more = _repair(engine, results, progress, asked.repair)
        problems += more
        answer = Answer(results, repaired, tuple(notes), tuple(problems), days, sum(one.bytes for one in results),
                        rollbacks)  # fmt: skip
        status, headline, stopped = answer.status, headline_of(answer), False
        return answer
    finally:
        engine.catalog.end_run(run.id, status, {"headline": headline, **({"stopped": True} if stopped else {})})


def _sample(
    engine: Engine, reader: Any, found: Sequence[Any], share: float, limits: Any = None, before_ns: Optional[int] = None
) -> Tuple[tuple, int]:  # fmt: skip
    """Reads the share of all bytes that was proven longest ago, and how many they were. What sleeps in an archive stays
    the oldest for ever: others take its turn."""
    from ..verify import verifier

    budget, taken = share * sum(job.dump.stored_size for job in found), 0
    left, limits = list(found), dict(limits or {})
    results: List[Any] = []
    for _round in range(SAMPLE_ROUNDS):
        size = sum(job.dump.stored_size for job in left)
        if not left or taken and taken >= budget:
            break
        wanted = min(1.0, (budget - taken) / size) if size else 0.0
        jobs = verifier.sampled(engine.catalog, left, wanted, limits, before_ns)
        done = reader.work(jobs, "sample")
        results += done
        asleep = {(one.dump, one.place) for one in done if one.status == "asleep"}
        for job in jobs:
            if (job.dump.id, job.place) not in asleep:
                taken += job.length
                if job.place in limits:
                    limits[job.place] -= job.length
        if not asleep:
            break
        tried = {(job.dump.id, job.place) for job in jobs}
        left = [job for job in left if (job.dump.id, job.place) not in tried]
    return tuple(results), taken


def _asleep(results: Sequence[Any]) -> List[str]:
    """How many copies were passed over, for a person."""
    found: Dict[str, int] = {}
    for one in results:
        if one.status == "asleep":
            found[one.place] = found.get(one.place, 0) + 1
    return [f"{count} {'copy sleeps' if count == 1 else 'copies sleep'} in an archive of target {place}: not read"
            for place, count in sorted(found.items())]  # fmt: skip


def _rollbacks(engine: Engine, asked: Asked) -> tuple:
    if asked.last_run is None:
        return ()
    from . import rollback

    record = rollback.read(engine, asked.last_run)
    targets = [name for name in asked.targets if name != HOLDING] if asked.targets else list(engine.settings.targets)
    return tuple(rollback.look(engine, record, targets))


def headline_of(answer: Answer) -> str:
    """One line."""
    counts: Dict[str, int] = {}
    for one in answer.results:
        counts[one.status] = counts.get(one.status, 0) + 1
    words = [f"{counts.get('ok', 0)} good"]
    words += [f"{counts[state]} {word}" for state, word in (
        ("damaged", "damaged"), ("wrong", "wrong in themselves"), ("error", "not readable now"),
        ("asleep", "asleep in an archive"),
    ) if counts.get(state)]  # fmt: skip
    made = sum(one.ok for one in answer.repaired)
    words += [f"{made} made anew"] if made else []
    words += [f"{len(answer.rollbacks)} contradicted by the run's record"] if answer.rollbacks else []
    words += [f"{len(answer.strays)} strangers beside them"] if answer.strays else []
    return f"{answer.status:4s} " + ", ".join(words) + f"; {text.size(answer.bytes)} read"


def _say_what_is_not_there(engine: Engine, asked: Asked) -> None:
    """Raises RequestError for a name that nothing has."""
    rows = engine.catalog.dumps()
    for what, names, known in (
        ("client", asked.clients, {row.client for row in rows}),
        ("source", asked.sources, {row.source for row in rows} | {f"{row.client}:{row.source}" for row in rows}),
        ("dump", asked.dumps, {row.id for row in rows}),
    ):
        for name in names:
            if name not in known:
                raise unknown(what, name, known)


def _repair(engine: Engine, results: Sequence[Any], progress: Progress, anew: bool) -> Tuple[tuple, List[str]]:
    """Under the run lock puts damaged holding images aside and, if wanted, makes damaged copies anew; what could not
    be done."""
    from ..dump import runlock

    if not any(one.status == "damaged" for one in results):
        return (), []
    try:
        with runlock.hold(engine.settings, what="verify", command=engine.command):
            return _repair_held(engine, results, progress, anew)
    except Busy as error:
        return (), [f"nothing is made anew now: {error.message} -> stowage stage"]


def _repair_held(
    engine: Engine, results: Sequence[Any], progress: Progress, anew: bool = True
) -> Tuple[tuple, List[str]]:
    from ..stage import heal, stager
    from ..verify import verifier
    from . import beside, pruning, unhiding

    damaged = [one for one in results if one.status == "damaged"]
    problems = []
    for one in damaged:
        if one.place == HOLDING:
            try:
                heal.spoiled(engine.settings, engine.catalog, one.dump, HOLDING, one.message)
            except (StowageError, OSError) as error:
                problems.append(f"{one.dump} on holding: {error}")
    if anew:
        reader = verifier.Verifier(engine.settings, engine.catalog, engine.target, progress=progress)
        back, told = unhiding.bring_back(engine, damaged, reader)
        problems += told
        # they are made from what is proven again, not instead of it
        damaged = [one for one in damaged if one.dump not in back]
    names = {one.dump for one in damaged}
    sources = list({(one.client, one.source) for one in damaged})
    made: tuple = ()
    if anew and damaged:
        made = stager.stage(
            engine.settings, engine.catalog, engine.target, targets=list({one.place for one in damaged}),
            sources=sources, progress=progress, repair=names, rooms=beside.rooms(engine.settings),
        )  # fmt: skip
    if made:
        problems += pruning.lock(engine, {(one.dump, one.target) for one in made if one.ok})
    for name in sorted(names):
        row = engine.catalog.dump(name)
        if row is not None and row.damaged:
            problems.append(
                f"{row.client}:{row.source} {name} has no good copy left: the next run of it makes a full"
                f" -> stowage run --client {row.client} --source {row.source}"
            )
    return tuple(one for one in made if one.dump in names), problems


def night(engine: Engine, progress: Progress = None) -> Optional[Answer]:
    """The small sample of a night, while the run lock is held: oldest proofs first, within the time and money that
    `verify` of the configuration allows; None when it is switched off or not due."""
    wish = engine.settings.verify
    young = clock.now_ns() - round(DAY * clock.NS)
    if wish.night <= 0 or not any(dump.ended_ns < young for dump in engine.catalog.dumps()):
        return None  # what was verified a moment ago, when it was copied, need not be read again
    from ..verify import verifier

    before = engine.catalog.proofs(kind="sample")
    last = max((one.when_ns for one in before), default=0)
    days = (clock.now_ns() - last) / clock.NS / DAY if last else 1.0
    if 0 <= days < SOON:
        return None
    found, _problems = verifier.jobs(engine.settings, engine.catalog)
    share = min(1.0, max(1.0, days) / wish.sample_days)
    limits = {}
    for name in {job.place for job in found} - {HOLDING}:
        with contextlib.suppress(StowageError):
            if _is_metered(engine, name):
                limits[name] = wish.metered
    end = time.monotonic() + wish.night
    reader = verifier.Verifier(engine.settings, engine.catalog, engine.target, _ring(engine), progress, end)
    results, _taken = _sample(engine, reader, found, share, limits, young)
    repaired, problems = _repair_held(engine, results, progress) if any(
        one.status == "damaged" for one in results
    ) else ((), [])
    return Answer(results, repaired, (), tuple(problems), None, sum(one.bytes for one in results))


def _is_metered(engine: Engine, name: str) -> bool:
    from ..hookspecs import TargetError

    try:
        return bool(getattr(engine.target(name).capabilities, "metered", False))
    except TargetError:
        return True


def _ring(engine: Engine) -> Any:
    """The keys that open without asking anybody."""
    from ..keys import store

    try:
        return store.private_keys(engine.settings.keys)
    except StowageError:
        return None


def warnings_of(answer: Optional[Answer]) -> List[str]:
    """What a night's sample found, as lines of the report."""
    if answer is None:
        return []
    made = {(one.dump, one.target) for one in answer.repaired if one.ok}
    lines = [
        f"verify: {one.client}:{one.source} {one.dump} on {one.place} is {_word(one)}: {one.message}"
        + (", made anew from a good copy" if (one.dump, one.place) in made else "")
        for one in answer.bad
    ]  # fmt: skip
    return lines + [f"verify: {problem}" for problem in answer.problems]


def _word(one: Any) -> str:
    return {"damaged": "damaged", "wrong": "wrong in itself"}.get(one.status, "not readable")


