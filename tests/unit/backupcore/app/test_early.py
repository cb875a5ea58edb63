"""What is begun early is what the checked configuration asks for; whatever is odd begins nothing and raises nothing."""

from __future__ import annotations

import pytest

from backupcore.app import config, config_files, drivers, early
from backupcore.dump import warm

PLAIN = """
holding: [{path: /srv/holding, use: 1 GiB}]
clients:
  web1: {sources: {etc: /etc}}
  gone: {state: retired, sources: {etc: /etc}}
  none: {sources: {}}
  db1: {address: 10.0.0.7, port: 2222, user: root, agent: /opt/agent.pyz, presence: roaming,
        sources: {etc: /etc, srv: {path: /srv, policy: standard}}}
"""
MORE = """
timeouts: {connect: 5 s, silence: 2 min}
ssh: {key: /srv/key, known_hosts: /srv/known, program: /usr/local/bin/ssh}
dumps_at_once: 1
"""


class Pool:
    def __init__(self):
        self.settings, self.clients = None, []

    def begin(self, settings, clients):
        self.settings, self.clients = settings, list(clients)


def begin(tmp_path, text, *words):
    file = tmp_path / "stowage.yml"
    file.write_text(text)
    pool = Pool()
    early.begin(pool, config_files.read(file), *words)
    return pool, file


@pytest.mark.parametrize("more", ["", MORE])
def test_what_is_begun_is_what_the_configuration_asks_for(tmp_path, more):
    pool, file = begin(tmp_path, PLAIN + more)
    settings = config.load(file, drivers.load()).settings
    assert [client.name for client in pool.clients] == ["web1", "db1"]
    for client in pool.clients:
        assert warm._way(pool.settings, client) == warm._way(settings, settings.clients[client.name])
    assert pool.settings.dumps_at_once == settings.dumps_at_once


def test_only_what_was_asked_for_is_begun(tmp_path):
    for clients, sources, begun in (
        (["db1"], [], ["db1"]), ([], ["srv"], ["db1"]), ([], ["web1:etc"], ["web1"]), (["web1"], ["srv"], []),
        (["db0"], [], []), (["gone"], [], []),
    ):  # fmt: skip
        pool, _file = begin(tmp_path, PLAIN, clients, sources)
        assert [client.name for client in pool.clients] == begun


@pytest.mark.parametrize(
    "text",
    [
        "", "clients: 7", "clients: [a]", "clients: {web1: 7}", "clients: {web1: {sources: {a: /a}}}\ntimeouts: {x: y}",
        "clients: {web1: {port: '22', sources: {a: /a}}}", "clients: {web1: {address: [x], sources: {a: /a}}}",
        "clients: {../x: {sources: {a: /a}}}", "clients: {web1: {sources: 7}}", "ssh: 7", "dumps_at_once: many",
    ],
)  # fmt: skip
def test_what_is_odd_begins_nothing(tmp_path, text):
    pool, _file = begin(tmp_path, text)
    assert pool.clients == []
