"""The connection to an agent: timeouts, whole reads, an end on every way out, and ssh's own words."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

import pytest

from backupcore import wire
from backupcore.dump import transport
from backupcore.dump.streams import Reader, Writer
from backupcore.dump.transport import AgentConnection
from backupcore.errors import (
    AccessDenied,
    AgentMissing,
    ClientUnreachable,
    HostKeyChanged,
    LineLost,
    StowageError,
    WireError,
)
from backupcore.settings import Client


def pipe(timeout=1.0):
    inner, outer = os.pipe()
    os.set_blocking(inner, False)
    os.set_blocking(outer, False)
    return (
        Reader(os.fdopen(inner, "rb", 0), "web1", timeout),
        Writer(os.fdopen(outer, "wb", 0), "web1", timeout),
    )


def gone(pid):
    """Whether the process has ended (a zombie has)."""
    for _ in range(600):
        try:
            with open(f"/proc/{pid}/stat") as stream:
                if stream.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def agent(script, **values):
    """A connection to a Python program that is no agent."""
    return AgentConnection(
        [sys.executable, "-c", script], "web1", **{"hello_timeout": 60.0, "silence_timeout": 60.0, **values}
    )


def test_reads_are_whole_whatever_comes_in_which_pieces():
    reader, writer = pipe(30.0)
    data = os.urandom(3_000_000)

    def send():
        place = 0
        for size in (1, 2, 70_000, 5, 1_000_000, 200_000, 3_000_000):
            writer.write(data[place : place + size])
            writer.flush()
            place += size
        writer.close()

    thread = threading.Thread(target=send)
    thread.start()
    got = b"".join(bytes(reader.read(size)) for size in (1, 1, 100_000, 900_000, 3, 1_500_000, 400_000))
    assert data.startswith(got) and len(got) == 2_900_005
    assert bytes(reader.read(1_000_000)) == data[len(got) :]
    assert bytes(reader.read(5)) == b""
    thread.join()
    assert reader.begin[:3] == data[:3]


def test_silence_is_cut_after_the_timeout_and_slowness_is_not():
    reader, writer = pipe(3.0)
    thread = threading.Thread(target=lambda: [(time.sleep(0.4), writer.write(b"x"), writer.flush()) for _ in range(8)])
    thread.start()
    assert reader.read(8) == b"x" * 8  # 3.2 s, never 3.0 s of silence, also where a thread has to wait for its turn
    thread.join()
    reader.timeout = 1.0
    begun = time.monotonic()
    with pytest.raises(WireError, match=r"web1 sent nothing for 1 s"):
        reader.read(1)
    assert 0.8 < time.monotonic() - begun < 30


DRIP = """
import os, struct, sys, time
data = {data}
os.write(1, data)
while True:
    os.write(1, b" ")
    time.sleep(0.05)
"""


@pytest.mark.parametrize("said", ["", "hello"])
def test_a_client_that_is_never_silent_and_never_through_is_ended(said):
    hello = b'{"protocol":1,"version":"0.1.0","sources":{}}'
    head = b"H" + len(hello).to_bytes(4, "big") + hello + b"f" if said else b"H"
    begun, limit = time.monotonic(), 60.0 if said else 5.0  # a Python takes a while to start
    with agent(DRIP.format(data=head + (1 << 20).to_bytes(4, "big")), hello_timeout=limit, dump_timeout=1.0) as made:
        with pytest.raises(WireError) as failed:
            made.request({"request": "dump"})
            if said:
                made.channel.receive()
        told = "at its dump for longer than 1.0 s" if said else "has not said who it is after 10 s"
        error = failed.value if not said else made.failure(failed.value)
        assert told in error.message and error.message.startswith("web1") and not error.again
        assert ("timeouts: dump" in error.hint) == bool(said)
    assert 0.8 < time.monotonic() - begun < 60


def test_what_a_dump_waits_for_here_is_not_its_clients_time():
    with agent("import time; time.sleep(60)", dump_timeout=1000.0) as made:
        made.grace = 0.1  # it ends of itself too late for a test
        made.reader.until = before = time.monotonic() + 1000
        made.hold_up(True)
        made.hold_up(True)
        time.sleep(0.2)
        made.hold_up(False)
        made.hold_up(False)
        assert 0.2 <= made.reader.until - before < 10


def test_only_a_dump_has_an_end_by_the_clock():
    script = DRIP.format(data=b'H\0\0\0\x2d{"protocol":1,"version":"0.1.0","sources":{}}')
    with agent(script, dump_timeout=0.1) as made:
        made.request({"request": "restore"})
        made.grace = 0.1
        time.sleep(0.3)
        assert made.channel.read(3) == b"   "


def test_a_peer_that_takes_nothing_is_cut():
    _reader, writer = pipe(0.3)
    with pytest.raises(WireError, match="took nothing for 0.3 s"):
        writer.write(bytes(5_000_000))


def test_closing_wakes_the_thread_that_waits():
    reader, _writer = pipe(60)
    caught = []

    def wait():
        try:
            reader.read(1)
        except WireError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    reader.close()
    thread.join(30)
    assert not thread.is_alive() and caught
    with pytest.raises(WireError):
        reader.read(1)
    reader.close()


@pytest.mark.parametrize("way", ["clean", "error", "interrupt", "cut"])
def test_the_process_and_what_it_started_end_on_every_way_out(way, monkeypatch):
    monkeypatch.setattr(transport, "LOCAL_GRACE", 0.3)
    stubborn = (
        "import subprocess, sys, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'])\n"
        "sys.stderr.write('%d\\n' % child.pid); sys.stderr.flush(); time.sleep(60)\n"
    )
    connection = agent(stubborn)
    connection.grace = 0.3
    monkeypatch.setattr(transport, "SSH_GRACE", 0.3)
    while b"\n" not in connection._stderr:
        time.sleep(0.02)
    child, parent = int(connection._stderr), connection._process.pid
    try:
        with connection:
            if way == "cut":
                connection.cut()
            elif way != "clean":
                raise {"error": ValueError, "interrupt": KeyboardInterrupt}[way]
    except (ValueError, KeyboardInterrupt):
        pass
    assert gone(parent) and gone(child)
    connection.close()


def test_a_process_that_ended_is_not_waited_for(monkeypatch):
    connection = agent("pass")
    connection.grace = 60
    begun = time.monotonic()
    with connection, pytest.raises(WireError):
        connection.channel.receive()
    assert time.monotonic() - begun < 45


def test_a_local_agent_may_run_its_script_after_a_dump_that_is_cut(tmp_path):
    mark = tmp_path / "after"
    script = (
        "import sys, time\n"
        "try:\n  while True: sys.stdout.write('x' * 1000); sys.stdout.flush()\n"
        f"except OSError: time.sleep(0.5); open({str(mark)!r}, 'w').close()\n"
    )
    with pytest.raises(RuntimeError), agent(script) as connection:
        connection.reader.read(10)
        raise RuntimeError
    assert mark.exists()


def test_no_descriptor_and_no_thread_is_left_behind():
    def left():  # some of what tests before have left may go meanwhile
        return len(os.listdir("/proc/self/fd")), set(threading.enumerate())

    agent("pass").close()
    gc.collect()
    files, threads = left()
    for _ in range(5):
        with agent("import sys; sys.stdin.read()"):
            pass
    files_after, threads_after = left()
    assert files_after <= files and threads_after <= threads


def test_endless_words_on_stderr_do_not_block_nor_fill_memory():
    script = (
        "import sys\nfor n in range(200): sys.stderr.write('y' * 100_000)\nsys.stderr.write('the end')\nsys.exit(7)\n"
    )
    with agent(script) as connection:
        assert connection._ended_within(30)
        error = connection.failure(WireError("the line to web1 was cut"))
    assert len(connection._stderr) <= transport.STDERR_KEPT and connection._stderr.endswith(b"the end")
    assert isinstance(error, AgentMissing) and error.client == "web1" and len(error.message) < 500


def test_nothing_of_the_servers_environment_reaches_the_agent(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    with agent("import os, sys; sys.stdout.write(','.join(sorted(os.environ)))") as connection:
        names = bytes(connection.reader.read(1000)).decode()
    assert set(names.split(",")) <= {"PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "LC_ALL", "LC_CTYPE"}


SAID = {
    "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.": HostKeyChanged,
    "No ED25519 host key is known for web1 and you have requested strict checking.\nHost key verification failed.":
        HostKeyChanged,
    "stowage@web1: Permission denied (publickey).": AccessDenied,
    "Load key \"/etc/stowage/ssh/id\": bad permissions\nstowage@web1: Permission denied (publickey).": AccessDenied,
    "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures": AccessDenied,
    "ssh: connect to host web1 port 22: Connection refused": ClientUnreachable,
    "ssh: connect to host web1 port 22: No route to host": ClientUnreachable,
    "ssh: connect to host web1 port 22: Connection timed out": ClientUnreachable,
    "ssh: Could not resolve hostname web1: Name or service not known": ClientUnreachable,
    "kex_exchange_identification: Connection closed by remote host": ClientUnreachable,
    "Timeout, server web1 not responding.": ClientUnreachable,
    "": ClientUnreachable,
}  # fmt: skip


@pytest.mark.parametrize("words", SAID)
def test_what_ssh_says_becomes_an_error_with_a_next_step(words):
    script = f"import sys; sys.stderr.write({words!r}); sys.exit(255)"
    with agent(script, ssh="web1.example", known_hosts="/etc/stowage/known_hosts.d/web1") as connection:
        with pytest.raises(StowageError) as caught:
            connection.hello()
    assert type(caught.value) is SAID[words]
    assert caught.value.again is (SAID[words] is ClientUnreachable)
    assert "web1" in caught.value.message and caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize("status, words, kind", [
    (127, "bash: line 1: /usr/bin/python3: No such file or directory", AgentMissing),
    (2, "/usr/bin/python3: can't open file '/usr/local/lib/stowage/agent.pyz': [Errno 2] No such file", AgentMissing),
    (1, "sudo: /usr/bin/python3: command not found", AgentMissing),
    (1, "zipimport.ZipImportError: not a Zip file: 'agent.pyz'", AgentMissing),
    (1, "sudo: a password is required", AccessDenied),
    (1, "Sorry, user stowage is not allowed to execute '/usr/bin/python3' as root on web1.", AccessDenied),
    (1, "stowage is not in the sudoers file.", AccessDenied),
])  # fmt: skip
def test_what_sudo_and_python_say_becomes_an_error_with_a_next_step(status, words, kind):
    with agent(f"import sys; sys.stderr.write({words!r}); sys.exit({status})", ssh="web1.example") as connection:
        with pytest.raises(StowageError) as caught:
            connection.hello()
    assert type(caught.value) is kind and "web1" in caught.value.message and "site" in caught.value.hint


def test_an_agent_that_spoke_is_there_whatever_it_says_at_its_end():
    script = (
        "import sys\nsys.stdout.buffer.write(b'H\\0\\0\\0\\x0e{\"protocol\":1}'); sys.stdout.flush()\n"
        "sys.stderr.write('sudo: something\\nTraceback: command not found'); sys.exit(1)\n"
    )
    with agent(script) as connection:
        assert connection.hello() == {"protocol": 1}
        with pytest.raises(WireError) as caught:
            connection.channel.receive()
        error = connection.failure(caught.value)
    assert type(error) is WireError and "Traceback: command not found" in error.message


HELLO = "import os, sys, time; sys.stdout.buffer.write(b'H\\0\\0\\0\\x0e{\"protocol\":1}'); sys.stdout.flush(); "


@pytest.mark.parametrize("then, again", [
    ("sys.exit(0)", True),
    ("os.kill(os.getpid(), 9)", True),
    ("sys.exit(255)", True),  # ssh's own status, when the line is cut
    ("time.sleep(60)", True),  # silence
    ("sys.exit(1)", False),  # a fault of the agent
    ("sys.stdout.buffer.write(b'garbage, not one message'); sys.exit(255)", False),
    ("sys.stdout.buffer.write(b'garbage, not one message'); sys.stdout.flush(); time.sleep(60)", False),
])  # fmt: skip
def test_a_line_that_is_lost_may_be_tried_again_and_nonsense_is_not(then, again):
    silence = 0.5 if then == "time.sleep(60)" else 30.0  # who ends or talks may take a while to come to it
    with agent(HELLO + then, ssh="web1.example", silence_timeout=silence) as connection:
        connection.hello()
        with pytest.raises(WireError) as caught:
            connection.channel.receive()
        assert connection.failure(caught.value).again is again


def test_what_an_agent_calls_unreachable_is_not_tried_again():
    told = wire.received_error({"code": "client-unreachable", "message": "x"})
    assert isinstance(told, ClientUnreachable) and not told.again
    assert ClientUnreachable("x").again and LineLost("x").again and not WireError("x").again
    assert wire.received_error({"code": "source-busy", "message": "x"}).again  # by the run before


@pytest.mark.parametrize("hello", ['{"protocol":2}', "{}", '{"protocol":"\\u001b[2J"}'])
def test_an_agent_of_another_protocol_is_refused(hello):
    data = b"H" + len(hello).to_bytes(4, "big") + hello.encode()
    script = f"import sys, time; sys.stdout.buffer.write({data!r}); sys.stdout.flush(); time.sleep(5)"
    with agent(script) as connection, pytest.raises(AgentMissing, match="protocol") as caught:
        connection.grace = 0.2
        connection.hello()
    assert "\x1b" not in caught.value.message


def test_the_ssh_command_pins_the_key_and_takes_nothing_from_the_users_own_files(server):
    server.settings.known_hosts.mkdir()
    (server.settings.known_hosts / "web1").touch()
    key = server.base / "key"
    key.touch()
    server.set(ssh_key=key)
    client = Client("web1", {}, address="10.0.0.1", port=2222)
    argv = transport._ssh_command(server.settings, client, ["/usr/bin/python3", "-I", "a b.pyz", "serve"])
    options = {argv[place + 1] for place, word in enumerate(argv) if word == "-o"}
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "HostKeyAlias=web1", "GlobalKnownHostsFile=/dev/null",
            f'UserKnownHostsFile="{server.settings.known_hosts}/web1"', "IdentityAgent=none",
            "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com"} <= options  # fmt: skip
    assert argv[:6] == ["ssh", "-F", "none", "-a", "-x", "-T"]
    assert argv[-3:] == ["--", "10.0.0.1", "sudo -n /usr/bin/python3 -I 'a b.pyz' serve"]
    assert argv[argv.index("-l") + 1] == "stowage" and argv[argv.index("-p") + 1] == "2222"


def test_an_interrupt_at_the_terminal_does_not_reach_the_agent():
    with agent("import sys; sys.stdin.read()") as connection:
        assert os.getpgid(connection._process.pid) != os.getpgrp()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_hello_and_request_go_in_one_round():
    script = (
        "import sys, os\nfrom backupcore import wire\n"
        "channel = wire.Channel(sys.stdin.buffer, sys.stdout.buffer)\n"
        "channel.expect(wire.HELLO); channel.expect(wire.REQUEST)\n"  # both before the first answer
        "channel.send_json(wire.HELLO, {'protocol': 1}); channel.send_json(wire.DONE, {})\n"
    )
    with agent(script) as connection:
        connection.request({"request": "survey"})
        assert connection.channel.expect(wire.DONE) == (wire.DONE, {})
