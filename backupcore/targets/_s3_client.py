"""The way to an S3 place: options, credentials, the boto3 client, and botocore's errors in one clear line.

boto3 is imported when it is first used, since that takes a while. Not here: what is sent (s3.py), what a
place can do (_s3_probe.py).
"""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backupcore import text
from backupcore.hookspecs import TargetError

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
LARGEST_PART = 5 << 30
PACED = 16 << 10  # bytes of an upload that wait for their turn together
ATTEMPTS = 5  # of each request, with growing pauses (0.5 to 20 s)


class S3Options(BaseModel):
    """Where and how. credentials: a 0600 file with access_key and secret_key; else profile, else the AWS chain."""

    model_config = ConfigDict(extra="forbid")

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,254}$")
    prefix: str = ""
    region: Optional[str] = None
    endpoint: Optional[str] = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    profile: Optional[str] = None
    credentials: Optional[Path] = None
    storage_class: Optional[str] = Field(default=None, pattern=r"^[A-Z0-9_]+$")
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca: Optional[Path] = None
    part_size: int = 16 * MIB
    parallel: int = Field(default=4, ge=1, le=64)

    @field_validator("prefix")
    @classmethod
    def _plain_prefix(cls, value: str) -> str:
        value = value.strip("/")
        if not re.fullmatch(r"[A-Za-z0-9._/-]{0,100}", value) or {".", ".."} & set(value.split("/")) or "//" in value:
            raise ValueError("prefix takes up to 100 letters, digits, '.', '_', '-' and '/'")
        return value

    @field_validator("part_size", mode="before")
    @classmethod
    def _size(cls, value) -> int:
        size = text.parse_size(value)
        if not SMALLEST_PART <= size <= LARGEST_PART:
            raise ValueError("part_size must be 5 MiB to 5 GiB: S3 takes no other upload parts")
        return size


def read_credentials(path: Path, name: str) -> dict:
    """{access_key, secret_key, session_token?} from a file that only its owner can read.

    JSON or INI; flat, or one section for each target's name (INI also [default]).
    """
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise TargetError(f"{path} can be read by others", f"chmod 600 {path}")
            content = file.read(100_000)
    except OSError as error:
        raise TargetError(
            f"cannot read the credentials of target {name}: {error.strerror}: {path}",
            "write access_key and secret_key into it, chmod 600",
        ) from None
    try:
        found = _section(content, name)
        keys = {key: found.get(key) or found.get("aws_" + long) for key, long in _KEYS.items()}
    except (ValueError, AttributeError, configparser.Error):
        raise TargetError(f"{path} is neither JSON nor INI", "write access_key and secret_key into it") from None
    if not all(isinstance(keys[key], str) and keys[key] for key in ("access_key", "secret_key")):
        raise TargetError(f"{path} has no access_key and secret_key for target {name}")
    return keys


_KEYS = {"access_key": "access_key_id", "secret_key": "secret_access_key", "session_token": "session_token"}


def _section(content: str, name: str) -> dict:
    if content.lstrip().startswith("{"):
        found = json.loads(content)
        return found.get(name, found)
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    parser.read_string(content if content.lstrip().startswith("[") else "[default]\n" + content)
    for section in (name, "default"):
        if parser.has_section(section):
            return dict(parser[section])
    return {}


def make_client(options: S3Options, name: str):
    """A boto3 client; talks to nobody yet."""
    import boto3.session
    from botocore.config import Config

    with told(f"target {name}"):
        keys = read_credentials(options.credentials, name) if options.credentials else {}
        session = boto3.session.Session(
            profile_name=options.profile if not keys else None,
            aws_access_key_id=keys.get("access_key"),
            aws_secret_access_key=keys.get("secret_key"),
            aws_session_token=keys.get("session_token"),
        )
        if options.ca and not options.ca.is_file():
            raise TargetError(f"the certificate file of target {name} is not there: {options.ca}")
        client = session.client(
            "s3",
            region_name=options.region or session.region_name or "us-east-1",
            endpoint_url=options.endpoint,
            verify=str(options.ca) if options.ca else None,
            config=Config(
                # the payload's SHA-256 is signed also under TLS: servers that know no checksum header check that one
                s3={"addressing_style": options.addressing, "payload_signing_enabled": True},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=options.parallel + 8,
                connect_timeout=10,
                read_timeout=60,
                tcp_keepalive=True,
            ),
        )
        client.meta.events.register("before-send.s3.UploadPart", _slow_down)
        client.meta.events.register("before-send.s3.PutObject", _slow_down)
        return client


_sending = threading.local()


@contextlib.contextmanager
def paced(pace: Optional[Callable[[int], None]]) -> Iterator[None]:
    """What this thread uploads inside goes no faster than pace lets it."""
    _sending.pace = pace
    try:
        yield
    finally:
        _sending.pace = None


def _slow_down(request: Any, **_more: Any) -> None:
    # signed and measured by now: only the sending itself is slowed, each try of it
    pace = getattr(_sending, "pace", None)
    if pace is not None and request.body:
        request.body = _Paced(request.body, pace)


class _Paced:
    """The body of a request, given piece by piece as pace lets it go."""

    def __init__(self, body: Any, pace: Callable[[int], None]):
        self._body = body if hasattr(body, "read") else io.BytesIO(body)
        self._pace = pace

    def read(self, size: int = -1) -> bytes:
        data = self._body.read(min(size, PACED) if size and size > 0 else PACED)
        if data:
            self._pace(len(data))
        return data

    def tell(self) -> int:
        return self._body.tell()

    def seek(self, *where: int) -> int:
        return self._body.seek(*where)


# code of an answer: (what it means, next step)
_CODES = {
    "NoSuchBucket": ("there is no such bucket", "make the bucket, or correct bucket: and region:"),
    "InvalidBucketName": ("the server takes no such bucket name", "correct bucket:"),
    "InvalidAccessKeyId": ("the access key is unknown there", "correct access_key in the credentials"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "correct secret_key in the credentials"),
    "AccessDenied": ("access denied", "give this key the right to list, read, write and delete below the prefix"),
    "AllAccessDisabled": ("access denied", "ask the provider why the account is closed"),
    "RequestTimeTooSkewed": ("the clocks differ too much", "set this server's clock: timedatectl set-ntp true"),
    "ExpiredToken": ("the session token has expired", "get new credentials"),
    "InvalidToken": ("the session token is wrong", "get new credentials"),
    "PermanentRedirect": ("the bucket is in another region", "correct region: and endpoint:"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "correct region:"),
    "IllegalLocationConstraintException": ("the bucket is in another region", "correct region:"),
    "InvalidStorageClass": ("the server knows no such storage class", "correct storage_class:"),
    "InvalidObjectState": ("the object is archived", "ask the provider to restore it first (restore-object)"),
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
            return TargetError(f"{what}: {_CODES[code][0]} ({code})", _CODES[code][1], retry)
        if status in (401, 403):
            return TargetError(f"{what}: {_CODES['AccessDenied'][0]} ({code})", _CODES["AccessDenied"][1])
        if status >= 500 or status == 429:
            hint = "the next run goes on where this one stopped"
            return TargetError(f"{what}: the server is busy or ill ({status} {code})", hint, True)
        message = one_line(error.response.get("Error", {}).get("Message") or "")
        return TargetError(f"{what}: {one_line(code)} {message}".rstrip(), "", retry)
    again = "the next run goes on where this one stopped"
    for kind, meaning, hint, retry in (
        (exceptions.SSLError, "no trusted TLS connection", "give the server's authority as ca: FILE", False),
        (exceptions.ProxyConnectionError, "no connection to the proxy", "look at HTTPS_PROXY", True),
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
