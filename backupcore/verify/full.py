"""One copy, read once from end to end: everything that can be known of it without restoring it.

Here lives the order of the checks and who speaks when two of them find fault; each check is a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from ..errors import ImageDamaged, KeyLocked, KeyMissing
from ..image import frames, layout
from ..image.manifest import Manifest
from ..image.seal import FileKey
from . import content, head, tables
from .stream import Parts
from .verdict import Report, Verdict


def check(
    copy: Any, verdict: Verdict, public_keys: Mapping[str, bytes], noted: Mapping[str, str], ring: Any, folder: Path,
    report: Report,
) -> None:  # fmt: skip
    """Reads the whole copy; what is found is in the verdict. ring: keys of sealed dumps (unlock()), or None.

    Raises TargetRefused when the place cannot be asked, StowageError when the signer is not known.
    """
    manifest = head.check(copy, verdict, public_keys, noted)
    if manifest is None:
        return
    keys = file_keys(copy, manifest, verdict, ring)
    opened = manifest.seal is None or keys is not None
    index = tables.fetch(copy, manifest, manifest.index, verdict, folder, report, keys)
    table = tables.fetch(copy, manifest, manifest.frames, verdict, folder, report, keys)
    try:
        frame_rows = frames.read(table.chunks()) if table and opened else None
        parts = Parts(copy, manifest, frame_rows, verdict, report, keys if manifest.seal is not None else None)
        archive = parts.archive()
        if index is not None and parts.whole and _is_tree(manifest):
            _compare(archive, parts, index, manifest, verdict)
        elif index is None:
            parts.read_on()
        for _piece in archive:
            pass
    finally:
        for one in (index, table):
            if one is not None:
                one.close()


def file_keys(copy: Any, manifest: Manifest, verdict: Verdict, ring: Any) -> Optional[Mapping[str, FileKey]]:
    """The keys of a sealed dump's files; None when it is not sealed, or nobody here can open it, which is noted."""
    if manifest.seal is None:
        return None
    try:
        if ring is None:
            raise KeyMissing("no private key is at hand")
        return ring.unlock(manifest, copy.small)
    except (KeyMissing, KeyLocked) as error:
        verdict.notes.append(f"sealed, checked by SHA256SUMS only: {error.message}")
    except ImageDamaged as error:
        # the keys are at hand, so it is what lies beside the image that is not right
        verdict.damaged(layout.keys_name(), error.message)
    return None


def _is_tree(manifest: Manifest) -> bool:
    found = layout.parse_part_name(manifest.parts[0].name)
    return found is not None and found[1] == "tar"


def _compare(archive: Iterator[bytes], parts: Parts, index: tables.Table, manifest: Manifest, verdict: Verdict) -> None:
    try:
        lines = content.check(
            lambda _count: next(archive, b""), content.rows_of(index.chunks), manifest.level == 0
        )  # fmt: skip
        if lines != manifest.entries:
            raise ImageDamaged(f"the index has {lines} lines, the manifest says {manifest.entries}")
        if any(archive):
            raise ImageDamaged("something stands behind the archive's end")
    except ImageDamaged as error:
        # an archive that ends where a part is damaged is cut, and that is the part's story
        if parts.whole:
            verdict.is_wrong(error.message)
        parts.read_on()
