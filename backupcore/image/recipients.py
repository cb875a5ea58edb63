"""For whom a dump is sealed: recipients' keys, the wrapped keys of keys.tsv, and opening them again.

Here live RSA recipients, private keys with their protection by a passphrase, and keys.tsv; what a file's key does
is seal.py, where keys lie on a server is backupcore.keys. The agent wraps with this too: Python 3.8, and
`cryptography` is imported when it is needed.

keys.tsv is not signed, so that it can be renewed: what is unwrapped counts only when it is what the signed manifest
commits to. Lines that cannot be read and types that are not known are passed over.

A passphrase recipient is an RSA pair whose private half, protected by scrypt, lies in keys.tsv itself: whoever
knows the passphrase needs no key file, and a run needs the public half only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import ConfigError, ImageDamaged, KeyLocked, KeyMissing
from ..text import escape
from .seal import FileKey, Seal

RSA, PASSPHRASE = "rsa", "passphrase"
BITS, LEAST_BITS = 4096, 3072
NOBODY = "-"  # in the place of a file's name: the line holds a recipient's own protected private key
LINES_LIMIT = 4 << 20  # of one keys.tsv; 10,000 parts for two recipients are 16 MB
SIZE_LIMIT = 64 << 20
TRIES = 16  # wrappings of one key for one recipient that are tried: a spoiled keys.tsv must not take hours
# RFC 7914 and what OpenSSL's command line opens (it allows scrypt 32 MiB); p makes up for the small N
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 5}


@dataclass(frozen=True)
class Recipient:
    """Who can open: type rsa or passphrase; fingerprint: hex SHA-256 of the public key's DER; public: its PEM;
    private: of a passphrase recipient the PKCS#8 DER under scrypt."""

    type: str
    fingerprint: str
    public: bytes
    private: Optional[bytes] = None
    name: str = ""


class KeyLine(NamedTuple):
    """A line of keys.tsv: a file of the dump or NOBODY, who can open it, and the bytes."""

    file: str
    type: str
    fingerprint: str
    value: bytes


def load_recipient(pem: bytes, name: str = "", private: Optional[bytes] = None) -> Recipient:
    """The recipient of a public key in PEM; with `private` (protected DER) one of type passphrase.
    Raises ConfigError."""
    key = _public(pem, name)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Recipient(PASSPHRASE if private else RSA, hashlib.sha256(der).hexdigest(), text, private, name)


def wrap(recipient: Recipient, key: FileKey) -> bytes:
    """The key for this recipient's eyes only: RSA-OAEP with SHA-256. Raises ConfigError."""
    return _public(recipient.public, recipient.name).encrypt(key.secret, _oaep())


def key_lines(file: str, key: FileKey, recipients: Iterable[Recipient]) -> Iterator[bytes]:
    """The lines of keys.tsv for a file's key."""
    for one in recipients:
        yield format_line(KeyLine(file, one.type, one.fingerprint, wrap(one, key)))


def private_lines(recipients: Iterable[Recipient]) -> Iterator[bytes]:
    """The lines of keys.tsv that hold the protected private keys of passphrase recipients."""
    for one in recipients:
        if one.private:
            yield format_line(KeyLine(NOBODY, one.type, one.fingerprint, one.private))


def format_line(line: KeyLine) -> bytes:
    """A line of keys.tsv with its newline."""
    fields = (line.file, line.type, line.fingerprint, base64.b64encode(line.value).decode("ascii"))
    return "\t".join(fields).encode("ascii") + b"\n"


def read_keys(texts: Iterable[bytes]) -> List[KeyLine]:
    """The lines of all keys*.tsv of a dump; what cannot be read is passed over. Raises ImageDamaged when endless."""
    found: List[KeyLine] = []
    for text in texts:
        if len(text) > SIZE_LIMIT or text.count(b"\n") > LINES_LIMIT:
            raise ImageDamaged("keys.tsv is larger than %d bytes" % SIZE_LIMIT)
        for line in text.split(b"\n"):
            fields = line.split(b"\t")
            if len(fields) != 4:
                continue
            try:
                file, kind, name = (field.decode("ascii") for field in fields[:3])
                found.append(KeyLine(file, kind, name, base64.b64decode(fields[3], validate=True)))
            except (UnicodeDecodeError, binascii.Error):
                continue
    return found


def stranger(text: bytes, files: Iterable[str]) -> Optional[str]:
    """Why a file of wrapped keys is none that a dump with these sealed files ever got; None when it may be one.

    Types of recipients that are not known here are left alone: a newer version may have written them.
    """
    wanted = set(files)
    covered: Dict[Tuple[str, str], Set[str]] = {}
    lines = text.split(b"\n")
    if lines.pop() != b"" or not lines:
        return "it does not end with a whole line"
    for number, line in enumerate(lines, 1):
        found = read_keys([line])
        if not found:
            return "line %d is no wrapped key" % number
        one = found[0]
        if one.file not in wanted and (one.file != NOBODY or one.type != PASSPHRASE):
            return "line %d is for a file that is not there" % number
        if one.type in (RSA, PASSPHRASE):
            covered.setdefault((one.type, one.fingerprint), set()).add(one.file)
    for (_kind, name), covers in covered.items():
        if not covers >= wanted:
            return "it has not all keys for %s" % escape(name[:16])
    return None


def unlock(
    prefix: str,
    seal: Seal,
    lines: Sequence[KeyLine],
    private_keys: Iterable["PrivateKey"],
    files: Optional[Iterable[str]] = None,
) -> Dict[str, FileKey]:
    """The keys of sealed files of the dump `prefix` by the first private key that opens all of them.

    files: those that are needed (a private key takes some milliseconds for each), None for all.
    Raises KeyMissing when none does, ImageDamaged when what opens is not what the manifest commits to.
    """
    wanted = set(seal.commitments if files is None else files)
    wrong = ""
    for private in private_keys:
        name = private.recipient.fingerprint
        mine: Dict[str, List[bytes]] = {}
        for line in lines:
            if line.fingerprint == name and line.type in (RSA, PASSPHRASE) and line.file in wanted:
                mine.setdefault(line.file, []).append(line.value)
        if set(mine) != wanted:
            continue
        keys: Dict[str, FileKey] = {}
        for file in sorted(wanted):
            # the same key may be wrapped twice, and any of the files may have been spoiled
            opened = _first_fitting(private, mine[file][:TRIES], seal.commitments[file])
            if opened is None:
                wrong = file
                break
            keys[file] = opened
        else:
            return keys
    if wrong:
        raise ImageDamaged("%s: the key of %s in keys.tsv is not the one that was signed" % (prefix, wrong))
    raise KeyMissing(
        "%s is sealed for %s; none of their private keys is here"
        % (prefix, ", ".join("%s %s" % (kind, name[:16]) for kind, name in seal.recipients)),
        "give one by --key FILE",
    )


def _first_fitting(private: "PrivateKey", values: Sequence[bytes], commitment: str) -> Optional[FileKey]:
    for value in values:
        try:
            key = private.unwrap(value)
        except ImageDamaged:
            continue
        if key.commitment == commitment:
            return key
    return None


class PrivateKey:
    """The private half of a recipient, opened."""

    def __init__(self, key: Any, name: str = ""):
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = key
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.recipient = load_recipient(public, name)

    def unwrap(self, wrapped: bytes) -> FileKey:
        """The file key in `wrapped`. Raises ImageDamaged."""
        try:
            return FileKey(self._key.decrypt(wrapped, _oaep()))
        except ValueError:
            raise ImageDamaged("a wrapped key does not open") from None

    def to_pem(self) -> bytes:
        """PKCS#8 PEM, open to whoever can read it."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def protect(self, passphrase: bytes) -> bytes:
        """PKCS#8 DER under scrypt and AES-256-CBC (RFC 8018, RFC 7914), as `openssl pkey -inform DER` opens it."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        if not passphrase:
            raise ConfigError("a passphrase must not be empty")
        plain = self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        salt, iv = os.urandom(16), os.urandom(16)
        key = hashlib.scrypt(passphrase, salt=salt, dklen=32, maxmem=64 << 20, **_SCRYPT)
        filling = 16 - len(plain) % 16
        sealer = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        sealed = sealer.update(plain + bytes([filling]) * filling) + sealer.finalize()
        numbers = b"".join(_integer(_SCRYPT[name]) for name in ("n", "r", "p"))
        kdf = _tag(0x30, _OID_SCRYPT + _tag(0x30, _tag(4, salt) + numbers))
        cipher = _tag(0x30, _OID_AES + _tag(4, iv))
        return _tag(0x30, _tag(0x30, _OID_PBES2 + _tag(0x30, kdf + cipher)) + _tag(4, sealed))

    def protect_pem(self, passphrase: bytes) -> bytes:
        """The same as PEM."""
        return to_pem(self.protect(passphrase))


def generate(name: str = "", bits: int = BITS) -> PrivateKey:
    """A new pair."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return PrivateKey(rsa.generate_private_key(public_exponent=65537, key_size=bits), name)


def load_private(
    data: bytes, passphrase: Optional[bytes] = None, name: str = "", trusted: bool = False
) -> PrivateKey:  # fmt: skip
    """A private key in PEM or DER. Raises KeyLocked when the passphrase is missing or wrong, ConfigError when it is
    none, or no RSA key of 3072 bits or more. trusted: a file of our own, whose numbers need no test (0.25 s)."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    what = name or "the private key"
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    # which of its exceptions says "a passphrase is needed" differs between releases; what is protected says so itself
    locked = is_protected(data)
    more = {"unsafe_skip_rsa_key_validation": True} if trusted else {}
    try:
        key = load(data, passphrase if locked else None, **more)
    except Exception as error:  # noqa: BLE001 - parsing of foreign bytes: ValueError, TypeError and OpenSSL's own
        if locked and not passphrase:
            raise KeyLocked("%s is protected by a passphrase" % what, "give it by --passphrase-file FILE") from None
        if locked:
            raise KeyLocked("%s does not open with this passphrase" % what, "try again") from None
        detail = "" if isinstance(error, ValueError) else " (%s)" % type(error).__name__
        raise ConfigError("%s holds no private key%s" % (what, detail), "it must be PKCS#8 PEM") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < LEAST_BITS:
        raise ConfigError("%s is no RSA key of %d bits or more" % (what, LEAST_BITS))
    return PrivateKey(key, name)


def to_pem(protected: bytes) -> bytes:
    """A protected private key in DER as PEM."""
    text = base64.b64encode(protected)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    kind = b"ENCRYPTED PRIVATE KEY-----\n"
    return b"-----BEGIN " + kind + b"\n".join(lines) + b"\n-----END " + kind


def is_protected(data: bytes) -> bool:
    """Whether a private key in PEM or DER asks for a passphrase."""
    return b"ENCRYPTED" in data or _OID_PBES2 in data


def offered(lines: Iterable[KeyLine]) -> Mapping[str, bytes]:
    """Fingerprint -> protected private key (DER) of the passphrase recipients in keys.tsv.

    keys.tsv is not signed: what would take minutes or gigabytes to open is passed over.
    """
    wanted = (line for line in lines if line.file == NOBODY and line.type == PASSPHRASE)
    return {line.fingerprint: line.value for line in wanted if _is_modest(line.value)}


def _public(pem: bytes, name: str) -> Any:
    from cryptography.hazmat.backends import default_backend
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    what = name or "the recipient's public key"
    try:
        key = load_pem_public_key(pem, default_backend())
    except Exception as error:  # noqa: BLE001 - parsing of foreign bytes
        raise ConfigError("%s cannot be read: %s" % (what, type(error).__name__), "it must be PEM") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < LEAST_BITS:
        raise ConfigError("%s is no RSA key of %d bits or more" % (what, LEAST_BITS))
    return key


def _oaep() -> Any:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
    from cryptography.hazmat.primitives.hashes import SHA256

    return OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None)


# ASN.1 DER, as little of it as PBES2 takes
_OID_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_OID_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_OID_AES = bytes.fromhex("060960864801650304012a")  # aes256-CBC


def _tag(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(size)]) + size + content


def _is_modest(der: bytes) -> bool:
    """Whether this is a private key as protect() makes it, with scrypt of at most 64 MiB and 16 rounds of them."""
    try:
        outer = _items(der, 0x30)
        scheme, _sealed = _items(outer, 0x30, 4)
        name, parameters = _items(scheme, 6, 0x30)
        kdf, _cipher = _items(parameters, 0x30, 0x30)
        kdf_name, numbers = _items(kdf, 6, 0x30)
        _salt, n, r, p = (int.from_bytes(one, "big") for one in _items(numbers, 4, 2, 2, 2))
    except ValueError:
        return False
    known = name == _OID_PBES2[2:] and kdf_name == _OID_SCRYPT[2:]
    return known and len(der) < 1 << 16 and n * r * 128 <= 64 << 20 and 0 < p * r <= 256


def _items(data: bytes, *tags: int) -> Any:
    """The contents of DER values with exactly these tags, one after the other; of a single one just that."""
    found = []
    for tag in tags:
        if len(data) < 2 or data[0] != tag:
            raise ValueError
        more = data[1] & 127 if data[1] & 128 else 0
        length = int.from_bytes(data[2 : 2 + more], "big") if more else data[1]
        start = 2 + more
        if more > 4 or length > len(data) - start:
            raise ValueError
        found.append(data[start : start + length])
        data = data[start + length :]
    if data:
        raise ValueError
    return found if len(found) > 1 else found[0]


def _integer(value: int) -> bytes:
    return _tag(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))
