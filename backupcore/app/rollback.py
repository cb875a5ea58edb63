"""Verify against a run's signed record that was kept elsewhere: does a target, or this server, show an older state?

Here lives what a record is compared with. Whoever holds a target can put it back to an older state of itself, with
right signatures; who holds this server, too. A record that lies where neither reaches contradicts both. How two
accounts of one source contradict each other is rebuild/judge.py, which asks the same of a target before it is
believed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from .. import files, ids
from ..catalog import places
from ..errors import ImageDamaged, RequestError
from ..image.folder import read_small
from ..image.manifest import SIZE_LIMIT, Made, RunRecord, load_public_keys, open_run_record
from ..image.signing import LENGTH
from ..rebuild import judge, scan
from ..rebuild.spool import Source, Spool
from ..verify.marking import OPEN
from .engine import Engine

HINT = "it lost dumps, or shows an older state of itself: compare with another place before it is believed"


@dataclass(frozen=True)
class Rollback:
    """A place that contradicts a record: a target's name, or `catalog`."""

    place: str
    client: str
    source: str
    dump: str
    message: str

    def as_dict(self) -> Dict[str, str]:
        """JSON-ready."""
        return {"place": self.place, "client": self.client, "source": self.source, "dump": self.dump,
                "message": self.message}  # fmt: skip

    @property
    def line(self) -> str:
        """For people."""
        return f"rollback of {self.place}: {self.client}:{self.source}: {self.message} -> {HINT}"


def read(engine: Engine, path: str) -> RunRecord:
    """The record in a file, whose signature lies beside it with .sig in the place of .json. Raises RequestError."""
    file = Path(path)
    if file.suffix != ".json":
        raise RequestError(f"--last-run {path}: a record is RUN.json, with RUN.sig beside it",
                           f"they lie in {places.run_record(engine.settings.state, 'x').parent}")  # fmt: skip
    keys = load_public_keys(engine.settings.keys)
    try:
        data, signature = read_small(file, SIZE_LIMIT), read_small(file.with_suffix(".sig"), LENGTH)
        record = open_run_record(data, signature, keys)
    except ImageDamaged as error:
        raise RequestError(f"--last-run {path} proves nothing: {error.message}",
                           "both files, as a run of this server wrote them, are needed") from None  # fmt: skip
    mine = places.known_server_id(engine.settings.state)
    if record.server != mine:
        raise RequestError(f"--last-run {path} is a record of the server {record.server}; this is {mine}")
    return record


def look(engine: Engine, record: RunRecord, targets: Sequence[str]) -> List[Rollback]:
    """What the catalog and these targets do not have that they must have. Raises TargetRefused.

    A target is asked for what was copied there, by the catalog; of dumps that the catalog does not know either, for
    those that the policy of their source sends there.
    """
    by = f"the run {record.run}"
    found = list(_catalog(engine, record, by))
    keys = load_public_keys(engine.settings.keys)
    for name in targets:
        wanted = [made for made in record.manifests if _belongs(engine, made, name)]
        if not wanted:
            continue
        files.make_folder(engine.settings.state)
        with tempfile.TemporaryDirectory(prefix="rollback-", dir=engine.settings.state) as folder:
            spool = Spool(Path(folder) / "spool.sqlite")
        try:  # its file has no name any more: a kill leaves nothing
            for one in scan.scan(engine.target(name), keys, scan.Seen(), sorted({made.client for made in wanted})):
                spool.add(one)
            spool.claim(list(keys), record.server)
            found += _contradictions(engine, spool, name, wanted, by)
        finally:
            spool.close()
    return found


def _catalog(engine: Engine, record: RunRecord, by: str) -> Any:
    for made in record.manifests:
        row = engine.catalog.dump(made.dump)
        if row is not None and row.manifest_sha256 != made.manifest_sha256:
            told = f"{made.dump} is another dump than {by} made"
        elif row is None:
            told = f"{by} made {made.dump}, number {made.counter}, and the catalog does not know it"
        else:
            continue
        yield Rollback("catalog", made.client, made.source, made.dump, told)


def _belongs(engine: Engine, made: Made, target: str) -> bool:
    if engine.catalog.dump(made.dump) is not None:
        return any(row.state in OPEN for row in engine.catalog.copies(dump=made.dump, target=target))
    source = engine.settings.source(made.client, made.source)
    rule = source.rule(target) if source is not None else None
    level = 1 if made.segment == ids.INTERIM else ids.parse_dump_name(made.dump).level
    return rule is not None and rule.takes(level)


def _contradictions(engine: Engine, spool: Spool, place: str, wanted: Sequence[Made], by: str) -> List[Rollback]:
    newest: Dict[Source, Tuple[int, str]] = {}
    for made in wanted:
        row = engine.catalog.dump(made.dump)
        source = (made.client, made.source, row.segment if row is not None else made.segment)
        newest[source] = max(newest.get(source, (0, "")), (made.counter, made.dump))
    behind = judge.contradictions(spool, place, newest, by)
    found = []
    for made in wanted:
        here = spool.get(made.dump)
        if here is not None and here.sha256 == made.manifest_sha256:
            continue
        told = f"{made.dump} is another dump than {by} made"
        if here is None:
            told = next((finding.message for source, finding in behind.items() if newest[source][1] == made.dump),
                        f"{by} made {made.dump}, number {made.counter}, and {place} does not have it")  # fmt: skip
        found.append(Rollback(place, made.client, made.source, made.dump, told))
    return found
