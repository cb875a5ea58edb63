"""The server's signature: an Ed25519 key of its own, and checking what it or another server signed.

Here live keys and signatures; what is signed lives in manifest.py. Needs the cryptography package, so only
the server imports this. Keys lie in the server's key folder: signing.pem (PKCS8, 0600), signing.pub beside
it; every other *.pub there is a server that this one trusts. All PEM, as openssl reads them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Dict, Mapping

from .. import files, guard
from ..errors import ConfigError, ImageDamaged

PRIVATE = "signing.pem"
PUBLIC = "signing.pub"
LENGTH = 64


def fingerprint(public: bytes) -> str:
    """What a public key (32 raw bytes) is called: hex SHA-256 of it."""
    return hashlib.sha256(public).hexdigest()


class Signer:
    """The server's signing key. public: 32 raw bytes; fingerprint: what it is called."""

    def __init__(self, key: Any):
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        guard.no_core()
        self._key = key
        public = key.public_key()
        self.public: bytes = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = fingerprint(self.public)

    @classmethod
    def make(cls, folder: Path) -> "Signer":
        """A new key, put into folder for good. Raises ConfigError when there is one already."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        path = folder / PRIVATE
        if path.exists():
            raise ConfigError("%s: there is a signing key already" % path, "remove it only if nothing was signed by it")
        files.make_lasting(folder)  # a dump that outlives the key that signed it is nobody's
        key = Ed25519PrivateKey.generate()
        signer = cls(key)
        files.replace(folder / PUBLIC, signer.public_pem, 0o644)
        files.replace(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return signer

    @classmethod
    def load(cls, folder: Path) -> "Signer":
        """The key in folder. Raises ConfigError when it is missing, open to others or no Ed25519 key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = folder / PRIVATE
        try:
            if os.stat(path).st_mode & 0o077:
                raise ConfigError("%s: others can read the signing key" % path, "chmod 600 %s" % path)
            key = load_pem_private_key(path.read_bytes(), None)
        except FileNotFoundError:
            raise ConfigError("%s: there is no signing key" % path, "stowage check makes one") from None
        except OSError as error:
            raise ConfigError("%s: %s" % (path, error.strerror)) from None
        except (ValueError, TypeError):
            raise ConfigError("%s: this is no private key" % path) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("%s: this is no Ed25519 key" % path)
        return cls(key)

    @classmethod
    def load_or_make(cls, folder: Path) -> "Signer":
        """The key in folder, a new one when there is none yet."""
        return cls.load(folder) if (folder / PRIVATE).exists() else cls.make(folder)

    def sign(self, data: bytes) -> bytes:
        """64 raw bytes over data."""
        return self._key.sign(data)


def load_public_keys(folder: Path) -> Dict[str, bytes]:
    """Fingerprint -> raw key of every *.pub in folder: this server's and those it trusts. Raises ConfigError."""
    found = {}
    for path in sorted(folder.glob("*.pub")):
        try:
            raw = read_public(path.read_bytes())
        except OSError as error:
            raise ConfigError("%s: %s" % (path, error.strerror)) from None
        except ValueError as error:
            raise ConfigError("%s: %s" % (path, error)) from None
        found[fingerprint(raw)] = raw
    return found


def read_public(pem: bytes) -> bytes:
    """The 32 raw bytes of an Ed25519 public key in PEM. Raises ValueError with a reason for people."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except Exception:  # noqa: BLE001 - parsing of foreign bytes: ValueError, and OpenSSL's own
        raise ValueError("this is no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("this is no Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def write_public(raw: bytes) -> bytes:
    """The PEM of 32 raw bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verify(data: bytes, signature: bytes, public_keys: Mapping[str, bytes]) -> str:
    """The fingerprint of the key that signed data. Raises ImageDamaged when none of public_keys did."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(signature) == LENGTH:
        for name, raw in public_keys.items():
            try:
                Ed25519PublicKey.from_public_bytes(raw).verify(signature, data)
                return name
            except (InvalidSignature, ValueError):
                continue
    raise ImageDamaged(
        "the signature does not fit: changed after it was signed, or signed by a server that is not trusted here",
        "put the other server's signing.pub beside this server's as NAME.pub if it is to be trusted",
    )
