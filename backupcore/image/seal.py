"""The seal: AES-256-CTR and HMAC-SHA256 over the files of an image, a key of its own for each file.

Here live what is done with one file's key (seal, authenticate, open, commit to it) and the manifest's record
of it; for whom the keys are wrapped is recipients.py. The agent has this too: Python 3.8, and `cryptography`
is looked for when a seal is asked for.

Format: docs/format.md, "Seal". A file's key is 64 random bytes, 32 to encrypt and 32 to authenticate. Byte p of
a sealed file is encrypted by AES block p // 16 counted from 0, so that a frame opens alone; no key is ever used
for two files, so no counter is ever used twice. What authenticates a frame names the dump, the file, the part and
the frame, so that none can stand for another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import struct
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from .. import guard
from ..errors import ImageDamaged, SourceFailed

VERSION = 1
CIPHER = "aes-256-ctr"
MAC = "hmac-sha256"
KEY_LENGTH = 64
MAC_LENGTH = 32
PART, INDEX, FRAMES = b"p", b"i", b"t"  # kinds of files
_BLOCK = 16
_HEAD = struct.Struct(">8s32scIQQB")
_MAGIC = b"SWseal01"
_LABEL = b"stowage seal 1 commitment\n"
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TYPE = re.compile(r"[a-z0-9-]{1,32}\Z")
RECIPIENTS_LIMIT = 256


def available() -> Optional[str]:
    """The version of `cryptography`, None when it is not there or has no AES."""
    try:
        import cryptography
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: F401
    except ImportError:
        return None
    return str(cryptography.__version__)


@dataclass(frozen=True, repr=False)
class FileKey:
    """The key of one file, 64 bytes. It never shows in a traceback or log."""

    secret: bytes

    def __post_init__(self) -> None:
        guard.no_core()
        if len(self.secret) != KEY_LENGTH:
            raise ImageDamaged("a file's key has %d bytes, not %d" % (len(self.secret), KEY_LENGTH))

    def __repr__(self) -> str:
        return "FileKey(...)"

    @classmethod
    def make(cls) -> "FileKey":
        """A new random key."""
        return cls(os.urandom(KEY_LENGTH))

    @property
    def commitment(self) -> str:
        """Hex digest by which the signed manifest fixes this key without giving it away."""
        return hashlib.sha256(_LABEL + self.secret).hexdigest()


class _Bound:
    # a key bound to one file of one dump
    def __init__(self, key: FileKey, prefix: str, kind: bytes, part: int = 0):
        self._secret, self._authenticate = key.secret[:32], key.secret[32:]
        self._dump = hashlib.sha256(prefix.encode("utf-8")).digest()
        self._kind, self._part = kind, part
        # a copy of this one saves the key set-up for every frame
        self._hmac = hmac.new(self._authenticate, digestmod="sha256")

    def mac(self, number: int, ciphertext: Any, last: bool) -> bytes:
        """What authenticates frame `number` of the dump."""
        return self._mac(number, len(ciphertext), last, ciphertext)

    def hasher(self, number: int, length: int, last: bool) -> Any:
        """For a frame that comes in pieces: update() with its ciphertext, length bytes in all; digest() is its mac."""
        state = self._hmac.copy()
        state.update(_HEAD.pack(_MAGIC, self._dump, self._kind, self._part, number, length, 1 if last else 0))
        return state

    def table_mac(self, length: int, sha256: bytes) -> bytes:
        """What authenticates an index or a frame table: over the SHA-256 of its sealed bytes."""
        return self._mac(0, length, True, sha256)

    def _mac(self, number: int, length: int, last: bool, over: Any) -> bytes:
        state = self.hasher(number, length, last)
        state.update(over)
        return state.digest()

    def _cipher(self, place: int) -> Any:
        # CTR's encryptor is its decryptor; brought to byte `place`
        from cryptography.hazmat.backends import default_backend
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        counter = (place // _BLOCK).to_bytes(_BLOCK, "big")
        # old releases, as on distributions still in use, want to be told the backend
        cipher = Cipher(algorithms.AES(self._secret), modes.CTR(counter), backend=default_backend()).encryptor()
        if place % _BLOCK:
            cipher.update(bytes(place % _BLOCK))
        return cipher


class Sealer(_Bound):
    """Seals one file from its first byte to its last."""

    def __init__(self, key: FileKey, prefix: str, kind: bytes, part: int = 0):
        super().__init__(key, prefix, kind, part)
        try:
            self._stream = self._cipher(0)
        except ImportError:
            raise SourceFailed(
                "sealing was asked for, but Python's cryptography is not there",
                "install python3-cryptography (stowage.backup.site does)",
            ) from None

    def seal(self, data: Any) -> bytes:
        """The next bytes of the file, sealed."""
        return self._stream.update(data)


class Opener(_Bound):
    """Opens one file, in any order."""

    def frame(self, number: int, place: int, data: Any, last: bool, mac: bytes) -> bytes:
        """The stored bytes of a frame. Raises ImageDamaged before a byte of them is given out."""
        if not hmac.compare_digest(self.mac(number, data, last), mac):
            raise ImageDamaged("frame %d is not what was sealed" % number)
        return self._cipher(place).update(data)

    def check_table(self, length: int, sha256: bytes, mac: bytes) -> None:
        """Raises ImageDamaged unless mac is that of a table of this length and digest."""
        if not hmac.compare_digest(self.table_mac(length, sha256), mac):
            raise ImageDamaged("the table is not what was sealed")

    def stream(self, place: int = 0) -> Any:
        """An object whose update(data) opens the bytes from place on; for tables, after check_table."""
        return self._cipher(place)


@dataclass(frozen=True)
class Seal:
    """The manifest's record: sealed by client or server; recipients: (type, fingerprint); commitments: a hex digest
    for each sealed file; macs: those of index and frame table by their names."""

    by: str
    recipients: Tuple[Tuple[str, str], ...]
    commitments: Mapping[str, str]
    macs: Mapping[str, str]

    def as_dict(self) -> Dict[str, Any]:
        """As it stands in the manifest."""
        return {
            "version": VERSION, "by": self.by, "cipher": CIPHER, "mac": MAC,
            "recipients": [{"type": kind, "fingerprint": name} for kind, name in self.recipients],
            "keys": dict(self.commitments), "macs": dict(self.macs),
        }  # fmt: skip


def parse(value: Any, files: Tuple[str, ...], tables: Tuple[str, ...]) -> Optional[Seal]:
    """The seal in a manifest, None for null. files: all names that must have a key, tables: those of them with a MAC.

    Raises ImageDamaged, also for a version, cipher or MAC that this Stowage does not know.
    """
    if value is None:
        return None
    try:
        known = (value["version"], value["cipher"], value["mac"])
        by, recipients = value["by"], value["recipients"]
        keys, macs = dict(value["keys"]), dict(value["macs"])
        named = tuple((one["type"], one["fingerprint"]) for one in recipients)
    except (KeyError, TypeError, ValueError):
        raise _wrong("it is incomplete") from None
    if known != (VERSION, CIPHER, MAC):
        raise ImageDamaged("the seal is of a kind this Stowage does not know: %r" % (known,), "use a newer Stowage")
    if by not in ("client", "server") or not 0 < len(named) <= RECIPIENTS_LIMIT:
        raise _wrong("who sealed it, and for whom, cannot be read")
    if not all(_matches(_TYPE, kind) and _matches(_HEX, name) for kind, name in named):
        raise _wrong("its recipients cannot be read")
    for have, want in ((keys, files), (macs, tables)):
        if set(have) != set(want) or not all(_matches(_HEX, digest) for digest in have.values()):
            raise _wrong("its keys are not those of the dump's files")
    return Seal(by, named, keys, macs)


def _matches(pattern: Any, value: Any) -> bool:
    return isinstance(value, str) and pattern.match(value) is not None


def _wrong(why: str) -> ImageDamaged:
    return ImageDamaged("the manifest's seal is wrong: %s" % why)
