"""Uploads in parts that only try what a place does: begun, put together or ended so that none is left behind.

A line may lose any answer here: what was done without our hearing of it is done. Not here: what is tried
(_s3_probe.py, _s3_kept.py, _s3_lock.py), and the uploads of images (_s3_begin.py, _s3_upload.py).
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Mapping

from ._s3_errors import code_of

_GONE = ("NoSuchUpload", "NoSuchKey", "404")


def begin(client: Any, where: Mapping[str, Any], **asked: Any) -> Dict[str, Any]:
    """A new upload: `where` (Bucket and Key) with its id. Of a first try whose answer was lost nothing is left."""
    answer = client.create_multipart_upload(**where, **asked)
    begun = {**where, "UploadId": answer["UploadId"]}
    if _was_repeated(answer):
        try:
            _end_others(client, begun)
        except BaseException:
            with contextlib.suppress(Exception):
                end(client, begun)
            raise
    return begun


def end(client: Any, begun: Mapping[str, Any]) -> None:
    """Ends an upload; one that is ended already is."""
    try:
        client.abort_multipart_upload(**begun)
    except client.exceptions.ClientError as error:
        if code_of(error) not in _GONE:
            raise


def put(client: Any, where: Mapping[str, Any], content: bytes, asked: Mapping[str, Any], **checked: Any) -> None:
    """Puts content as an upload of one part. asked: of the object; checked: of the part."""
    begun = begin(client, where, **asked)
    try:
        part = client.upload_part(**begun, PartNumber=1, Body=content, **checked)
        listed = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        try:
            client.complete_multipart_upload(**begun, MultipartUpload=listed)
        except client.exceptions.ClientError as error:
            if code_of(error) != "NoSuchUpload" or not _was_repeated(error.response):
                raise
            client.head_object(**where)  # it was put together, and the answer was lost
    except BaseException:
        with contextlib.suppress(Exception):  # the first error says what is wrong
            end(client, begun)
        raise


def _was_repeated(answer: Mapping[str, Any]) -> bool:
    return bool(answer.get("ResponseMetadata", {}).get("RetryAttempts"))


def _end_others(client: Any, begun: Mapping[str, Any]) -> None:
    pages = client.get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=begun["Bucket"], Prefix=begun["Key"]):
        for one in page.get("Uploads", ()):
            if one["Key"] == begun["Key"] and one["UploadId"] != begun["UploadId"]:
                end(client, {**begun, "UploadId": one["UploadId"]})
