"""What botocore and the network raise, as TargetErrors of one clear line with the next step.

Here live the codes of S3's answers and what they mean to a person. Not here: who asks (_s3_client.py, s3.py).
"""

from __future__ import annotations

import contextlib
import email.utils
import re
from typing import Any, Iterator, Optional, Tuple

from backupcore import clock, text
from backupcore.hookspecs import TargetError

# code of an answer: (what it means, next step)
_CODES = {
    "NoSuchBucket": ("there is no such bucket", "make the bucket, or correct bucket: and region:"),
    "InvalidBucketName": ("the server takes no such bucket name", "correct bucket:"),
    "InvalidAccessKeyId": ("the access key is unknown there", "correct access_key in the credentials"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "correct secret_key in the credentials"),
    "AccessDenied": ("access denied", "give this key the right to list, read, write and delete below the prefix"),
    "AllAccessDisabled": ("access denied", "ask the provider why the account is closed"),
    "RequestTimeTooSkewed": ("the clocks differ too much", "set this server's clock: chronyc makestep"),
    "ExpiredToken": ("the session token has expired",
                     "put a new one where the credentials come from: a file is read again when it changed"),
    "InvalidToken": ("the session token is wrong", "get new credentials"),
    "PermanentRedirect": ("the bucket is in another region", "correct region: and endpoint:"),
    "301": ("the bucket is in another region", "correct region: and endpoint:"),
    "TemporaryRedirect": ("the bucket is in another region", "correct region: and endpoint:"),
    "307": ("the bucket is in another region", "correct region: and endpoint:"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "correct region:"),
    "IllegalLocationConstraintException": ("the bucket is in another region", "correct region:"),
    "InvalidStorageClass": ("the server knows no such storage class", "correct storage_class:"),
    "InvalidObjectState": ("the object is archived", "ask the provider to restore it first (restore-object)"),
    "407": ("the proxy wants to know who you are", "write proxy_user and proxy_password into the credentials"),
    "EntityTooLarge": ("the server takes no file or upload part of that size", "make part_size: larger or smaller"),
    "EntityTooSmall": ("the server wants larger upload parts", "make part_size: larger"),
    "QuotaExceeded": ("the quota is used up", "raise it, or remove old copies"),
    "XMinioStorageFull": ("the server's disk is full", "make room there"),
    "InsufficientCapacity": ("the server's disk is full", "make room there"),
    "InvalidPart": ("the server lost upload parts that it had taken", "stowage stage"),
    "PreconditionFailed": ("it is already there", "another server or an earlier run put it there"),
    "NoSuchKey": ("it is not there", ""),
    "404": ("it is not there", ""),
    "InvalidRange": ("it ends before that", ""),
    "BadDigest": ("the bytes were damaged on the way", "try again"),
    "XAmzContentSHA256Mismatch": ("the bytes were damaged on the way", "try again"),
    "XAmzContentChecksumMismatch": ("the bytes were damaged on the way", "try again"),
}
_RETRY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Throttling"}
_RETRY |= {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ConditionalRequestConflict"}


def code_of(error: BaseException) -> str:
    """The code of the place's answer, '' when there was none."""
    response = getattr(error, "response", None)
    return str((response or {}).get("Error", {}).get("Code") or "") if isinstance(response, dict) else ""


def explained(error: BaseException, what: str) -> TargetError:
    """Any error of botocore as TargetError. what: the doing that failed, as `cannot write x to bucket y`."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    code = code_of(error)
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        retry = code in _RETRY or status >= 500 or status == 429
        if code in _CODES:
            meaning, hint = _CODES[code]
            more = _more(error, code)
            return TargetError(f"{what}: {more[0] or meaning} ({code})", more[1] or hint, retry)
        if status in (401, 403):
            return TargetError(f"{what}: {_CODES['AccessDenied'][0]} ({code})", _CODES["AccessDenied"][1])
        if status >= 500 or status == 429:
            hint = "the next run goes on where this one stopped"
            return TargetError(f"{what}: the server is busy or ill ({status} {code})", hint, True)
        message = one_line(error.response.get("Error", {}).get("Message") or "")
        return TargetError(f"{what}: {one_line(code)} {message}".rstrip(), "", retry)
    again = "the next run goes on where this one stopped"
    for kind, meaning, hint, retry in (
        (exceptions.SSLError, *_tls(error), False),
        (exceptions.ProxyConnectionError, *_proxy(error), True),
        (exceptions.ConnectTimeoutError, "no answer in time", "look at the network and endpoint:", True),
        (exceptions.EndpointConnectionError, "no connection", "look at the network, endpoint: and region:", True),
        (exceptions.ReadTimeoutError, "the server went silent", again, True),
        (exceptions.ConnectionClosedError, "the connection was cut", again, True),
        (exceptions.IncompleteReadError, "the answer ended too early", "try again", True),
        (exceptions.ResponseStreamingError, "the answer ended too early", "try again", True),
        (exceptions.NoCredentialsError, "no credentials", "set credentials: FILE or profile: for this target", False),
        (exceptions.PartialCredentialsError, "half the credentials are missing", "give both keys", False),
        (exceptions.CredentialRetrievalError, "cannot get the credentials", one_line(str(error)), False),
        (exceptions.ProfileNotFound, one_line(str(error)), "look into ~/.aws/config of stowage's user", False),
        (ResponseParserError, "the answer is not S3", "look at endpoint:", False),
        (exceptions.HTTPClientError, "the connection failed", one_line(str(error)), True),
    ):
        if isinstance(error, kind):
            return TargetError(f"{what}: {meaning}", hint, retry)
    return TargetError(f"{what}: {one_line(str(error))}", "", isinstance(error, OSError))


def _more(error: Any, code: str) -> Tuple[str, str]:
    """(meaning, next step) as this very answer tells them: the region, the clock; '' where it tells no more."""
    if code == "RequestTimeTooSkewed":
        seconds = skew_of(error.response)
        if seconds is not None:
            way = "ahead of" if seconds > 0 else "behind"
            return f"this server's clock is {text.duration(abs(seconds))} {way} the place's", ""
    if "another region" in _CODES[code][0]:
        region = region_of(error.response)
        if region:
            return f"the bucket is in another region, {region}", f"set region: {region}"
    return "", ""


def skew_of(answer: dict) -> Optional[float]:
    """Seconds that this machine's clock is ahead of the one that answered just now, by its Date header."""
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return clock.now_ns() / clock.NS - email.utils.parsedate_to_datetime(told).timestamp()
    except (TypeError, ValueError):
        return None


def region_of(answer: dict) -> str:
    """The region that an answer names as the bucket's, '' when it names none."""
    error = answer.get("Error", {})
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    said = re.search(r"expecting '([a-z0-9-]+)'", str(error.get("Message") or ""))
    found = headers.get("x-amz-bucket-region") or error.get("Region") or (said.group(1) if said else "")
    return str(found) if re.fullmatch(r"[a-z0-9-]{1,40}", str(found)) else ""


_OTHER_HOST = ("the certificate there is another host's", "correct endpoint:, or have one made for that name")


def _inner(error: BaseException) -> str:
    """What was said below botocore's words, which hold addresses; never shown."""
    return str((getattr(error, "kwargs", None) or {}).get("error") or "")


def _tls(error: BaseException) -> Tuple[str, str]:
    """(meaning, next step) when TLS trusts nobody there."""
    said = _inner(error).lower().replace("_", " ")
    for words, meaning, hint in (
        ("mismatch", *_OTHER_HOST),
        ("doesn't match", *_OTHER_HOST),
        ("has expired", "the certificate there has expired", "have it renewed, and look at this server's clock"),
        ("not yet valid", "the certificate there is not valid yet", "look at this server's clock"),
        ("no certificate", "the file of ca: holds no certificate", "correct ca:"),
    ):
        if words in said:
            return meaning, hint
    return "no trusted TLS connection", "give the server's authority as ca: FILE"


def _proxy(error: BaseException) -> Tuple[str, str]:
    """(meaning, next step) when the proxy gives no way; what it said is not shown, an address may hold a password."""
    if re.search(r"\b407\b", _inner(error)):
        return _CODES["407"]
    return "no connection to the proxy", "look at proxy:, or at HTTPS_PROXY in the environment"


def one_line(message: str) -> str:
    """What a server said, safe to show and not too long."""
    return text.escape(" ".join(message.split()))[:300]


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Any error of botocore and the network inside becomes a TargetError of one line."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError) as error:
        raise explained(error, what) from None
