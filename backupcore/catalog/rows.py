"""A row of the catalog from what stands in an image: its manifest.

Here lives that one step, since a dump that a killed run left and one that only a target has left need it both.
"""

from __future__ import annotations

from typing import Tuple

from ..image.manifest import Manifest
from .records import UNKNOWN, DumpRow


def row_of(manifest: Manifest, sha256: str, notes: Tuple[str, ...] = ()) -> DumpRow:
    """The row of a dump of which only the manifest is known: no state, and of the options what it tells."""
    options = {"type": manifest.type, "path": manifest.path}
    if manifest.seal is not None:
        options["encrypt"] = manifest.sealed.by
    if manifest.folders:
        options["folders"] = list(manifest.folders)
    if manifest.newer_ns:
        options["newer_ns"] = manifest.newer_ns
    return DumpRow(
        id=manifest.dump, client=manifest.client, source=manifest.source, segment=manifest.segment or "",
        type=manifest.type, path=manifest.path, level=manifest.level, counter=manifest.counter,
        begun_ns=manifest.begun_ns, ended_ns=manifest.ended_ns,
        base=manifest.base.dump if manifest.base else None,
        previous=manifest.previous.dump if manifest.previous else None, run="", codec=manifest.codec,
        archive_size=manifest.archive_size, stored_size=manifest.stored_size, entries=manifest.entries,
        files=UNKNOWN, holding=None, manifest_sha256=sha256, warnings=manifest.warnings, suspects=manifest.suspects,
        notes=notes, options=options,
    )  # fmt: skip
