"""Networks, spindles and second tries in the configuration: what is read, and what is refused with its place."""

from __future__ import annotations

import pytest

from backupcore import hours
from backupcore.app import config, drivers, plan_room
from backupcore.errors import ConfigError

GOOD = """\
holding: [{path: /srv/holding, use: 1 GiB}]
networks:
  wan: 20 Mbit/s
  branch: {"mon-fri 07:00-19:00": 2 Mbit/s, else: 50 Mbit/s}
  radio: {rate: 1 Mbit/s, dumps: 1}
  lan: {dumps: 8}
retry: {time: 2 h, roaming: 0}
dumps_at_once: 6
clients:
  web1:
    network: wan
    dumps_at_once: 3
    sources:
      db: {path: /srv/db, spindle: sda}
      log: {path: /srv/log, spindle: sda}
      etc: /etc
  web2: {sources: {etc: /etc}}
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "stowage.yml").write_text(text)
        return config.load(tmp_path / "stowage.yml", drivers.load()).settings

    return read


def test_networks_spindles_and_retry_are_read(read):
    found = read(GOOD)
    assert found.networks["wan"].rate == hours.parse_rates("20 Mbit/s") and found.networks["wan"].dumps is None
    assert len(found.networks["branch"].rate.rules) == 1 and found.networks["branch"].rate.rest == 50e6 / 8
    assert (found.networks["radio"].rate.rest, found.networks["radio"].dumps) == (1e6 / 8, 1)
    assert (found.networks["lan"].rate, found.networks["lan"].dumps) == (None, 8)
    assert (found.retry.time, found.retry.roaming) == (7200, 0)
    web1, web2 = found.clients["web1"], found.clients["web2"]
    assert (web1.network, web1.dumps_at_once, web2.network, web2.dumps_at_once) == ("wan", 3, "", 2)
    assert [source.spindle for source in web1.sources.values()] == ["sda", "sda", ""]
    usual = read(GOOD.partition("networks")[0]).retry
    assert (usual.time, usual.roaming) == (1800, 3600)


@pytest.mark.parametrize("before, after, told", [
    ("network: wan", "network: van", 'yml:11: clients.web1.network: there is no network "van", did you mean "wan"?'),
    ("wan: 20 Mbit/s", "wan: 20", "stowage.yml:3: networks.wan.rate: 20 is no rate"),
    ("dumps: 1}", "dumps: 0}", "networks.radio.dumps"),
    ("rate: 1 Mbit/s, dumps", "rat: 1 Mbit/s, dumps", 'unknown key "rat"'),
    ("spindle: sda}\n      log", "spindle: a/b}\n      log", "is no name"),
    ("time: 2 h", "time: -1", "retry.time"),
    ("dumps_at_once: 3", "dumps_at_once: 0", "clients.web1.dumps_at_once"),
])  # fmt: skip
def test_what_is_wrong_is_named(read, before, after, told):
    assert GOOD.count(before) == 1
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(before, after))
    assert told in caught.value.message, caught.value.message


def test_a_window_knows_how_many_dumps_can_be_side_by_side(read):
    found = read(GOOD)
    everything = [(source.client, source.name) for source in found.sources()]
    assert plan_room.side_by_side(found, everything) == 3  # two spindles of web1, and web2
    assert plan_room.side_by_side(found, [("web1", "db"), ("web1", "log")]) == 1
