"""Private keys and passphrases for the verbs that open sealed dumps: --key, --passphrase-file, or a question.

Here lives how a passphrase gets into the program: from a file, from standard input, or typed unseen on a terminal;
never from the command line or the environment, where others could read it. What is done with it: backupcore.keys.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from typing import Any, List, Optional

from ..errors import ConfigError, RequestError
from ..guard import keep_secret
from . import _prompt

TRIES = 3
LIMIT = 4096
STDIN = "-"


def add_options(parser: argparse.ArgumentParser) -> None:
    """--key and --passphrase-file, as restore, verify, rebuild, drill and key take them."""
    parser.add_argument("--key", metavar="FILE", action="append", default=[],
                        help="a private key that opens sealed dumps; - is standard input; may be repeated")  # fmt: skip
    parser.add_argument("--passphrase-file", metavar="FILE",
                        help="its passphrase stands in the first line of FILE; - is standard input, where a key "
                             "comes after it")  # fmt: skip


def ring(args: argparse.Namespace, settings: Any) -> Any:
    """The keys.ring.KeyRing of a command with these options. Raises ConfigError."""
    from ..keys import store

    check_files(args)
    return store.private_keys(settings.keys, args.key, asker(args))


def check_files(args: argparse.Namespace) -> None:
    """Raises ConfigError for a key file that cannot be read, before anything is done: else a rebuild would only tell it
    of each dump, and go on without."""
    from ..keys import ring as rings

    for name in args.key:
        if name != STDIN and not os.access(name, os.R_OK):  # not opened: a pipe is read once only
            rings.read_file(name)


def asker(args: argparse.Namespace) -> Optional[Any]:
    """ask(what, wrong) -> passphrase or None, for backupcore.keys; None when nobody can be asked.

    Call it before a key is read. Raises ConfigError, RequestError.
    """
    if args.passphrase_file:
        passphrase = _first_line(args.passphrase_file)
        return lambda what, wrong: None if wrong else passphrase
    if _terminal(STDIN in getattr(args, "key", ())):
        return _Prompt()
    return None


class _Prompt:
    def __init__(self) -> None:
        self.wrong = 0

    def __call__(self, what: str, wrong: bool) -> Optional[bytes]:
        """Asks on the terminal; an empty answer means: I do not know it."""
        keep_secret()
        self.wrong = self.wrong + 1 if wrong else 0
        if self.wrong >= TRIES:
            return None
        told = "wrong, again: " if wrong else ""
        begin = what if what.startswith("new passphrase") else f"passphrase of {what}"
        try:
            return _prompt.ask(f"{told}{begin}: ")
        except EOFError:
            return None


def _terminal(key_on_stdin: bool) -> bool:
    """Whether somebody sits there. key_on_stdin: then the passphrase is typed on the terminal all the same."""
    try:
        return sys.stderr.isatty() and (sys.stdin.isatty() or key_on_stdin and _in_front())
    except (AttributeError, ValueError):
        return False


def _in_front() -> bool:
    """Whether this process may read from its terminal: in the background, that would stop it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _first_line(name: str) -> bytes:
    keep_secret()
    if name == STDIN:
        data = sys.stdin.buffer.readline(LIMIT + 1)
    else:
        data = _read(name)
    line = data.split(b"\n", 1)[0].rstrip(b"\r")
    if not line or len(line) > LIMIT:
        raise RequestError("the passphrase is empty or endless", "it stands in the first line of the file")
    return line


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as stream:
            found = os.fstat(stream.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                raise ConfigError(f"{name}: others can read this passphrase", f"chmod 600 {name}")
            return stream.read(LIMIT + 1)
    except OSError as error:
        hint = "" if isinstance(error, FileNotFoundError) else f"stowage ... --passphrase-file - < {name}"
        raise ConfigError(f"{name}: {error.strerror}", hint) from None


def read_named(names: List[str]) -> bytes:
    """The bytes of the one key file of a command, - for standard input. Raises RequestError, ConfigError."""
    from ..keys import ring as rings

    if len(names) != 1:
        raise RequestError("give one key file")
    return rings.read_file(names[0])
