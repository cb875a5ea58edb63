"""The way to an S3 place: its options and the boto3 client.

boto3 is imported when it is first used, since that takes a while. Not here: what is sent (s3.py), credentials
(_s3_login.py), what errors mean (_s3_errors.py), what a place can do (_s3_probe.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Literal, Optional

from pydantic import ConfigDict, Field, field_validator, model_validator

from backupcore import text
from backupcore.hookspecs import TargetError

from . import _s3_moves as moves
from ._s3_errors import code_of, explained, told
from ._s3_kept import ObjectOptions
from ._s3_login import proxies_of, read_credentials, session_of, take_on

__all__ = ["S3Options", "code_of", "explained", "make_client", "paced", "read_credentials", "told"]

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
LARGEST_PART = 5 << 30
PACED = 16 << 10  # bytes of an upload that wait for their turn together
BLOCK = 128 << 10  # bytes given to the system at once where nothing is paced; each has read_timeout to go
ATTEMPTS = 5  # of each request, with growing pauses (0.5 to 20 s)


class S3Options(ObjectOptions):
    """Where and how. credentials: a 0600 file with access_key and secret_key; else profile, else the AWS chain."""

    model_config = ConfigDict(extra="forbid")

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,254}$")
    prefix: str = ""
    region: Optional[str] = None
    endpoint: Optional[str] = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    profile: Optional[str] = None
    credentials: Optional[Path] = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca: Optional[Path] = None
    client_cert: Optional[Path] = None
    client_key: Optional[Path] = None
    proxy: Optional[str] = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    role_arn: Optional[str] = Field(default=None, max_length=2048, pattern=r"^arn:[a-z0-9-]+:iam::[^\s]+$")
    external_id: Optional[str] = Field(default=None, max_length=1224, pattern=r"^[A-Za-z0-9_+=,.@:/-]+$")
    role_session: str = Field(default="stowage", pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$")
    role_duration: float = 3600
    role_token: Optional[Path] = None
    sts_endpoint: Optional[str] = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    delete_credentials: Optional[Path] = None
    delete_profile: Optional[str] = None
    restore_tier: Literal["Bulk", "Standard", "Expedited"] = "Standard"
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

    @field_validator("proxy")
    @classmethod
    def _no_user(cls, value: Optional[str]) -> Optional[str]:
        if value is not None and "@" in value:
            raise ValueError("user and password of a proxy belong into the credentials: proxy_user, proxy_password")
        return value

    @field_validator("role_duration", mode="before")
    @classmethod
    def _lasts(cls, value) -> float:
        seconds = text.parse_duration(value)
        if not 900 <= seconds <= 12 * 3600:
            raise ValueError("role_duration must be 15 min to 12 h: a role lasts no other time")
        return seconds

    @model_validator(mode="after")
    def _together(self) -> "S3Options":
        for key, needed in (("external_id", "role_arn"), ("role_token", "role_arn"), ("client_key", "client_cert")):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise ValueError(f"{key} needs {needed} too")
        if moves.at_aws(self.endpoint):
            moves.check_aws(self.transition, self.storage_class)
        return self


def make_client(options: S3Options, name: str, pruning: bool = False):
    """A boto3 client; talks to nobody yet. pruning: with the credential that may delete, when there is one."""
    from botocore.config import Config

    with told(f"target {name}"):
        for path, what in ((options.ca, "certificate file"), (options.client_cert, "client certificate")):
            if path and not path.is_file():
                raise TargetError(f"the {what} of target {name} is not there: {path}")
        common = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            tcp_keepalive=True,
            proxies=proxies_of(options, name),
            client_cert=_client_cert(options, name),
        )
        verify = str(options.ca) if options.ca else None
        own = pruning and (options.delete_credentials or options.delete_profile)
        if own:
            session = session_of(options.delete_credentials, options.delete_profile, name)
        else:
            session = session_of(options.credentials, options.profile, name)
        region = options.region or session.region_name or "us-east-1"
        if options.role_arn and not own:
            # a bucket at AWS may be reached with the authorities of a company's proxy, and its STS by the same way
            session = take_on(session, options, name, {"region_name": region, "verify": verify, "config": common})
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            verify=verify,
            # the payload's SHA-256 is signed also under TLS: servers that know no checksum header check that one
            config=common.merge(Config(
                s3={"addressing_style": options.addressing, "payload_signing_enabled": True},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=options.parallel + 8,
            )),
        )  # fmt: skip
        client.meta.events.register_first("needs-retry.s3.HeadBucket", _asked_in_vain)
        client.meta.events.register("before-send.s3.UploadPart", _in_pieces)
        client.meta.events.register("before-send.s3.PutObject", _in_pieces)
        return client


def _client_cert(options: S3Options, name: str) -> Any:
    """What TLS shows of us, as botocore wants it."""
    if options.client_cert is None:
        return None
    key = options.client_key or options.client_cert
    try:
        private = not stat.S_IMODE(os.stat(key).st_mode) & 0o077
    except OSError as error:
        raise TargetError(f"the client key of target {name} cannot be read: {error.strerror}: {key}") from None
    if not private:
        raise TargetError(f"{key} can be read by others", f"chmod 600 {key}")
    return (str(options.client_cert), str(options.client_key)) if options.client_key else str(options.client_cert)


def _asked_in_vain(response: Any, operation: Any, **_more: Any) -> None:
    """A redirect that says not in which region the bucket is: botocore asks for it with a request that is redirected,
    too, and asks again, without end."""
    from botocore.exceptions import ClientError

    if response is None or response[0].status_code not in (301, 302, 307):
        return
    if "x-amz-bucket-region" not in response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {}):
        raise ClientError(response[1], operation.name)


_sending = threading.local()


@contextlib.contextmanager
def paced(pace: Optional[Callable[[int], None]]) -> Iterator[None]:
    """What this thread uploads inside goes no faster than pace lets it."""
    _sending.pace = pace
    try:
        yield
    finally:
        _sending.pace = None


def _in_pieces(request: Any, **_more: Any) -> None:
    # signed and measured by now: this is only about the sending, each try of it
    pace = getattr(_sending, "pace", None)
    if request.body:
        body = request.body if hasattr(request.body, "read") else io.BytesIO(request.body)
        request.body = _Paced(body, pace) if pace is not None else _Blocks(body)


class _Blocks:
    """The body of a request in larger pieces than urllib3 asks for: each costs a call of the system, and turns."""

    def __init__(self, body: Any):
        self._body = body

    def read(self, size: int = -1) -> Any:
        return self._body.read(max(size, BLOCK) if size and size > 0 else -1)

    def tell(self) -> int:
        return self._body.tell()

    def seek(self, *where: int) -> int:
        return self._body.seek(*where)


class _Paced(_Blocks):
    """The body of a request, given piece by piece as pace lets it go."""

    def __init__(self, body: Any, pace: Callable[[int], None]):
        super().__init__(body)
        self._pace = pace

    def read(self, size: int = -1) -> Any:
        data = self._body.read(min(size, PACED) if size and size > 0 else PACED)
        if data:
            self._pace(len(data))
        return data
