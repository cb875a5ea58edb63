"""How an upload in parts begins at an S3 place, so that it can be ended whatever happens.

An upload gets its name from the place: when the answer to its beginning is lost, or this process is killed before it
is written down, nobody knows it, and its parts are paid for until somebody looks. So the key is noted before, and the
upload after. Here live these notes, and the uploads of a key that no note knows. Not here: what is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Type

from backupcore import files
from backupcore.hookspecs import TargetError

from ._s3_client import told
from ._s3_kept import check_answer

UNTOLD = ".begins.json"  # the end of a note's name that knows only the key


def note_name(upload: str) -> str:
    return hashlib.sha256(upload.encode()).hexdigest()[:32]


def note_of(target: Any, upload: str) -> Path:
    """Where an upload is noted."""
    return target.notes() / (note_name(upload) + ".json")


def begun(target: Any, where: Mapping[str, Any], what: str, **given: Any) -> str:
    """A new upload at the place: its id. where: Bucket and Key; what: the doing, for errors."""
    with told(what):
        answer = target.client().create_multipart_upload(**where, **given)
    try:
        check_answer(answer, target.options, what)
    except TargetError:
        target.abort(where["Key"], answer["UploadId"])
        raise
    if answer.get("ResponseMetadata", {}).get("RetryAttempts"):
        with contextlib.suppress(TargetError):  # the first try may have begun one too, and its answer was lost
            end_others(target, where["Key"], answer["UploadId"])
    return answer["UploadId"]


def begun_and_noted(target: Any, where: Mapping[str, Any], begin: Any) -> str:
    """The upload that begin() begins, noted for clean() from before it is there. Earlier ones of its key are ended: who
    begins anew cannot go on with them."""
    key = where["Key"]
    noted = {"bucket": where["Bucket"], "key": key}
    untold = target.notes() / (note_name(key) + UNTOLD)
    files.make_folder(target.notes())
    older = list(_notes_of(target, noted))
    if untold not in older:
        files.replace(untold, json.dumps({**noted, "upload": ""}).encode())
    upload = begin()
    note = note_of(target, upload)
    files.replace(note, json.dumps({**noted, "upload": upload}).encode())
    with contextlib.suppress(TargetError):  # else clean() does it
        if older:
            end_others(target, key, upload)
        for path in {untold, *older} - {note}:
            path.unlink(missing_ok=True)
    return upload


def _notes_of(target: Any, noted: Mapping[str, str]) -> Iterator[Path]:
    for path in target.notes().glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_bytes())
            if isinstance(found, dict) and {**found, **noted} == found:
                yield path


def end_others(target: Any, key: str, upload: str = "") -> int:
    """Ends all uploads of this key but one; how many. For keys that this server alone writes: a dump's."""
    return sum(target.abort(key, one) for one in _uploads(target, key) if one != upload)


def end_untold(target: Any, key: str) -> int:
    """Ends the uploads of this key that no note knows; how many."""
    known = {note.stem for note in target.notes().glob("*.json")}
    return sum(target.abort(key, one) for one in _uploads(target, key) if note_name(one) not in known)


def _uploads(target: Any, key: str) -> List[str]:
    found: List[str] = []
    with told(f"cannot list the uploads of {target.place}"):
        pages = target.client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=target.bucket, Prefix=key):
            found += [one["UploadId"] for one in page.get("Uploads", ()) if one["Key"] == key]
    return found


@contextlib.contextmanager
def ended(target: Any, key: str, upload: str, always: Type[BaseException], keep: bool) -> Iterator[None]:
    """Around what is sent in an upload. Where it fails nothing of it is left, unless a later try can go on (keep); with
    an error of the kind `always` in any case. Its note goes with it, and when all went well."""
    note = note_of(target, upload)
    try:
        yield
    except BaseException as error:
        known = isinstance(error, always)
        if known or not keep:
            with contextlib.nullcontext() if known else contextlib.suppress(TargetError):
                target.abort(key, upload)
                note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)
