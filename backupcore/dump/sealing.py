"""The seals of one dump: a key for each of its files, for whom they are wrapped, and what the manifest says of it.

Here lives what the server does for a sealed dump whoever seals its parts: the server itself, or the agent, whose
keys come over the wire and are checked in their form only (a client that wraps something else spoils its own dump).
Index and frame table are always sealed here. The ciphers are image.seal, the wrapping is image.recipients.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ..errors import WireError
from ..image import recipients as wrapping
from ..image.manifest import FileRecord
from ..image.recipients import KeyLine, Recipient
from ..image.seal import FileKey, Seal, Sealer

CLIENT, SERVER = "client", "server"
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_WRAPPED = range(wrapping.LEAST_BITS // 8, (16384 // 8) + 1)  # bytes that a wrapped key may have


class Sealing:
    """The keys of one dump while it comes. by: who seals the parts, client or server."""

    def __init__(self, by: str, prefix: str, recipients: Sequence[Recipient]):
        self.by, self.prefix, self.recipients = by, prefix, tuple(recipients)
        self._commitments: Dict[str, str] = {}
        self._macs: Dict[str, str] = {}
        self._lines: Dict[str, bytes] = {}  # of keys.tsv, of each file

    @property
    def by_client(self) -> bool:
        """Whether the agent seals the parts."""
        return self.by == CLIENT

    def sealer(self, name: str, kind: bytes, part: int = 0) -> Sealer:
        """A new key for the file `name`, and what seals it."""
        key = FileKey.make()
        self._commitments[name] = key.commitment
        self._lines[name] = b"".join(wrapping.key_lines(name, key, self.recipients))
        return Sealer(key, self.prefix, kind, part)

    def take(self, name: str, value: Mapping[str, Any], peer: str) -> None:
        """The key of a part that the agent seals, as its KEY message has it. Raises WireError."""
        commitment, wrapped = value.get("commitment"), value.get("wrapped")
        if not isinstance(commitment, str) or not _HEX.match(commitment):
            raise WireError(f"{peer} sent a key without its commitment")
        if not isinstance(wrapped, dict) or set(wrapped) != {one.fingerprint for one in self.recipients}:
            raise WireError(f"{peer} wrapped a key for others than was asked for")
        lines = []
        for one in self.recipients:
            secret = _decoded(wrapped[one.fingerprint])
            if secret is None or len(secret) not in _WRAPPED:
                raise WireError(f"{peer} sent a wrapped key that cannot be one")
            lines.append(wrapping.format_line(KeyLine(name, one.type, one.fingerprint, secret)))
        self._lines[name] = b"".join(lines)
        self._commitments[name] = commitment

    def known(self, name: str) -> Tuple[str, bytes]:
        """The commitment to a file's key, and its lines in keys.tsv: no secret."""
        return self._commitments[name], self._lines[name]

    def again(self, name: str, commitment: str, lines: bytes) -> None:
        """What known() told of a file that came before the line was cut."""
        self._commitments[name], self._lines[name] = commitment, lines

    def table(self, sealer: Sealer, record: FileRecord) -> None:
        """Authenticates an index or frame table that is written."""
        self._macs[record.name] = sealer.table_mac(record.size, bytes.fromhex(record.sha256)).hex()

    def record(self) -> Dict[str, Any]:
        """What the manifest says, once all files are written."""
        named = tuple((one.type, one.fingerprint) for one in self.recipients)
        return Seal(self.by, named, self._commitments, self._macs).as_dict()

    def keys(self) -> bytes:
        """keys.tsv."""
        return b"".join([*wrapping.private_lines(self.recipients), *self._lines.values()])


def _decoded(value: Any) -> Optional[bytes]:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        return None
