"""A ping: a word to a service that raises the alarm when no word comes (healthchecks.io and its like).

That service is the dead man's switch: what a server that burnt down cannot tell any more, its silence tells. Here live
the options and which address a word goes to; the request itself is _http.py's. Nothing of the report is sent unless
it is asked for: such a service is somebody else's.
"""

from __future__ import annotations

import re
from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ..hookspecs import Event
from ..text import escape
from . import _address, _secret

MOST = 10_000  # bytes of a report


class PingOptions(BaseModel):
    """url: of a success. url_file: 0600, the address in its first line. start, success, fail: what is put behind it, a
    path or a query; null: nothing is sent then."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = ""
    url_file: str = Field("", validate_default=True)
    start: Optional[str] = "/start"
    success: Optional[str] = ""
    fail: Optional[str] = "/fail"
    method: Literal["POST", "GET"] = "POST"
    body: Literal["none", "subject", "full"] = "none"
    ca: str = ""
    timeout: int = Field(10, ge=1, le=120)

    _valid = field_validator("url")(_address.valid)
    _absolute = field_validator("ca")(_secret.absolute)

    @field_validator("url_file")
    @classmethod
    def _one_address(cls, value: str, info: ValidationInfo) -> str:
        if "url" in info.data and bool(value) == bool(info.data["url"]):
            raise ValueError("goes without url, and one of the two is needed")
        return _secret.absolute(value)

    @field_validator("start", "success", "fail")
    @classmethod
    def _behind(cls, value: Optional[str]) -> Optional[str]:
        if value and not re.match(r"[/?][A-Za-z0-9/?&=._~%+-]*\Z", value):
            raise ValueError("is nothing to put behind an address: write /fail or ?state=fail")
        return value


def send(options: PingOptions, event: Event) -> None:
    """Sends the word for it: begun, well or failed."""
    from . import _http  # http.client and ssl cost what a run without a ping need not pay

    if event.kind == "run-begun":
        behind = options.start
    else:
        behind = options.fail if event.status == "FAIL" else options.success
    if behind is None:
        return
    told = {"none": "", "subject": event.subject, "full": event.text}[options.body]
    body = "\n".join(escape(line) for line in told.split("\n")).encode("utf-8", "replace")[:MOST]
    address = _address.extended(_address.find(options.url, options.url_file), behind)
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    _http.send(options.method, address, body, headers, options.timeout, options.ca)


def check(options: PingOptions) -> None:
    """Raises EventError for what would keep the next ping from being sent; sends nothing."""
    _address.find(options.url, options.url_file)
