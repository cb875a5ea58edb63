"""Uploads to an S3 place that nobody will finish: whose they are, and ending this server's own.

Each upload has a note in the target's own folder from its beginning to its end. Not here: taking one up again
(_s3_upload.py).
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterator, Optional, Tuple

from backupcore import clock, ids
from backupcore.image import layout

from . import _s3_lock as locking
from . import _streaming as streaming
from ._s3_begin import end_untold, note_name
from ._s3_errors import told

_SERVER = re.compile(r"[0-9a-f]{16}\Z")


def is_ours(name: str) -> bool:
    """Whether a name is one of a dump's file, as a Stowage makes it: client/source/dump/file."""
    parts = name.split("/")
    return len(parts) == 4 and ids.parse_dump_name(parts[2]) is not None and all(map(ids.is_name, parts[:2]))


class Unfinished:
    """What S3Target is besides: it has the bucket, the prefix, the client, the notes and the context."""

    bucket: str
    prefix: str
    place: str
    client: Any
    notes: Any
    abort: Any
    list: Any
    folder: Any
    probe_name: str
    _known: Any
    _context: Any

    def clean(self, older_than_ns) -> int:
        """Aborts this server's own uploads that began before that time: those it has a note of, and others that must be
        its own. Removes what a probe of locks had to leave."""
        count = 0
        for note in self.notes().glob("*.json"):
            try:
                if note.stat().st_mtime_ns >= older_than_ns:
                    continue
                begun = json.loads(note.read_bytes())
                known = begun["bucket"] == self.bucket and begun["key"].startswith(self.prefix)
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                known = False
            if known:
                key, upload = begun["key"], begun["upload"]
                count += self.abort(key, upload) if upload else end_untold(self, key)
            note.unlink(missing_ok=True)
        for note, facts in streaming.left(self.folder):
            if facts.get("bucket") == self.bucket and str(facts.get("key")).startswith(self.prefix):
                count += end_untold(self, facts["key"])
            note.unlink(missing_ok=True)
        for key, upload in self._unfinished(older_than_ns, own=True):
            count += self.abort(key, upload)
        known = self._known
        if known is not None and known.versions and (known.lock or known.default_lock):
            for name in (self.probe_name, self.probe_name + ".lock"):
                locking.sweep(self.client(), self.bucket, self.prefix + name)
        return count

    def foreign_uploads(self, older_than_ns: int) -> int:
        """How many unfinished uploads below the prefix are older than that and not this server's."""
        return sum(1 for _found in self._unfinished(older_than_ns, own=False))

    def _unfinished(self, older_than_ns: int, own: bool) -> Iterator[Tuple[str, str]]:
        """(key, upload id) of uploads that have no note, begun before that: this server's own, or those of others.

        An upload is this server's when it is to be a file of a dump, and no other server has put its marker at the
        prefix: then nobody else makes such names here. Lost notes are those of a disk that was lost.
        """
        noted = {note.stem for note in self.notes().glob("*.json")}
        alone: Optional[bool] = None
        with told(f"cannot list the uploads of {self.place}"):
            pages = self.client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    old = upload["Initiated"].timestamp() * clock.NS < older_than_ns
                    if not old or note_name(upload["UploadId"]) in noted:
                        continue
                    alone = self._is_alone() if alone is None else alone
                    if (alone and is_ours(upload["Key"][len(self.prefix) :])) == own:
                        yield upload["Key"], upload["UploadId"]

    def _is_alone(self) -> bool:
        """Whether this server's is the only marker at the prefix."""
        names = (found.name.rpartition("/")[2] for found in self.list(layout.MARK + "/") if found.name.count("/") == 1)
        return {name for name in names if _SERVER.match(name)} == {self._context.server_id}
