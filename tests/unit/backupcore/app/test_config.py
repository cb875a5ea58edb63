"""The configuration: what is read, and that every mistake names file, line and word."""

from __future__ import annotations

import pytest

from backupcore.app import config, drivers
from backupcore.errors import ConfigError

DRIVERS = drivers.load()
GOOD = """\
state: /var/lib/stowage
holding:
  - {path: /srv/holding, use: 500 GiB}
targets:
  nas: {type: directory, path: /mnt/nas/stowage}
policies:
  standard:
    compress: zstd:3
    rpo: 26 h
  fast:
    compress: none
    copies: []
clients:
  web1:
    transport: ssh
    address: web1.example.org
    sources:
      etc: {type: tree, path: /etc, policy: standard, exclude: ["*.tmp"]}
      home: /home
"""


@pytest.fixture
def read(tmp_path):
    def read(text=GOOD, **clients):
        (tmp_path / "stowage.yml").write_text(text)
        (tmp_path / "clients.d").mkdir(exist_ok=True)
        for name, content in clients.items():
            (tmp_path / "clients.d" / f"{name}.yml").write_text(content)
        return config.load(tmp_path / "stowage.yml", DRIVERS)

    return read


@pytest.fixture
def wrong(read, tmp_path):
    """The messages of a wrong configuration, without the folder."""

    def wrong(text=GOOD, **clients):
        with pytest.raises(ConfigError) as caught:
            read(text, **clients)
        assert caught.value.exit_status == 2
        messages = [caught.value.message, *getattr(caught.value, "others", [])]
        return [message.replace(f"{tmp_path}/", "") for message in messages]

    return wrong


def test_reads_all_that_the_contract_shows(read):
    made = read().settings
    assert str(made.state) == "/var/lib/stowage"
    assert str(made.keys) == "/var/lib/stowage/keys"
    assert made.holding[0].use == 500 * 1024**3
    web1 = made.clients["web1"]
    assert (web1.address, web1.transport, web1.presence) == ("web1.example.org", "ssh", "always")
    etc = web1.sources["etc"]
    assert (etc.options["path"], etc.options["exclude"]) == ("/etc", ["*.tmp"])
    assert etc.policy.rpo == 26 * 3600
    assert web1.sources["home"].options["path"] == "/home"
    assert web1.sources["home"].policy.name == "standard"


def test_the_policy_standard_is_there_and_copies_everything_to_every_target(read):
    made = read("holding: [{path: /h, use: 1 GB}]\ntargets:\n  a: {type: directory, path: /a}\n"
                "  b: {type: directory, path: /b}\n").settings  # fmt: skip
    standard = made.policies["standard"]
    assert [rule.target for rule in standard.copies] == ["a", "b"]
    assert {rule.dumps for rule in standard.copies} == {"all"}
    assert standard.compress == "zstd"
    assert standard.keep_on_holding == 1
    assert standard.resume == "night"
    assert read(GOOD.replace("compress: none", "resume: next")).settings.policies["fast"].resume == "next"


def test_a_policy_without_copies_is_only_what_was_written(read):
    assert read().settings.policies["fast"].copies == ()


def test_known_hosts_and_key_lie_beside_the_configuration(read, tmp_path):
    made = read().settings
    assert made.known_hosts == tmp_path / "known_hosts.d"
    assert made.ssh_key == tmp_path / "ssh/id_ed25519"


def test_clients_come_from_their_own_files(read, tmp_path):
    loaded = read(db1="clients:\n  db1:\n    sources: {dumps: /var/backups}\n")
    assert set(loaded.settings.clients) == {"web1", "db1"}
    assert loaded.place("clients", "db1") == f"{tmp_path}/clients.d/db1.yml:2"
    assert loaded.settings.clients["db1"].address == "db1"


def test_unknown_key_names_file_line_word_and_the_nearest_right_one(wrong):
    assert wrong(GOOD.replace("policy: standard", "polcy: standard")) == [
        'stowage.yml:18: unknown key "polcy", did you mean "policy"?'
    ]


def test_unknown_key_of_a_driver_knows_the_drivers_keys(wrong):
    told = 'stowage.yml:18: unknown key "exlude", did you mean "exclude"?'
    assert wrong(GOOD.replace("exclude:", "exlude:")) == [told]


def test_unknown_key_in_a_clients_file(wrong):
    assert wrong(db1="clients:\n  db1:\n    sources: {}\n    adress: x\n") == [
        'clients.d/db1.yml:4: unknown key "adress", did you mean "address"?'
    ]


def test_unknown_key_at_the_top(wrong):
    assert wrong("stat: /x\n" + GOOD)[0] == 'stowage.yml:1: unknown key "stat", did you mean "state"?'


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("use: 500 GiB", "use: lots", "stowage.yml:3: holding[0].use: 'lots' is no size: write 500 GiB or 200 MB"),
        ("use: 500 GiB", "use: yes", "stowage.yml:3: holding[0].use: true is no size: write 500 GiB or 200 MB"),
        ("use: 500 GiB", "use: 0", "stowage.yml:3: holding[0].use: 0 must not be 0: write what may be used, "
                                   "or a negative size to leave free"),
        ("rpo: 26 h", "rpo: soon", "stowage.yml:9: policies.standard.rpo: 'soon' is no duration: "
                                   "write 26 h, 90 min or 2 days"),
        ("rpo: 26 h", "rpo: 0", "stowage.yml:9: policies.standard.rpo: 0 must be longer than nothing"),
        ("compress: zstd:3", "compress: lzma", 'stowage.yml:8: policies.standard.compress: "lzma" is no compression: '
                                               "write none, gzip, gzip:1-9, zstd or zstd:1-19"),
        ("compress: none", "compress: none:3", 'stowage.yml:11: policies.fast.compress: "none:3" is no compression: '
                                               "write none, gzip, gzip:1-9, zstd or zstd:1-19"),
        ("compress: none", "compress: 3", "stowage.yml:11: policies.fast.compress: 3 is no text: write it in quotes"),
        ("compress: none", "resume: nxt", 'stowage.yml:11: policies.fast.resume: "nxt" is none of night, next, never, '
                                          'did you mean "next"?'),
        ("copies: []", "copies: nas", 'stowage.yml:12: policies.fast.copies: "nas" is no list'),
        ("copies: []", "copies: [{target: nass}]", "stowage.yml:12: policies.fast.copies[0].target: there is no target "
                                                   '"nass", did you mean "nas"?'),
        ("copies: []", "copies: [{target: nas, window: 1}]",
         "stowage.yml:12: policies.fast.copies[0].window: 1 is no window: write '22:00-06:00', in quotes, or any"),
        ("copies: []", "copies: [{target: nas, window: {mon-fri: none}}]",
         'stowage.yml:12: policies.fast.copies[0].window: {"mon-fri": "none"} names no day on which it is open'),
        ("copies: []", "copies: [{target: nas, window: {sat: any}, days: mon-fri}]",
         "stowage.yml:12: policies.fast.copies[0].days: on none of these days a window begins"),
        ("copies: []", "copies: [{target: nas, days: never}]",
         "stowage.yml:12: policies.fast.copies[0].days: 'never' names no weekdays: write mon-fri, or sat,sun, "
         "or daily"),
        ("copies: []", "copies: [{target: nas, rate: 20 Mbit}]",
         "stowage.yml:12: policies.fast.copies[0].rate: '20 Mbit' is no rate: write 20 Mbit/s, 2 MB/s or unlimited"),
        ("nas: {type: directory,", "nas: {rate: {sunny: 2 MB/s}, type: directory,",
         "stowage.yml:5: targets.nas.rate: 'sunny' names no weekdays: write mon-fri, or sat,sun, or daily"),
        ("copies: []", "copies: [{dumps: full}]", "stowage.yml:12: policies.fast.copies[0].target is missing"),
        ("copies: []", "copies: [{target: nas}, {target: nas}]",
         'stowage.yml:12: policies.fast: target "nas" stands twice'),
        ("policy: standard", "policy: standrad", "stowage.yml:18: clients.web1.sources.etc.policy: there is no policy "
                                                 '"standrad", did you mean "standard"?'),
        ("type: tree", "type: treee", "stowage.yml:18: clients.web1.sources.etc.type: there is no source type "
                                      '"treee", did you mean "tree"?'),
        ("type: directory", "type: s4", 'stowage.yml:5: targets.nas.type: there is no target type "s4"'),
        ("path: /mnt/nas/stowage", "where: x", "stowage.yml:5: targets.nas.path is missing"),
        ("transport: ssh", "transport: shh", 'stowage.yml:15: clients.web1.transport: "shh" is none of ssh, local, '
                                             'did you mean "ssh"?'),
        ("path: /etc", "path: etc", 'stowage.yml:18: clients.web1.sources.etc.path: "etc" is no absolute path'),
        ("path: /etc", "path: /etc/../x", 'stowage.yml:18: clients.web1.sources.etc.path: "/etc/../x" '
                                          "must not hold '..'"),
        ('["*.tmp"]', '["!x"]', "stowage.yml:18: clients.web1.sources.etc.exclude: '!x': '!' is not supported; "
                                "write \\! for a name that begins with it"),
        ("web1:", "web 1:", 'stowage.yml:14: "web 1" cannot name a client'),
        ("etc:", "../etc:", 'stowage.yml:18: "../etc" cannot name a source'),
        ("address: web1.example.org", "address: -oProxyCommand=x",
         'stowage.yml:16: clients.web1.address: "-oProxyCommand=x" is no host name or address'),
        ("address: web1.example.org", "port: 70000", "stowage.yml:16: clients.web1.port: 70000 must be at most 65535"),
        ("address: web1.example.org", "port: ten", 'stowage.yml:16: clients.web1.port: "ten" is no whole number'),
        ("address: web1.example.org", "user: -x", 'stowage.yml:16: clients.web1.user: "-x" is no user name'),
        ("address: web1.example.org", "ignore: {srv: cache}",
         'stowage.yml:16: clients.web1.ignore: "srv" is no absolute path'),
        ("state: /var/lib/stowage", "state: here", 'stowage.yml:1: state: "here" is no absolute path'),
        ("state: /var/lib/stowage", "cycle: {days: 0}", "stowage.yml:1: cycle.days: 0 must be more than 0"),
        ("state: /var/lib/stowage", "dumps_at_once: many", 'stowage.yml:1: dumps_at_once: "many" is no whole number'),
        ("state: /var/lib/stowage", "dumps_at_once: 2.5", "stowage.yml:1: dumps_at_once: 2.5 is no whole number"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_file_line_and_word(wrong, before, after, told):
    text = GOOD.replace(before, after)
    assert text != GOOD
    assert told in wrong(text)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("copies: []", "copies: [{target: nas, encrypt: client}]",
         'stowage.yml:12: "encrypt" is not available in this version'),
        ("copies: []", "recipients: [x]", 'stowage.yml:12: "recipients" is not available in this version'),
    ],
)  # fmt: skip
def test_what_this_version_does_not_carry_out_is_refused_not_ignored(wrong, before, after, told):
    assert wrong(GOOD.replace(before, after)) == [told]


def test_keep_is_read_per_copy(read):
    copies = "copies: [{target: nas, keep: {last: 4, weekly: 8, days: 30}, self_contained: true}]"
    loaded = read(GOOD.replace("copies: []", copies))
    (rule,) = loaded.settings.policies["fast"].copies
    assert rule.keep == {"last": 4, "weekly": 8, "days": 30} and rule.self_contained
    assert loaded.warnings == ()
    assert loaded.settings.prune.grace == 3 * 86400 and loaded.settings.prune.nightly


def test_a_keep_of_nothing_is_refused(wrong):
    assert wrong(GOOD.replace("copies: []", "copies: [{target: nas, keep: {last: 0}}]"))
    assert wrong(GOOD.replace("copies: []", "copies: [{target: nas, keep: {days: 0}}]"))
    assert wrong(GOOD.replace("copies: []", "copies: [{target: nas, keep: {hourly: 3}}]"))


def test_the_grace_of_a_prune(read):
    loaded = read(GOOD + "prune: {grace: 10 days, nightly: false}\n")
    assert (loaded.settings.prune.grace, loaded.settings.prune.nightly) == (864000.0, False)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(wrong):
    text = GOOD.replace("rpo: 26 h", "rpo: soon").replace("transport: ssh", "transprt: ssh").replace("500 GiB", "x")
    assert [message.split(":")[1] for message in wrong(text)] == ["3", "9", "15"]


def test_a_client_in_two_files_names_both(wrong):
    one = "clients:\n  web1:\n    sources: {}\n"
    assert wrong(web1=one) == ['clients.d/web1.yml:2: client "web1" stands twice, first in stowage.yml:14']


def test_a_key_written_twice_names_both_lines(wrong):
    assert wrong(GOOD + "state: /else\n") == ['stowage.yml:20: key "state" stands twice, first in line 1']


def test_broken_yaml_names_the_line(wrong):
    (message,) = wrong(GOOD.replace("targets:", "targets: ]"))
    assert message.startswith("stowage.yml:4: ")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[1, 2]\n", "just words\n", "- a\n"])
def test_a_file_that_is_no_mapping_is_refused(wrong, text):
    assert wrong(text) == ["stowage.yml:1: is no mapping of keys to values"]


def test_an_empty_file_lacks_a_holding_disk(wrong):
    assert wrong("") == ["stowage.yml:1: holding is missing"]


def test_bytes_that_are_no_text_are_refused(wrong, tmp_path, read):
    read()
    (tmp_path / "stowage.yml").write_bytes(b"state: \xff\xfe\n")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        config.load(tmp_path / "stowage.yml", DRIVERS)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.yml", DRIVERS)
    assert caught.value.message == f"{tmp_path}/none.yml: no such file"
    assert "--config" in caught.value.hint


def test_a_file_with_another_ending_is_not_ignored_silently(wrong, read, tmp_path):
    read()
    (tmp_path / "clients.d" / "db1.yaml").write_text("clients: {}\n")
    with pytest.raises(ConfigError, match="only names that end in .yml are read"):
        config.load(tmp_path / "stowage.yml", DRIVERS)


def test_a_clients_file_holds_nothing_but_clients(wrong):
    assert wrong(x="state: /x\n") == ['clients.d/x.yml:1: unknown key "state"']


def test_names_are_taken_as_written_not_as_yaml_reads_them(read):
    loaded = read(x="clients:\n  10:\n    sources: {on: /etc}\n")
    assert loaded.settings.clients["10"].sources["on"].options["path"] == "/etc"


def test_an_alias_that_contains_itself_is_refused(wrong):
    assert "contains itself" in wrong("holding: &a [*a]\n")[0]


def test_a_secret_is_never_shown(tmp_path):
    from backupcore.hookspecs import TargetDriver
    from pydantic import BaseModel, ConfigDict

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        token: str

    driver = TargetDriver("vault", "a test", Options, lambda *_: None, secrets=("token",))
    found = drivers.Drivers((*DRIVERS.loaded, drivers.Loaded("target", driver, "test 1")))
    targets = "targets: {v: {type: vault, token: 12345}}\n"
    (tmp_path / "stowage.yml").write_text("holding: [{path: /h, use: 1 GB}]\n" + targets)
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "stowage.yml", found)
    assert "targets.v.token" in caught.value.message
    assert "12345" not in caught.value.message


def test_of_a_section_that_is_wrong_as_a_whole_nothing_is_shown(tmp_path):
    target = '{type: command, put: [curl, -u, "ops:pass-word", "{name}"], get: [x], list: [x], delete: [x, "{name}"]}'
    (tmp_path / "stowage.yml").write_text("holding: [{path: /h, use: 1 GB}]\ntargets: {own: %s}\n" % target)
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "stowage.yml", DRIVERS)
    assert caught.value.message == f"{tmp_path}/stowage.yml:2: targets.own: get: {{name}} is missing in its arguments"


def test_what_is_far_away_is_what_a_driver_says_whatever_its_name_is(tmp_path):
    from backupcore.hookspecs import TargetDriver
    from pydantic import BaseModel

    from backupcore.app import drill_choice

    class Options(BaseModel):
        pass

    own = [TargetDriver(name, "a test", Options, lambda *_: None, remote=far)
           for name, far in (("tape", False), ("sftp", True))]  # fmt: skip
    found = drivers.Drivers((*DRIVERS.loaded, *(drivers.Loaded("target", one, "test 1") for one in own)))
    targets = "{a: {type: tape}, b: {type: directory, path: /b}, c: {type: sftp}, d: {type: s3, bucket: ddd}}"
    (tmp_path / "stowage.yml").write_text("holding: [{path: /h, use: 1 GB}]\ntargets: " + targets)
    settings = config.load(tmp_path / "stowage.yml", found).settings
    assert {name for name, one in settings.targets.items() if one.remote} == {"c", "d"}
    assert drill_choice.far_first(settings) == ["c", "d", "a", "b", "holding"]
