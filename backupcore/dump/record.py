"""What a run leaves as a witness: <state>/runs/<run>.json and .sig, signed.

Here live that record and the status of a run by its results. Who else keeps it is stage/'s affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Sequence

from .. import clock, files
from ..catalog import places
from ..catalog.records import FAIL, OK, WARN, ResultRow, RunRow
from ..errors import AuditFailed
from ..image.manifest import AuditHead, Signer, sign_run_record
from ..settings import Settings

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog


def status_of(results: Sequence[ResultRow]) -> str:
    """OK, WARN or FAIL, by the results alone (what is past its rpo is the report's affair)."""
    if any(not result.ok and not result.warning for result in results):
        return FAIL
    return WARN if any(result.warning for result in results) else OK


def write(
    settings: Settings, catalog: Catalog, run: RunRow, server: str, signer: Signer, results: Sequence[ResultRow]
) -> None:
    """Writes the digests of all manifests of the run, to witness what is lost later; and the end of the audit log."""
    rows = [catalog.dump(result.dump) for result in results if result.dump]
    made = [
        {"client": row.client, "source": row.source, **({"segment": row.segment} if row.segment else {}),
         "dump": row.id, "counter": row.counter, "manifest_sha256": row.manifest_sha256}
        for row in rows if row is not None
    ]  # fmt: skip
    data, signature = sign_run_record(
        signer, server, run.id, run.begun_ns, max(clock.now_ns(), run.begun_ns), status_of(results), made,
        _audit_head(settings),
    )  # fmt: skip
    path = places.run_record(settings.state, run.id)
    files.make_lasting(path.parent)
    files.replace(path, data)
    files.replace(path.with_suffix(".sig"), signature)


def _audit_head(settings: Settings) -> Optional[AuditHead]:
    from ..audit import log

    try:
        found = log.head(settings.state)
    except AuditFailed:
        return None  # `check` says so
    return AuditHead(found.seq, found.sha256)
