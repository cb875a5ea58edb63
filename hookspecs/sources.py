"""The source contract: a kind of thing on a client that can be dumped.

A source has a server half (this record) and a client half: a module of the standard library, Python 3.8,
that the role builds into the client's agent. The client half offers

    plan(options: dict) -> dict    {"path", "include", "exclude", "one_file_system"}: the tree to walk
    before(options: dict) -> None  commands before the walk; raises RuntimeError(one line) to fail the dump
    after(options: dict) -> None   commands after it, also when the dump failed

and may offer, where its dump is another size than the tree that is there before ``before`` has run

    estimate(options: dict, since: list, seconds: float) -> dict    {"bytes", "entries", "since": [[bytes, entries]...]}

bytes of the archive and entries of a full, then of what changed since each moment (ns, ascending); no contents are
read, nothing is changed, and it takes no longer than so many seconds. Without it the tree of plan() is walked.
"""

from __future__ import annotations

from dataclasses import dataclass


class SourceError(Exception):
    """The options of a source are wrong. hint: the next step."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class SourceDriver:
    """A kind of source.

    type: the word in the configuration. options: a pydantic model class (extra="forbid") of its options;
    ``model_dump()`` of it stands in agent.json. client_half: dotted name of the client half's module.
    levels: highest level it can dump, 0 when only fulls. single_items: one file can be restored alone.
    estimate: the agent can tell sizes without reading contents; else no client is asked, and nights are planned by
    past dumps, the first by a default.
    """

    type: str
    summary: str
    options: type
    client_half: str
    levels: int = 9
    single_items: bool = True
    estimate: bool = True
