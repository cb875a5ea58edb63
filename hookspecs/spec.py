"""The hooks: each returns the drivers a package brings. All of the contract's hooks, on one screen."""

from __future__ import annotations

from typing import List

import pluggy

from .events import EventDriver
from .sources import SourceDriver
from .targets import TargetDriver

hookspec = pluggy.HookspecMarker("stowage")


class StowageSpec:
    """Hooks of the entry point group ``stowage``. An entry point names a module that implements any of them."""

    @hookspec
    def stowage_sources(self) -> List[SourceDriver]:
        """The source drivers of this package.

        Example::

            @hookimpl
            def stowage_sources():
                return [SourceDriver("mailbox", "Maildir folders", MailboxOptions, "acme_stowage.mailbox_half")]
        """

    @hookspec
    def stowage_targets(self) -> List[TargetDriver]:
        """The target drivers of this package.

        Example::

            @hookimpl
            def stowage_targets():
                return [TargetDriver("webdav", "a WebDAV share", WebdavOptions, WebdavTarget, remote=True)]
        """

    @hookspec
    def stowage_events(self) -> List[EventDriver]:
        """The event drivers of this package.

        Example::

            @hookimpl
            def stowage_events():
                return [EventDriver("chat", "a chat room", ChatOptions, send_to_chat)]
        """
