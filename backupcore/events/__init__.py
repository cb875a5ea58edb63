"""Floor 3: the built-in event drivers, registered through the hooks of hookspecs/ as a third party's."""

from __future__ import annotations

from typing import List

from ..hookspecs import EVENT_KINDS, EventDriver, hookimpl
from . import mail, ping, textfile, webhook


@hookimpl
def stowage_events() -> List[EventDriver]:
    """The event drivers of this package."""
    return [
        EventDriver("mail", "mail over SMTP", mail.MailOptions, mail.send, check=mail.check),
        EventDriver(
            "ping", "a word to a service that raises the alarm when none comes", ping.PingOptions, ping.send,
            secrets=("url",), takes=("run-begun", "run-finished", "watched"), events=("run-begun", "run-finished"),
            check=ping.check,
        ),
        EventDriver(
            "textfile", "metrics for Prometheus' node_exporter", textfile.TextfileOptions, textfile.send,
            takes=("watched",), events=("watched",), check=textfile.check,
        ),
        EventDriver(
            "webhook", "JSON to an address of HTTP", webhook.WebhookOptions, webhook.send,
            secrets=("url",), events=tuple(kind for kind in EVENT_KINDS if kind not in ("run-begun", "watched")),
            check=webhook.check,
        ),
    ]  # fmt: skip
