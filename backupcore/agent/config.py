"""agent.json: what this client gives, and where a restore may be written. The agent refuses everything else.

Here live reading and checking it, its owner and that of the folders above it. The file is root's; the server
sends names of sources only.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Dict, NamedTuple

from .. import ids
from ..errors import AgentRefused
from ..text import escape
from . import hashes

SCHEMA = 1
LIMIT = 4 << 20
SITE = "run the playbook stowage.backup.site for this client"
_KEY = r"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/\n]{300,16000}={0,2})\n-----END PUBLIC KEY-----\n?\Z"
_DEFAULTS = {"scratch": "/var/lib/stowage/restore", "permits": "/run/stowage/permit"}


class Source(NamedTuple):
    """A source as agent.json declares it. encrypt: none or client; recipients: fingerprint -> public key in PEM."""

    name: str
    type: str
    options: Dict[str, Any]
    encrypt: str
    recipients: Dict[str, bytes]


class AgentConfig(NamedTuple):
    """The file, checked. values: all of it, as extract wants it."""

    client: str
    sources: Dict[str, Source]
    values: Dict[str, Any]


def _refuse(path: str, why: str) -> AgentRefused:
    return AgentRefused("%s %s" % (escape(path), why), SITE)


def check_owner(path: str, status: os.stat_result) -> None:
    """Raises AgentRefused when someone else than root (or who runs this) could change what is at path."""
    owners = (0, os.geteuid())
    if status.st_uid not in owners:
        raise _refuse(path, "belongs to user %d, not to root" % status.st_uid)
    sticky_folder = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & 0o022 and not sticky_folder:
        raise _refuse(path, "can be changed by others than its owner (mode %o)" % (status.st_mode & 0o7777))


def _read(path: str) -> bytes:
    try:
        real = os.path.realpath(path)
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refuse(path, "cannot be read: %s" % (error.strerror or "").lower()) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(path, "is no file")
        check_owner(path, status)
        if os.geteuid() == 0:  # without root nothing here grants anything the caller has not got
            folder = os.path.dirname(real)
            while True:
                check_owner(folder, os.stat(folder))
                if folder == os.path.dirname(folder):
                    break
                folder = os.path.dirname(folder)
        data = b""
        while len(data) <= LIMIT:
            more = os.read(fd, LIMIT + 1 - len(data))
            if not more:
                return data
            data += more
        raise _refuse(path, "is longer than %d bytes" % LIMIT)
    finally:
        os.close(fd)


def read_config(path: str) -> AgentConfig:
    """agent.json. Raises AgentRefused for one that is missing, not root's or not right: the file and the word."""
    try:
        values = json.loads(_read(path).decode("utf-8"))
    except (ValueError, RecursionError):
        raise _refuse(path, "is no JSON") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise _refuse(path, "is not of schema %d" % SCHEMA)
    unknown = set(values) - {"schema", "client", "sources", *_DEFAULTS}
    if unknown:
        raise _refuse(path, "has an unknown key: %s" % escape(min(unknown)))
    client, sources = values.get("client"), values.get("sources")
    if not isinstance(client, str) or not ids.is_name(client) or not isinstance(sources, dict):
        raise _refuse(path, "names no client or no sources")
    for key, default in _DEFAULTS.items():
        value = values.setdefault(key, default)
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise _refuse(path, "%s is no absolute path" % key)
    return AgentConfig(client, {name: _source(path, name, value) for name, value in sources.items()}, values)


def _source(path: str, name: str, value: Any) -> Source:
    where = "sources.%s" % escape(name[:80])
    if not ids.is_name(name) or not isinstance(value, dict):
        raise _refuse(path, "%s is no source" % where)
    unknown = set(value) - {"type", "options", "encrypt", "recipients"}
    if unknown:
        raise _refuse(path, "%s has an unknown key: %s" % (where, escape(min(unknown))))
    kind, options, encrypt = value.get("type"), value.get("options"), value.get("encrypt", "none")
    if not isinstance(kind, str) or not isinstance(options, dict) or not isinstance(encrypt, str):
        raise _refuse(path, "%s needs a type and options" % where)
    if encrypt not in ("none", "client"):
        raise _refuse(path, "%s: encrypt must be none or client" % where)
    given = value.get("recipients", [])
    keys = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    named = {_fingerprint(pem): pem.encode("utf-8") for pem in keys}
    if keys != given or len(named) != len(keys) or "" in named or bool(named) != (encrypt == "client"):
        raise _refuse(path, "%s needs the public keys of its recipients when encrypt is client, and only then" % where)
    return Source(name, kind, options, encrypt, named)


def _fingerprint(pem: str) -> str:
    """Hex SHA-256 of a public key's DER, as in image.recipients, '' when it is none: hello must not wait for
    python3-cryptography."""
    import base64
    import binascii
    import re

    match = re.match(_KEY, pem)
    try:
        return hashes.own(base64.b64decode(match.group(1))).hexdigest() if match else ""
    except binascii.Error:
        return ""
