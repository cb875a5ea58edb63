"""Copies of which somebody hid files behind delete markers: brought back, and looked at anew.

A bucket that keeps versions forgets nothing when a file is removed by who may not remove versions: it puts a marker
above it. Stowage itself removes versions, so a marker above a copy that the catalog knows is somebody else's work. Here
lives undoing that, for verify. Not here: what verify says (verifying.py), how a place hides (targets/).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Sequence, Set, Tuple

from ..catalog.records import HOLDING
from ..errors import StowageError
from ..hookspecs import TargetError
from ..image.layout import dump_prefix
from .engine import Engine


def bring_back(engine: Engine, damaged: Sequence[Any], reader: Any) -> Tuple[Set[str], List[str]]:
    """Brings back the hidden files of damaged copies: dumps that have one again, and what a person has to hear of it.

    damaged: verify.verifier.Result of each; reader: a Verifier. A copy whose files are all there again counts as one
    that a rebuild found: whole by its sizes and its signature, and proven when it is read the next time. The bytes of
    ten terabytes are not read at once because somebody removed them.
    """
    from ..verify.verifier import Job

    jobs, told = [], []
    for one in damaged:
        dump = engine.catalog.dump(one.dump)
        if dump is None or one.place == HOLDING:
            continue
        prefix = dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
        try:
            count = _unhide(engine.target(one.place), prefix + "/")
        except (StowageError, TargetError) as error:
            told.append(f"target {one.place}: what is hidden of {dump.id} cannot be brought back: {error.message}")
            continue
        if count:
            told.append(
                f"{count} files of {dump.id} on {one.place} were hidden by delete markers, which are taken off now:"
                " somebody who may remove files there did that -> stowage verify --full"
            )
            jobs += [Job(dump, one.place, row) for row in engine.catalog.copies(dump=dump.id, target=one.place)]
    good = {(one.dump, one.place) for one in reader.work(jobs, "quick") if one.status == "ok"}
    for job in jobs:
        if (job.dump.id, job.place) in good and job.row is not None:
            keys = (job.row.upload or {}).get("keys")
            upload = {"keys": keys} if keys else {}
            engine.catalog.put_copy(replace(job.row, state="done", error="", upload=upload, updated_ns=0))
            engine.catalog.mark_damaged(job.dump.id, False)
    return {name for name, _place in good}, told


def _unhide(target: Any, prefix: str) -> int:
    """How many files below prefix are seen again; 0 at places that hide nothing."""
    hidden = getattr(target, "hidden", None)
    names = list(hidden(prefix)) if hidden is not None else []
    for name in names:
        target.unhide(name)
    return len(names)
