"""A line typed unseen on the terminal, by whichever thread needs it, given up when the command is to end.

Here lives the terminal only; what is asked and how often is _keys.py. getpass would do for the main thread, where a
signal's exception ends the read. A worker's read nobody can end, and whoever waits for that worker waits for Enter.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import select
from typing import Any, Iterator, Optional

LIMIT = 4096
_EVERY = 0.1  # seconds between two looks whether the command is to end
_stopping = [False]  # no Event: its lock would be taken by a handler of signals


_display: Any = None


def beside(display: Any) -> None:
    """What paints on the same terminal now, None for nothing: its pause() and go_on() stand around each question."""
    global _display
    _display = display


def stop() -> None:
    """The command is to end: questions get no answer any more, the one on the terminal too."""
    _stopping[0] = True


def is_stopping() -> bool:
    """Whether the command is to end."""
    return _stopping[0]


def begin() -> None:
    """A command begins."""
    _stopping[0] = False


def ask(question: str) -> Optional[bytes]:
    """What is typed; None for the end of the file, or when the command is to end. The terminal echoes again after."""
    if _stopping[0]:
        return None
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # no controlling terminal: standard input is one, nevertheless
        return getpass.getpass(question).encode("utf-8", "surrogateescape")
    try:
        with _alone(), _unseen(terminal):
            os.write(terminal, question.encode("utf-8", "backslashreplace"))
            return _line(terminal)
    finally:
        os.close(terminal)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    painter = _display
    if painter is not None:
        painter.pause()
    try:
        yield
    finally:
        if painter is not None:
            painter.go_on()


@contextlib.contextmanager
def _unseen(terminal: int) -> Iterator[None]:
    import termios

    before = termios.tcgetattr(terminal)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")


def _line(terminal: int) -> Optional[bytes]:
    typed = b""
    while not _stopping[0]:
        if not select.select([terminal], [], [], _EVERY)[0]:
            continue
        piece = os.read(terminal, LIMIT)
        if not piece:
            return typed or None
        typed += piece
        if typed.endswith(b"\n") or len(typed) > LIMIT:
            return typed.rstrip(b"\n")
    return None
