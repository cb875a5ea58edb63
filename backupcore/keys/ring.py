"""What opens sealed dumps: the private keys that are here, those given by file, and the passphrases somebody knows.

Here lives in which order they are tried and that nobody is asked twice; where keys lie is store.py, the wrapped keys
are image.recipients. A ring is made for one command and used by many threads.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ..errors import ConfigError, ImageDamaged, KeyLocked, KeyMissing, StowageError
from ..image import layout, recipients
from ..image.recipients import PASSPHRASE, RSA, KeyLine, PrivateKey
from ..image.seal import FileKey, Seal
from . import store

# ask(what, wrong): the passphrase of `what`; wrong: the one before did not fit. None: nobody knows it.
Ask = Callable[[str, bool], Optional[bytes]]
STDIN = "-"
GAPS = 2  # numbers of keys-<n>.tsv that may be missing between two


class KeyRing:
    """Keys are loaded when a dump needs them: first those that open without a passphrase. files: key files, - is
    standard input; ask is made before, since a passphrase that comes that way stands first."""

    def __init__(self, folder: Path, files: Sequence[Union[Path, str]] = (), ask: Optional[Ask] = None):
        self.folder, self.files, self.ask = Path(folder), list(files), ask
        self._lock = threading.RLock()
        self._opened: Dict[str, PrivateKey] = {}  # by fingerprint
        self._tried: Set[str] = set()  # what was asked for already, opened or not
        self._locked: Dict[str, StowageError] = {}  # by what
        self._silent: Optional[List[PrivateKey]] = None
        self._given: Optional[List[Tuple[str, bytes]]] = None
        self._names: Dict[str, str] = {}  # fingerprint -> name, of the recipients known here
        self._own: Dict[str, bytes] = {}  # fingerprint -> protected private key, of passphrase recipients known here

    def unlock(
        self, manifest: Any, read_small: Callable[[str, int], bytes], files: Optional[Iterable[str]] = None
    ) -> Optional[Dict[str, FileKey]]:
        """File name -> its key, of all sealed files of a dump or of `files`; None when the dump is not sealed.

        read_small(name, limit) gives a file of the dump. Raises KeyMissing, KeyLocked, ImageDamaged.
        """
        seal = manifest.sealed
        if seal is None:
            return None
        if self._hopeless():
            raise self._missing(manifest.prefix, seal)
        wanted = sorted(seal.commitments if files is None else files)
        lines: List[KeyLine] = []
        damaged: List[StowageError] = []
        for data in _texts(read_small):
            found = recipients.read_keys([data])
            lines += found
            keys = self._try(manifest.prefix, seal, found, self.silent(), wanted, damaged)
            if keys is not None:
                return keys
        return self.open(manifest.prefix, seal, lines, wanted, damaged)

    def open(
        self, prefix: str, seal: Seal, lines: Sequence[KeyLine], files: Optional[Iterable[str]] = None,
        damaged: Optional[List[StowageError]] = None,
    ) -> Dict[str, FileKey]:  # fmt: skip
        """The same from lines of keys.tsv that were read. Raises KeyMissing, KeyLocked, ImageDamaged."""
        damaged = [] if damaged is None else damaged
        wanted = sorted(seal.commitments if files is None else files)
        named = {line.fingerprint for line in lines if line.type in (RSA, PASSPHRASE)}
        offered = {name: value for name, value in recipients.offered(lines).items() if name in named}
        for key in self._candidates(named, offered):
            keys = self._try(prefix, seal, lines, [key], wanted, damaged)
            if keys is not None:
                return keys
        if damaged:
            raise damaged[0]
        for error in self._locked.values():
            raise KeyLocked(f"{prefix} is sealed, and {error.message}", error.hint) from None
        raise self._missing(prefix, seal)

    def silent(self) -> List[PrivateKey]:
        """The private keys here and in files that open without a passphrase. Raises ConfigError."""
        with self._lock:
            if self._silent is None:
                self._load()
            return list(self._silent or ())

    # -- inside

    def _try(
        self, prefix: str, seal: Seal, lines: Sequence[KeyLine], keys: Iterable[PrivateKey], wanted: Sequence[str],
        damaged: List[StowageError],
    ) -> Optional[Dict[str, FileKey]]:  # fmt: skip
        try:
            return recipients.unlock(prefix, seal, lines, keys, wanted)
        except KeyMissing:
            return None
        except ImageDamaged as error:
            damaged.append(error)
            return None

    def _candidates(self, named: Set[str], offered: Mapping[str, bytes]) -> Iterator[PrivateKey]:
        """Private keys for these recipients: at hand, then by passphrase, each asked for once a command."""
        given = set()
        for key in self.silent():
            if key.recipient.fingerprint in named:
                given.add(key.recipient.fingerprint)
                yield key
        for what, data in self._given or ():
            key = self._ask(what, data)
            if key is not None and key.recipient.fingerprint in named - given:
                given.add(key.recipient.fingerprint)
                yield key
        for name in sorted(named - given):
            known = self._names.get(name)
            data = store.read_private(self.folder, known) if known else None
            if data is not None and recipients.is_protected(data):
                key = self._ask(f"key {known}", data)
                if key is not None and key.recipient.fingerprint == name:
                    given.add(name)
                    yield key
        offered = {**offered, **{name: data for name, data in self._own.items() if name in named}}
        for name in sorted(set(offered) - given):
            known = self._names.get(name)
            key = self._ask(f"key {known or name[:16]} of type passphrase", offered[name], name in self._own)
            if key is not None and key.recipient.fingerprint == name:
                yield key

    def _ask(self, what: str, data: bytes, trusted: bool = True) -> Optional[PrivateKey]:
        with self._lock:
            if what not in self._tried:
                self._tried.add(what)
                try:
                    self._opened[what] = store.open_private(data, what, self.ask, trusted)
                except (KeyLocked, ConfigError) as error:
                    self._locked[what] = error
            return self._opened.get(what)

    def _load(self) -> None:
        """What can be loaded without asking: once."""
        records = store.recipients(self.folder)
        self._names = {one.fingerprint: one.name for one in records}
        self._own = {one.fingerprint: one.recipient.private for one in records if one.recipient.private}
        silent: List[PrivateKey] = []
        given: List[Tuple[str, bytes]] = []
        for one in self.files:
            data, what = read_file(one), "the key given" if str(one) == STDIN else str(one)
            if recipients.is_protected(data):
                given.append((what, data))
            else:
                silent.append(recipients.load_private(data, None, what, trusted=True))
        for name in self._private_names():
            data = store.read_private(self.folder, name)
            if data is not None and not recipients.is_protected(data):
                silent.append(recipients.load_private(data, None, f"key {name}", trusted=True))
        self._given, self._silent = given, silent

    def _private_names(self) -> List[str]:
        folder = self.folder / "private"
        try:
            return sorted(path.stem for path in folder.iterdir() if path.suffix == ".pem" and path.name[0] != ".")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{folder}: {error.strerror}") from None

    def _hopeless(self) -> bool:
        """Whether nothing can open anything: then no keys.tsv has to be read to know it."""
        return not self.files and self.ask is None and not self._private_names()

    def _missing(self, prefix: str, seal: Seal) -> KeyMissing:
        with self._lock:
            if not self._names:
                self._names = {one.fingerprint: one.name for one in store.recipients(self.folder)}
        whom = ", ".join(self._names.get(name) or f"{kind} {name[:16]}" for kind, name in seal.recipients)
        return KeyMissing(
            f"{prefix} is sealed for {whom}; none of their private keys is at hand", "give one by --key FILE"
        )


def read_file(path: Union[Path, str]) -> bytes:
    """A key file that somebody named; - is standard input. Raises ConfigError."""
    store.keep_secret()
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(store.FILE_LIMIT + 1)
        else:
            with open(path, "rb") as stream:
                data = stream.read(store.FILE_LIMIT + 1)
    except PermissionError as error:
        raise ConfigError(*_forbidden(Path(path), str(error.strerror))) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > store.FILE_LIMIT:
        raise ConfigError(f"{path}: this is no key file")
    return data


def _forbidden(path: Path, why: str) -> Tuple[str, str]:
    """Message and hint: mostly the key is root's, and the command runs as the server's own user."""
    me = _user(os.geteuid())
    try:
        owner = f"; it is of {_user(path.stat().st_uid)}, mode {stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:
        owner = "; not even its folder may be entered"
    copy = Path("/run") / path.name  # gone with the next boot, which is right for a key that is only lent
    give = f"sudo install -m 0600 -o {me} {shlex.quote(str(path))} {shlex.quote(str(copy))}"
    return (
        f"{path}: {why}: this command runs as {me}{owner}",
        f"{give} and --key {copy}, or as who may read it: stowage ... --key - < {shlex.quote(str(path))}",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _texts(read_small: Callable[[str, int], bytes]) -> Iterator[bytes]:
    """keys.tsv, keys-2.tsv and so on, each read when it is asked for."""
    missing, number, read, first = 0, 0, 0, None
    while missing <= GAPS:
        number += 1
        try:
            data = read_small(layout.keys_name(number), recipients.SIZE_LIMIT)
        except StowageError as error:
            first = first or error
            missing += 1
            continue
        missing, read = 0, read + 1
        yield data
    if not read and first is not None:
        raise first
