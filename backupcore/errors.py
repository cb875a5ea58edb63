"""Every error Stowage tells a person about: a stable code, an exit status and the next step.

Here live the error classes and nothing else: nothing here prints, logs or opens a file.
Only ``backupcore.cli`` turns an error into text, JSON and an exit status. Any exception that is
no StowageError is a bug of ours, and the command line says so.
"""

from __future__ import annotations

from typing import Any


class StowageError(Exception):
    """An expected failure, told in one line.

    message: lower case, no full stop, names client, source and file where they are known.
    hint: the next step to take, best a command; may be empty.
    code: stable, for programs; exit_status: 1 something was not done, 2 the request is wrong.
    again: whether the same may go well a little later, as with a line that was cut.
    """

    code = "failed"
    exit_status = 1
    again = False

    def __init__(self, message: str, hint: str = "", *, client: str = "", source: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.client = client
        self.source = source

    def as_dict(self) -> dict:
        """The error as JSON-ready dict: code, message, hint, client, source (the last three may be '')."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "client": self.client,
            "source": self.source,
        }


class ConfigError(StowageError):
    """The configuration is wrong: file, line and word are in the message."""

    code = "config"
    exit_status = 2


class RequestError(StowageError):
    """The request is wrong: unknown client, source, path, time, option or a combination of them."""

    code = "request"
    exit_status = 2


class NothingThatOld(StowageError):
    """The request is right, but no dump is as old as asked."""

    code = "nothing-that-old"


class ClientUnreachable(StowageError):
    """No connection to the client: name, route, port, timeout, or a cut line."""

    code = "client-unreachable"
    again = True


class HostKeyChanged(StowageError):
    """The client shows another host key than the pinned one."""

    code = "host-key-changed"


class AccessDenied(StowageError):
    """The client refuses the server's key, or sudo refuses the agent."""

    code = "access-denied"


class AgentMissing(StowageError):
    """The client answers, but there is no agent or no usable Python."""

    code = "agent-missing"


class AgentRefused(StowageError):
    """The agent refuses the request, since its agent.json does not allow it."""

    code = "agent-refused"


class SourceGone(StowageError):
    """The path of a source does not exist on its client."""

    code = "source-gone"


class SourceFailed(StowageError):
    """A dump failed on the client: a script before it, an unreadable root, an error while reading."""

    code = "source-failed"


class SourceBusy(StowageError):
    """The client's agent of a run before is still at that source."""

    code = "source-busy"
    again = True


class WireError(StowageError):
    """The other side broke the protocol: garbage, a wrong length, an early end, silence."""

    code = "wire"


class LineLost(WireError):
    """The line ended early, or the other side fell silent; nothing wrong came over it."""

    again = True


class TookTooLong(WireError):
    """A dump came, and was not through by the end of the time that it has; another try tonight would not be, either."""


class HoldingFull(StowageError):
    """No holding disk has room."""

    code = "holding-full"


class TargetRefused(StowageError):
    """A target cannot be reached or refuses to read, write or delete."""

    code = "target-refused"

    @classmethod
    def of(cls, name: str, error: Any) -> TargetRefused:
        """What a target of that name raised (hookspecs' TargetError), for people."""
        kind = TargetDown if error.retry else cls
        return kind(f"target {name}: {error.message}", error.hint or "stowage check")


class TargetDown(TargetRefused):
    """A target cannot be reached, or is busy or ill: it may be there again a little later."""

    code = "target-down"
    again = True


class StillAsleep(TargetRefused):
    """What is to be read sleeps in an archive of its place: it can be asked for, and read hours later."""

    code = "asleep"


class ImageDamaged(StowageError):
    """Bytes of an image are not what its checksums, signature or format say."""

    code = "image-damaged"


class KeyMissing(StowageError):
    """A dump is sealed, and no private key that opens it is at hand."""

    code = "key-missing"


class KeyLocked(StowageError):
    """A private key is protected, and its passphrase is missing or wrong."""

    code = "key-locked"


class CatalogError(StowageError):
    """The catalog cannot be opened, is newer than this program, or is held by another."""

    code = "catalog"


class RestoreIncomplete(StowageError):
    """Something that was asked for was not restored."""

    code = "restore-incomplete"


class EventFailed(StowageError):
    """A report could not be delivered."""

    code = "event-failed"


class AuditFailed(StowageError):
    """The audit log cannot be written, so nothing was done; or it cannot be read."""

    code = "audit"


class Busy(StowageError):
    """Another run of this configuration is at work."""

    code = "busy"


def by_code(code: str) -> type:
    """The error class of a stable code, StowageError when unknown (an agent may be newer)."""
    found = [StowageError]
    for cls in found:
        found.extend(cls.__subclasses__())
        if cls.code == code:
            return cls
    return StowageError
