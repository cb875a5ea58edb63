"""Mail: a real SMTP conversation with a small server of the test's own."""

from __future__ import annotations

import email
import email.policy
import os
import socket
import threading

import pytest
from backupcore.hookspecs import Event, EventError
from pydantic import ValidationError

from backupcore.events import mail

EVENT = Event("run-finished", "OK", "stowage OK 3 clients", "OK 3 clients\nbad \x1b[31mname\n.\nend", {})


class Server(threading.Thread):
    """Speaks as much SMTP as smtplib needs; refuses what it is told to."""

    def __init__(self, refuse=()):
        super().__init__(daemon=True)
        self.refuse = refuse
        self.data = b""
        self.to = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        connection, _where = self.socket.accept()
        with connection, connection.makefile("rwb") as stream:

            def say(line):
                stream.write(line.encode() + b"\r\n")
                stream.flush()

            say("220 test")
            for line in stream:
                word = line.split()[0].upper().decode() if line.split() else ""
                if word in self.refuse:
                    say("550 not here\x1b[0m")
                elif word == "EHLO":
                    say("250 test")
                elif word == "RCPT":
                    self.to.append(line.decode().strip())
                    say("550 unknown" if b"nobody" in line else "250 ok")
                elif word == "DATA":
                    say("354 go on")
                    for data in stream:
                        if data == b".\r\n":
                            break
                        self.data += data[1:] if data.startswith(b".") else data
                    say("250 taken")
                elif word == "QUIT":
                    say("221 bye")
                    return
                else:
                    say("250 ok")


def options(port, **more):
    return mail.MailOptions.model_validate({"to": "ops@acme.example", "host": "127.0.0.1", "port": port, **more})


def test_the_report_arrives_whole_and_escaped():
    server = Server()
    mail.send(options(server.port, **{"from": "stowage@acme.example"}), EVENT)
    server.join(60)
    message = email.message_from_bytes(server.data, policy=email.policy.default)
    assert message["Subject"] == "stowage OK 3 clients"
    assert message["From"] == "stowage@acme.example"
    assert message["Date"]
    assert message["Message-ID"]
    assert message.get_content().splitlines() == ["OK 3 clients", "bad \\x1b[31mname", ".", "end"]


def test_a_subject_cannot_bring_headers_of_its_own():
    server = Server()
    mail.send(options(server.port), Event("run-finished", "FAIL", "x\r\nBcc: evil@x.example", "text"))
    server.join(60)
    message = email.message_from_bytes(server.data, policy=email.policy.default)
    assert message["Bcc"] is None
    assert message["Subject"] == "x\\x0d\\x0aBcc: evil@x.example"


def test_only_trouble_is_told_when_only_trouble_is_wanted():
    mail.send(options(1, when="trouble"), EVENT)  # nothing listens there: no connection is made
    with pytest.raises(EventError, match="no mail server answers at 127.0.0.1:1"):
        mail.send(options(1, when="trouble"), Event("run-finished", "WARN", "x", "y"))


def test_who_hears_of_trouble_alone_hears_of_its_end():
    server = Server()
    mail.send(options(server.port, when="trouble"), Event("night-missing", "OK", "over", "over", {"state": "ended"}))
    server.join(60)
    assert b"Subject: over" in server.data


def test_check_says_that_a_password_is_missing_and_sends_nothing(tmp_path):
    mail.check(options(1))
    with pytest.raises(EventError, match="No such file"):
        mail.check(options(1, user="ops", password_file=str(tmp_path / "password")))


def test_a_server_that_refuses_is_an_error_in_one_line():
    server = Server(refuse=("MAIL",))
    with pytest.raises(EventError) as caught:
        mail.send(options(server.port), EVENT)
    assert "refuses the mail" in caught.value.message
    assert "\x1b" not in caught.value.message


def test_an_address_that_is_refused_is_named():
    server = Server()
    with pytest.raises(EventError, match="refuses nobody@acme.example"):
        mail.send(options(server.port, to=["ops@acme.example", "nobody@acme.example"]), EVENT)
    server.join(60)
    assert b"OK 3 clients" in server.data


def test_a_password_file_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    os.chmod(file, 0o644)
    server = Server()
    with pytest.raises(EventError, match="can be read by others"):
        mail.send(options(server.port, user="ops", password_file=str(file)), EVENT)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"to": "nobody"}, "is no mail address"),
        ({"to": []}, "at least one"),
        ({"to": "a@b\r\nBcc: c@d"}, "is no mail address"),
        ({"from": "x"}, "is no mail address"),
        ({"user": "x"}, "go together"),
        ({"user": "x", "password_file": "/x", "host": "mail.acme.example"}, "open line"),
        ({"password": "x"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        mail.MailOptions.model_validate({"to": "ops@acme.example", **wrong})
