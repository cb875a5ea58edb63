"""The rate of a network: all its dumps together read no faster, and whoever is cut waits no longer."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from backupcore.dump.networks import Networks
from backupcore.dump.streams import Reader, Writer
from backupcore.errors import LineLost
from backupcore.hours import parse_rates
from backupcore.limiter import Limiter
from backupcore.settings import Client, Network, Settings

MB = 10**6


def settings(**networks):
    clients = {name: Client(name, {}, network=net) for name, net in (("a", "wan"), ("b", "wan"), ("free", ""))}
    return Settings(
        file=Path("x"), state=Path("x"), keys=Path("x"), holding=(), cycle_days=7, targets={}, policies={},
        clients=clients, networks={name: Network(name, parse_rates(rate)) for name, rate in networks.items()},
    )  # fmt: skip


def feed(data):
    """The reading end of a pipe into which data goes as fast as it is taken."""
    inner, outer = os.pipe()
    os.set_blocking(inner, False)

    def write():
        with os.fdopen(outer, "wb", 0) as stream:
            try:
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]
            except OSError:
                pass

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return Reader(os.fdopen(inner, "rb", 0), "web1", 30.0)


def test_dumps_of_a_network_share_its_rate_and_others_are_free():
    paces = Networks(settings(wan="32 Mbit/s"))
    assert paces.pace("free") is None and paces.pace("nobody") is None
    data = os.urandom(2 * MB)
    got, begun = {}, time.monotonic()

    def read(name):
        reader = feed(data)
        reader.pace = paces.pace(name)
        room = memoryview(bytearray(1 << 18))
        # half by each way of reading
        whole = bytes(reader.read(MB))
        while count := reader.readinto(room):
            whole += bytes(room[:count])
        got[name] = whole
        reader.close()

    threads = [threading.Thread(target=read, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    seconds = time.monotonic() - begun
    assert got == {"a": data, "b": data}
    # 4 MB at 4 MB/s: the last pieces are read before they are paid for
    assert seconds >= (4 * MB - 2 * (1 << 18)) / (4 * MB) * 0.95


def test_who_waits_for_a_rate_is_cut_at_once():
    paces = Networks(settings(wan="8 kbit/s"))
    reader = feed(bytes(MB))
    reader.pace = paces.pace("a")
    reader.read(1 << 16)  # paid for by the next
    caught = []

    def read():
        try:
            reader.read(1 << 16)
        except LineLost as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    reader.close()
    thread.join(40)  # at its rate it would wait for a minute
    assert not thread.is_alive() and caught


def test_an_unlimited_network_holds_nobody_up():
    pace = Networks(settings(wan="unlimited")).pace("a")
    begun = time.monotonic()
    for _ in range(100):
        pace(100 * MB, lambda: None)
    assert time.monotonic() - begun < 60  # and not for ever


def test_who_had_a_turn_gets_the_next_one_behind_those_who_wait():
    """By a mere lock the one that is awake takes it again and again, and another dump of the line stands still."""
    now, order = [0.0], []
    asleep, go, waits = threading.Event(), threading.Event(), threading.Event()

    def sleep(seconds):
        now[0] += max(seconds, 1e-6)
        asleep.set()
        assert go.wait(30)

    limiter = Limiter(parse_rates("8 Mbit/s"), monotonic=lambda: now[0], sleep=sleep)
    limiter.take(MB)  # the next one waits

    def first():
        for _ in range(50):
            limiter.take(1000)
            order.append("first")

    def second():
        limiter.take(1000, waits.set)
        order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert asleep.wait(30)
    threads[1].start()
    assert waits.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert order.index("second") <= 2  # of two that are through at once either may say so first


def test_who_is_cut_while_it_waits_for_its_turn_leaves_the_turn_to_others():
    limiter = Limiter(parse_rates("8 bit/s"))
    limiter.take(3600)
    held, cut, done = threading.Event(), threading.Event(), []

    def stand():
        held.set()
        if cut.is_set():
            raise LineLost("first")

    def lose():
        raise LineLost("second")

    def take(check):
        try:
            limiter.take(1, check)
        except LineLost as error:
            done.append(error.message)

    first, second = (threading.Thread(target=take, args=(check,)) for check in (stand, lose))
    first.start()
    assert held.wait(30)
    second.start()
    second.join(30)
    assert done == ["second"]
    cut.set()
    first.join(30)
    assert done == ["second", "first"] and not limiter._turns


def test_what_a_dump_sends_is_held_to_the_rate_in_its_own_direction():
    """The state of its base: on a slow line it would take all of it."""
    paces = Networks(settings(wan="32 Mbit/s"))
    assert paces.sending("free") is None
    inner, outer = os.pipe()
    os.set_blocking(outer, False)
    writer = Writer(os.fdopen(outer, "wb", 0), "web1", 30.0)
    writer.pace = paces.sending("a")
    got = []

    def take():
        while data := os.read(inner, 1 << 20):
            got.append(len(data))

    thread = threading.Thread(target=take)
    thread.start()
    paces.pace("a")(100 * MB, lambda: None)  # what comes takes nothing of it
    begun = time.monotonic()
    writer.write(bytes(2 * MB))
    seconds = time.monotonic() - begun
    writer.close()
    thread.join(30)
    os.close(inner)
    assert sum(got) == 2 * MB and seconds >= (2 * MB - 2 * (1 << 16)) / (4 * MB) * 0.8
