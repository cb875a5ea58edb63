"""The recipients that a server knows, and the private keys that lie on it.

    signing.pem, signing.pub   the server's signature (image.signing)
    recipients/NAME.json       a recipient: public key, when it was made and proven, active or revoked
    private/NAME.pem           its private key, PKCS#8 under scrypt, or open to whoever reads it; may be moved away

Here live these files; opening sealed dumps with them is ring.py. A recipient is active, which is to say that
dumps are sealed for it, once it was proven: somebody held the private half and opened a test with it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence

from .. import clock, files
from ..errors import Busy, ConfigError, ImageDamaged, KeyLocked, RequestError
from ..guard import keep_secret
from ..ids import is_name
from ..image import recipients as wrapping
from ..image.recipients import PASSPHRASE, RSA, PrivateKey, Recipient
from ..image.seal import FileKey
from ..locks import LockFile

SCHEMA = 1
ACTIVE, REVOKED = "active", "revoked"
LEAST_PASSPHRASE = 12  # bytes; a passphrase recipient's private key lies in every bucket, to be guessed at leisure
BRING_BACK = "bring it back from a copy, or move it away"
FILE_LIMIT = 1 << 20  # bytes of a key file


@dataclass(frozen=True)
class Record:
    """A recipient as this server keeps it. created, proven: ISO times; proven None: nobody showed the private half."""

    recipient: Recipient
    created: str
    proven: Optional[str] = None
    state: str = ACTIVE

    @property
    def name(self) -> str:
        """What it is called on this server."""
        return self.recipient.name

    @property
    def type(self) -> str:
        """rsa or passphrase."""
        return self.recipient.type

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the public key."""
        return self.recipient.fingerprint

    @property
    def public(self) -> str:
        """The public key in PEM."""
        return self.recipient.public.decode("ascii")

    @property
    def active(self) -> bool:
        """Whether dumps are sealed for it."""
        return self.state == ACTIVE and self.proven is not None

    def as_dict(self) -> dict:
        """As it stands in its file."""
        private = self.recipient.private
        return {
            "schema": SCHEMA, "name": self.name, "type": self.type, "fingerprint": self.fingerprint,
            "public": self.public, "private": base64.b64encode(private).decode("ascii") if private else None,
            "created": self.created, "proven": self.proven, "state": self.state,
        }  # fmt: skip


# -- what is there


def recipients(folder: Path) -> List[Record]:
    """All recipients, by name. Raises ConfigError when a file is not one."""
    try:
        found = sorted(path for path in (Path(folder) / "recipients").iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder}/recipients: {error.strerror}") from None
    return [_read_record(path) for path in found if not path.name.startswith(".")]


def active(folder: Path) -> List[Record]:
    """The recipients that dumps are sealed for: proven and not revoked. Raises ConfigError, also when others could
    have put one there."""
    for path in (Path(folder), Path(folder) / "recipients"):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_mode & 0o022:
                raise ConfigError(f"{path}: others can write the key folder", f"chmod go-w {path}")
    return [one for one in recipients(folder) if one.active]


def find(folder: Path, name: str) -> Record:
    """The recipient of that name. Raises RequestError."""
    known = recipients(folder)
    for one in known:
        if one.name == name:
            return one
    listed = ", ".join(one.name for one in known)
    raise RequestError(f"there is no key {name!r}", f"known: {listed}" if known else "stowage key generate")


def private_file(folder: Path, name: str) -> Path:
    """Where the private key of a recipient lies when it is on this server."""
    return Path(folder) / "private" / f"{name}.pem"


def whereabouts(folder: Path, record: Record) -> str:
    """Where its private key is: `open`, `protected` (both in private/), `passphrase` (in every dump), `away`."""
    if record.type == PASSPHRASE:
        return "passphrase"
    data = read_private(folder, record.name)
    return "away" if data is None else "protected" if wrapping.is_protected(data) else "open"


def read_private(folder: Path, name: str) -> Optional[bytes]:
    """The bytes of private/NAME.pem, None when it is not here. Raises ConfigError when others can read it."""
    path = private_file(folder, name)
    keep_secret()
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise ConfigError(f"{path}: others can read this private key", f"chmod 600 {path}")
            return stream.read(FILE_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def private_keys(folder: Path, files: Sequence[Any] = (), ask: Any = None) -> Any:
    """What opens sealed dumps: a ring.KeyRing over the keys here, `files` and what `ask` knows."""
    from .ring import KeyRing

    return KeyRing(folder, files, ask)


# -- what changes


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds the key folder, made when it is not there, for a change. Raises Busy, ConfigError."""
    try:
        for path in (folder, folder / "recipients", folder / "private"):
            files.make_lasting(path)
        lock = LockFile(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", "the key folder must be the user stowage's") from None
    with contextlib.closing(lock):
        if not lock.take():
            raise Busy(f"{folder}: another command is changing keys", "wait for it")
        yield


def generate(folder: Path, name: str, kind: str, ask: Any) -> Record:
    """A new pair, proven by opening what was just written. Call inside changing().

    ask(what, wrong) gives the passphrase, the first time to protect the key, the second time to open it again;
    ask None: a key without one. Raises RequestError for a name in use, KeyLocked when it does not open again.
    """
    _free(folder, name, None)
    keep_secret()
    what = f"key {name}"
    passphrase = _new_passphrase(what, ask) if ask else None
    key = wrapping.generate(name)
    public, now = key.recipient.public, _now()
    if kind == PASSPHRASE:
        if passphrase is None:
            raise RequestError("a key of type passphrase needs a passphrase")
        record = Record(wrapping.load_recipient(public, name, key.protect(passphrase)), now)
        opened = _open_again(record.recipient.private or b"", what, ask)
        _prove(record.recipient, opened)
    else:
        record = Record(key.recipient, now)
        data = key.to_pem() if passphrase is None else key.protect_pem(passphrase)
        path = private_file(folder, name)
        fresh = path.with_name(f".{name}.new")
        files.replace(fresh, data)
        try:
            _prove(record.recipient, _open_again(fresh.read_bytes(), what, ask))
            _put_aside(path)
            os.rename(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        files.sync_folder(path.parent)
    record = replace(record, proven=_now())
    _save(folder, record)
    return record


def add(folder: Path, name: str, pem: bytes) -> Record:
    """A recipient by its public key, made elsewhere; nothing is sealed for it before prove(). Inside changing()."""
    if b"PRIVATE KEY" in pem:
        raise RequestError(
            "this is a private key: give its public half, and leave it where it is",
            "openssl pkey -in FILE -pubout > NAME.pub",
        )
    recipient = wrapping.load_recipient(pem, name)
    _free(folder, name, recipient.fingerprint)
    record = Record(recipient, _now())
    _save(folder, record)
    return record


def prove(folder: Path, name: str, key: Optional[bytes], ask: Any) -> Record:
    """Marks a recipient proven, when a test opens with its private key: `key`, else the one that is here.

    Inside changing(). Raises RequestError, KeyLocked.
    """
    record = find(folder, name)
    if record.state == REVOKED:
        raise RequestError(f"key {name} is revoked for good", "stowage key generate --only NAME")
    keep_secret()
    data = key if key is not None else record.recipient.private or read_private(folder, name)
    if data is None:
        raise RequestError(f"the private key of {name} is not on this server", f"stowage key prove {name} --key FILE")
    opened = open_private(data, f"key {name}", ask)
    if opened.recipient.fingerprint != record.fingerprint:
        raise RequestError(f"this is the private key of {opened.recipient.fingerprint[:16]}, not of {name}, which is "
                           f"{record.fingerprint[:16]}", "stowage key list")  # fmt: skip
    _prove(record.recipient, opened)
    if record.proven is None:
        record = replace(record, proven=_now())
        _save(folder, record)
    return record


def revoke(folder: Path, name: str) -> Record:
    """From now on nothing is sealed for it. Its private key stays: older dumps need it. Inside changing()."""
    record = replace(find(folder, name), state=REVOKED)
    _save(folder, record)
    return record


def open_private(data: bytes, what: str, ask: Any, trusted: bool = False) -> PrivateKey:
    """The private key in data; ask(what, wrong) is asked until its passphrase is right or it gives None.

    Raises KeyLocked, ConfigError.
    """
    keep_secret()
    if not wrapping.is_protected(data):
        return wrapping.load_private(data, None, what, trusted)
    wrong = False
    while True:
        passphrase = ask(what, wrong) if ask else None
        if not passphrase:
            told = "does not open with this passphrase" if wrong else "is protected by a passphrase"
            raise KeyLocked(f"{what} {told}", "give it by --passphrase-file FILE, or type it on a terminal")
        try:
            return wrapping.load_private(data, passphrase, what, trusted)
        except KeyLocked:
            wrong = True


# -- inside


def _read_record(path: Path) -> Record:
    try:
        plain = json.loads(path.read_bytes())
        private = base64.b64decode(plain["private"], validate=True) if plain["private"] is not None else None
        recipient = wrapping.load_recipient(plain["public"].encode("ascii"), path.stem, private)
        record = Record(recipient, str(plain["created"]), plain["proven"], plain["state"])
        same = (plain["schema"], plain["name"], plain["type"], plain["fingerprint"])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise ConfigError(f"{path}: this is no recipient", BRING_BACK) from None
    right = same == (SCHEMA, record.name, record.type, record.fingerprint) and is_name(record.name)
    if not right or record.state not in (ACTIVE, REVOKED) or not isinstance(record.proven, (str, type(None))):
        raise ConfigError(f"{path}: what stands there does not fit together", BRING_BACK)
    return record


def _save(folder: Path, record: Record) -> None:
    data = json.dumps(record.as_dict(), indent=1).encode("ascii") + b"\n"
    path = Path(folder) / "recipients" / f"{record.name}.json"
    files.replace(path, data, 0o644 if record.type == RSA else 0o600)


def _free(folder: Path, name: str, fingerprint: Optional[str]) -> None:
    if not is_name(name):
        raise RequestError(f"{name!r} cannot name a key", "letters, digits, '.', '_' and '-' make a name")
    for one in recipients(folder):
        if one.name == name:
            raise RequestError(f"there is a key {name} already, of {one.created}", "stowage key list")
        if one.fingerprint == fingerprint:
            raise RequestError(f"this key is here already, as {one.name}", "stowage key list")


def _new_passphrase(what: str, ask: Any) -> bytes:
    passphrase = ask(f"new passphrase for {what}", False)
    if not passphrase:
        raise RequestError(f"{what} was not made: no passphrase was given", "--no-passphrase makes a key without one")
    if len(passphrase) < LEAST_PASSPHRASE:
        raise RequestError(f"the passphrase is shorter than {LEAST_PASSPHRASE} bytes", "take four or five words")
    return passphrase


def _open_again(data: bytes, what: str, ask: Any) -> PrivateKey:
    return open_private(data, f"{what}, once more", ask)


def _prove(recipient: Recipient, private: PrivateKey) -> None:
    """Raises KeyLocked unless what is wrapped for the one opens with the other."""
    test = FileKey.make()
    try:
        right = private.unwrap(wrapping.wrap(recipient, test)) == test
    except ImageDamaged:
        right = False
    if not right:
        raise KeyLocked(f"what was sealed for key {recipient.name} does not open with this private key")


def _put_aside(path: Path) -> None:
    """A private key without a recipient, as a killed `generate` leaves it, makes room and is not lost."""
    if path.exists():
        os.rename(path, path.with_name(f"{path.stem}.{clock.stamp(clock.now_ns())}.old"))


def _now() -> str:
    return clock.iso(clock.now_ns())
