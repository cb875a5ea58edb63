"""Nights one after the other: a server whose clock is moved from evening to evening. For tests only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Iterator

from cli_lab import Server

from backupcore import clock


def server(tmp_path: Path) -> Iterator[Server]:
    """A server below tmp_path; its planner does not ask agents for sizes: only the server's clock is moved, so that to
    a client's agent nothing would be older than its last dump."""
    base = tmp_path / "server"
    base.mkdir()
    made = Server(base)
    made.write(planning={"estimate": "history"})
    yield made
    made.close()


def moved(monkeypatch: Any) -> Callable[[float], None]:
    """Makes it an evening of the server's clock (a night goes from noon to noon); moves it on by hours."""
    shift = [0]
    real = time.time_ns
    monkeypatch.setattr(clock, "now_ns", lambda: real() + shift[0])

    def move(hours: float) -> None:
        shift[0] += int(hours * 3600 * clock.NS)

    move((21 - time.localtime().tm_hour) % 24)
    return move
