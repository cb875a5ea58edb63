"""Index and frame table of a copy: fetched into a temporary file, checked, and only then read.

Here live fetching, the check against the manifest, and opening what is sealed. Reading them is image.index and
image.frames; a table never lies in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import IO, Any, Iterator, Mapping, Optional

from ..errors import ImageDamaged
from ..image import codec
from ..image.manifest import FileRecord, Manifest
from ..image.seal import FRAMES, INDEX, FileKey, Opener
from .verdict import Report, Verdict

STEP = 1 << 20


class Table:
    """A table that is what the manifest says. chunks() may be called again and again."""

    def __init__(self, file: IO[bytes], packer: str, opener: Optional[Opener]):
        self._file, self._packer, self._opener = file, packer, opener

    def chunks(self) -> Iterator[bytes]:
        """Its text, in pieces. Raises ImageDamaged."""
        return codec.get(self._packer).unpack(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        stream = self._opener.stream() if self._opener else None
        self._file.seek(0)
        while True:
            piece = self._file.read(STEP)
            if not piece:
                return
            yield stream.update(piece) if stream else piece

    def close(self) -> None:
        """Frees the temporary file."""
        self._file.close()


def fetch(
    copy: Any, manifest: Manifest, record: FileRecord, verdict: Verdict, folder: Path, report: Report,
    keys: Optional[Mapping[str, FileKey]],
) -> Optional[Table]:  # fmt: skip
    """The table of that record; None when it is damaged, or sealed and keys has none for it."""
    file = tempfile.TemporaryFile(dir=folder, prefix="verify-")  # noqa: SIM115 - closed by Table.close()
    found = hashlib.sha256()
    try:
        for piece in copy.pieces(record.name, 0, record.size):
            found.update(piece)
            file.write(piece)
            verdict.bytes += len(piece)
            report(len(piece))
        if found.hexdigest() != record.sha256:
            raise ImageDamaged(f"{record.name} is not what was signed")
    except ImageDamaged as error:
        verdict.damaged(record.name, error.message)
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    verdict.is_good(record.name, record.size, record.sha256)
    opener = None
    if manifest.seal is not None:
        key = (keys or {}).get(record.name)
        if key is None:
            file.close()
            return None
        kind = INDEX if record is manifest.index else FRAMES
        opener = Opener(key, manifest.prefix, kind)
        try:
            opener.check_table(record.size, found.digest(), bytes.fromhex(manifest.sealed.macs[record.name]))
        except ImageDamaged as error:
            verdict.is_wrong(f"{record.name}: {error.message}")
            file.close()
            return None
    return Table(file, manifest.codec, opener)
