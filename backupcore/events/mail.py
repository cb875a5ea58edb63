"""Mail: the report of a run, sent with smtplib as plain text.

Here live the options and the sending; the text is made in report/. Passwords are read from a 0600 file
at the moment of sending and never stand in stowage.yml.
"""

from __future__ import annotations

import re
from typing import Any, List, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..hookspecs import Event, EventError
from ..text import escape
from . import _secret

_ADDRESS = re.compile(r"[^@\s<>,;:\"()\\]+@[^@\s<>,;:\"()\\]+\Z")


class MailOptions(BaseModel):
    """to: one address or several. when: which runs are told. security: how the line to the server is protected.

    password_file: 0600, its first line is the password of user. only `when: trouble` leaves good runs out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    to: Union[str, List[str]]
    sender: str = Field("", alias="from")
    host: str = "localhost"
    port: Optional[int] = Field(None, ge=1, le=65535)
    security: Literal["none", "starttls", "tls"] = "none"
    user: str = ""
    password_file: str = ""
    when: Literal["always", "trouble"] = "always"
    timeout: int = Field(30, ge=1, le=600)

    @field_validator("to")
    @classmethod
    def _addresses(cls, value: Union[str, List[str]]) -> List[str]:
        found = [value] if isinstance(value, str) else value
        for address in found:
            if not _ADDRESS.match(address):
                raise ValueError(f'"{address}" is no mail address')
        if not found:
            raise ValueError("must name at least one address")
        return found

    @field_validator("sender")
    @classmethod
    def _one_address(cls, value: str) -> str:
        if value and not _ADDRESS.match(value):
            raise ValueError("is no mail address")
        return value

    @field_validator("password_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return _secret.absolute(value)

    @model_validator(mode="after")
    def _login_is_whole(self) -> "MailOptions":
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file go together")
        if self.user and self.security == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("a password is never sent over an open line: set security to starttls or tls")
        return self


def send(options: MailOptions, event: Event) -> None:
    """Sends the report to all addresses. Raises EventError when the server takes it for none of them."""
    if options.when == "trouble" and event.status == "OK" and event.kind != "test":
        if event.data.get("state") != "ended":  # who heard of the trouble hears of its end
            return
    import smtplib  # smtplib and email cost 60 ms, which a run without mail need not pay

    where = f"{options.host}:{_port(options)}"
    try:
        with _connect(options) as server:
            if options.user:
                server.login(options.user, _secret.first_line(options.password_file, "password"))
            refused = server.send_message(_message(options, event))
    except smtplib.SMTPAuthenticationError:
        raise EventError(f"{where} refuses the login of {options.user}", f"see {options.password_file}") from None
    except smtplib.SMTPException as error:
        raise EventError(f"{where} refuses the mail: {_told(error)}", "see the log of the mail server") from None
    except OSError as error:
        told = error.strerror or _told(error)
        raise EventError(f"no mail server answers at {where}: {told}", "see host and port of the event") from None
    if refused:
        raise EventError(f"{where} refuses {', '.join(sorted(refused))}", "see the log of the mail server")


def check(options: MailOptions) -> None:
    """Raises EventError for what would keep the next mail from being sent; sends nothing."""
    if options.password_file:
        _secret.first_line(options.password_file, "password")


def _port(options: MailOptions) -> int:
    return options.port or {"none": 25, "starttls": 587, "tls": 465}[options.security]


def _connect(options: MailOptions) -> Any:
    import smtplib
    import ssl

    if options.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(options.host, _port(options), timeout=options.timeout, context=context)
    server = smtplib.SMTP(options.host, _port(options), timeout=options.timeout)
    if options.security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _message(options: MailOptions, event: Event) -> Any:
    import email.message
    import email.policy
    import email.utils
    import socket

    message = email.message.EmailMessage(email.policy.SMTP)
    host = socket.gethostname()
    message["From"] = options.sender or f"stowage@{host if '.' in host else host + '.localdomain'}"
    message["To"] = ", ".join(options.to)
    message["Subject"] = escape(event.subject)[:200]
    message["Date"] = email.utils.formatdate()
    message["Message-ID"] = email.utils.make_msgid(domain=host)
    message["Auto-Submitted"] = "auto-generated"
    # every line is escaped, so that nothing from a client acts on the reader's terminal
    message.set_content("\n".join(escape(line) for line in event.text.split("\n")) + "\n")
    return message


def _told(error: BaseException) -> str:
    return escape(" ".join(str(error).split()))[:300] or type(error).__name__
