"""Floor 3: the built-in event drivers, registered through the hooks of hookspecs/ as a third party's."""

from __future__ import annotations

from typing import List

from ..hookspecs import EventDriver, hookimpl
from . import mail


@hookimpl
def stowage_events() -> List[EventDriver]:
    """The event drivers of this package."""
    return [EventDriver("mail", "mail over SMTP", mail.MailOptions, mail.send)]
