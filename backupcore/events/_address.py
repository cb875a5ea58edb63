"""Where an event is sent to: an HTTP address, taken apart and looked at.

Apart from _http.py, which loads what every start of a command need not pay for. Addresses may be secrets: no message
here repeats one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ..hookspecs import EventError
from . import _secret

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Address:
    """Where to: what urlsplit made of an address, whole."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def where(self) -> str:
        """What of it may be told."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def named(self) -> str:
        """The place, as HTTP names it."""
        usual = {"http": 80, "https": 443}[self.scheme]
        return self.where.removesuffix(f":{usual}") if self.port == usual else self.where

    @property
    def is_open(self) -> bool:
        """Whether others on the way can read what is sent."""
        return self.scheme == "http" and self.host not in LOOPBACK


def parse(url: str) -> Address:
    """Raises ValueError, which does not repeat the address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no address: write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user or password in it")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("has characters that no address has")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], path)


def valid(url: str) -> str:
    """url, when it is an address or ''. Raises ValueError."""
    if url:
        parse(url)
    return url


def find(url: str, url_file: str) -> Address:
    """The address that stands in one of the two. Raises EventError."""
    if url:
        return parse(url)
    try:
        return parse(_secret.first_line(url_file, "address"))
    except ValueError as error:
        raise EventError(f"{url_file}: what stands in its first line {error}", "https://HOST/PATH is one") from None


def extended(address: Address, more: str) -> Address:
    """The address with a path or a query behind it."""
    path, mark, query = address.path.partition("?")
    if more.startswith("?"):
        return replace(address, path=f"{address.path}{'&' if mark else '?'}{more[1:]}")
    return replace(address, path=path.rstrip("/") + more + mark + query if more else address.path)
