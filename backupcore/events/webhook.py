"""A webhook: an event as JSON, POSTed to an address that somebody listens at.

Here live the options and the body; the request itself is _http.py's. Whoever listens knows by a secret that it came
from here: signed with it (the secret never leaves this machine), or sent along as a header. The secret, and an address
that is one, stand in 0600 files.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import Any, Dict, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from .. import clock
from ..hookspecs import Event, EventError
from ..text import escape
from . import _address, _secret

SCHEMA = 1
SIGNATURE = "X-Stowage-Signature"


class WebhookOptions(BaseModel):
    """url: https, or http. url_file: 0600, the address in its first line. secret_file: 0600, the secret in its first
    line. secret_as: how it proves the sender. body: all, or only what a chat room takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = ""
    url_file: str = Field("", validate_default=True)
    secret_file: str = ""
    secret_as: Literal["signature", "header"] = "signature"
    header: str = ""
    body: Literal["full", "text"] = "full"
    ca: str = ""
    timeout: int = Field(10, ge=1, le=120)

    _valid = field_validator("url")(_address.valid)
    _absolute = field_validator("secret_file", "ca")(_secret.absolute)

    @field_validator("url_file")
    @classmethod
    def _one_address(cls, value: str, info: ValidationInfo) -> str:
        if "url" in info.data and bool(value) == bool(info.data["url"]):
            raise ValueError("goes without url, and one of the two is needed")
        return _secret.absolute(value)

    @field_validator("header")
    @classmethod
    def _header_name(cls, value: str) -> str:
        if value and not re.match(r"[A-Za-z0-9-]{1,64}\Z", value):
            raise ValueError("is no name of a header")
        if value.lower() in ("host", "content-length", "content-type", "connection", "transfer-encoding"):
            raise ValueError("is a header that HTTP itself needs")
        return value


def send(options: WebhookOptions, event: Event) -> None:
    """Sends it. A try that was taken, but whose answer was lost, is made again with the same id."""
    from . import _http  # http.client and ssl cost what a run without a webhook need not pay

    address = _found(options)
    content = _text(event) if options.body == "text" else _full(event)
    body = json.dumps(content, ensure_ascii=True, default=str).encode()
    headers = {"Content-Type": "application/json"}
    if options.secret_file:
        secret = _secret.first_line(options.secret_file, "secret")
        if options.secret_as == "header":
            headers[options.header or "Authorization"] = _latin(secret, options.secret_file)
        else:
            headers[options.header or SIGNATURE] = signature(secret, body)
    _http.send("POST", address, body, headers, options.timeout, options.ca)


def check(options: WebhookOptions) -> None:
    """Raises EventError for what would keep the next event from being sent; sends nothing."""
    _found(options)
    if options.secret_file:
        secret = _secret.first_line(options.secret_file, "secret")
        if options.secret_as == "header":
            _latin(secret, options.secret_file)


def signature(secret: str, body: bytes) -> str:
    """What proves that body comes from one who has the secret, as GitHub and others write it."""
    import hmac

    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _found(options: WebhookOptions) -> _address.Address:
    address = _address.find(options.url, options.url_file)
    if address.is_open and options.secret_file and options.secret_as == "header":
        raise EventError(
            f"the secret is never sent to {address.where} over an open line", "write https://, or secret_as: signature"
        )
    return address


def _latin(secret: str, file: str) -> str:
    if not secret.isascii():
        raise EventError(f"{file}: the secret cannot be a header", "use letters, digits and signs of ASCII")
    return secret


def _full(event: Event) -> Dict[str, Any]:
    return {
        "schema": SCHEMA, "id": str(uuid.uuid4()), "sent": clock.iso(clock.now_ns()), "kind": event.kind,
        "status": event.status, "subject": escape(event.subject), "text": _lines(event.text),
        "data": _escaped(dict(event.data)),
    }  # fmt: skip


def _text(event: Event) -> Dict[str, Any]:
    subject, text = escape(event.subject), _lines(event.text)
    return {"text": text if text.startswith(subject) else f"{subject}\n\n{text}".rstrip()}


def _lines(text: str) -> str:
    return "\n".join(escape(line) for line in text.split("\n"))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {escape(str(key)): _escaped(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(one) for one in value]
    return value
