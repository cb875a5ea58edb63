"""`stowage key` as it is typed: passphrases only by terminal, file or standard input; the kit's own commands."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from passphrases import PASSPHRASE
from sealed_dump import copy_by_hand, sealed_dump
from stage_world import World

from backupcore import cli
from backupcore.app.config import load  # noqa: F401  the engine must import before generate() is replaced
from backupcore.cli import _main
from backupcore.image import recipients
from backupcore.keys import kit, store

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets:
  nas: {{type: directory, path: {base}/nas}}
  cloud: {{type: s3, bucket: acme-backup, prefix: prod, region: eu-west-1, endpoint: "https://s3.acme.example",
          profile: hidden-profile}}
"""


@pytest.fixture(scope="module")
def pairs():
    return [recipients.generate(bits=3072) for _ in range(3)]


@pytest.fixture
def base(tmp_path, monkeypatch, pairs):
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    left = list(pairs)
    monkeypatch.setattr(
        recipients, "generate", lambda name="", bits=4096: recipients.PrivateKey(left.pop(0)._key, name)
    )
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "passphrase").chmod(0o600)
    return tmp_path


@pytest.fixture
def key(base, capsys, monkeypatch):
    """Runs `stowage key …` in this process; (standard output, standard error)."""

    def run(*words, status=0, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        found = cli.main(["--config", str(base / "stowage.yml"), "key", *map(str, words)])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err and "this is a bug" not in said.err, said.err
        assert PASSPHRASE.decode() not in said.out + said.err
        assert found == status, (found, said)
        return said.out, said.err

    return run


def test_generate_list_and_again(key, base):
    out, _err = key("generate", "--passphrase-file", base / "passphrase")
    assert "signing key" in out and out.count("was made and proven") == 2 and "stowage key kit" in out
    out, _err = key("list")
    assert re.search(r"operations +rsa +[0-9a-f]{16} +active +\d{4}-\d\d-\d\d +here, with passphrase", out)
    plain = json.loads(key("generate", "--json", "--passphrase-file", base / "passphrase")[0])
    assert (plain["made"], plain["kept"], plain["changed"]) == ([], ["operations", "escrow"], False)


def test_the_list_gives_public_keys_to_programs_and_no_private_ones(key, base, pairs):
    key("generate", "--only", "words", "--type", "passphrase", "--passphrase-file", "-", stdin=PASSPHRASE + b"\nmore")
    out, _err = key("list", "--json")
    (one,) = json.loads(out)["keys"]
    assert one["public"].encode() == pairs[0].recipient.public and one["private"] == "passphrase" and one["active"]
    assert "PRIVATE" not in out and len(out) < 2500
    assert json.loads(out)["signing"]["public"].startswith("-----BEGIN PUBLIC KEY-----")


def test_a_key_from_elsewhere_is_added_proven_and_revoked(key, base, pairs):
    (base / "auditor.pub").write_bytes(pairs[2].recipient.public)
    (base / "auditor.pem").write_bytes(pairs[2].protect_pem(PASSPHRASE))
    out, _err = key("add", "auditor", base / "auditor.pub")
    assert "-> stowage key prove auditor --key FILE" in out
    assert "unproven" in key("list")[0]
    _out, err = key("prove", "auditor", status=2)
    assert "is not on this server -> stowage key prove auditor --key FILE" in err
    key("prove", "auditor", "--key", base / "auditor.pem", "--passphrase-file", base / "passphrase")
    assert [one.name for one in store.active(base / "keys")] == ["auditor"]
    out, _err = key("prove", "auditor", "--key", "-", "--json", stdin=pairs[2].to_pem())
    assert json.loads(out)["changed"] is False
    both = PASSPHRASE + b"\n" + pairs[2].protect_pem(PASSPHRASE)
    key("prove", "auditor", "--key", "-", "--passphrase-file", "-", stdin=both)
    out, _err = key("revoke", "auditor")
    assert "no new dump" in out and store.active(base / "keys") == []
    assert json.loads(key("revoke", "auditor", "--json")[0])["changed"] is False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate",), "this is no terminal -> --passphrase-file FILE, or --no-passphrase"),
        (("generate", "--no-passphrase", "--type", "passphrase"), "contradicts"),
        (("generate", "--no-passphrase", "--only", "../x"), "cannot name a key"),
        (("generate", "--key", "x"), "key generate takes no --key"),
        (("list", "--target", "nas"), "key list takes no --target"),
        (("add", "auditor"), "the command is: stowage key add NAME FILE"),
        (("prove",), "the command is: stowage key prove NAME"),
        (("revoke", "nobody"), "there is no key 'nobody' -> stowage key generate"),
        (("rewrap",), "no active key"),
        (("rewrap", "--client", "web1"), 'unknown client "web1"'),
        (("rewrap", "--target", "nsa"), 'unknown target "nsa", did you mean "nas"?'),
        (("kit",), "there is no signing key"),
        (("generate", "--passphrase-file", "/nowhere/file"), "/nowhere/file: No such file"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(key, words, told):
    out, err = key(*words, status=2)
    assert told in err and err.count("\n") == 1 and not out


def test_a_passphrase_file_that_others_can_read_or_is_empty_is_refused(key, base):
    (base / "passphrase").chmod(0o644)
    assert "others can read" in key("generate", "--passphrase-file", base / "passphrase", status=2)[1]
    assert "empty" in key("generate", "--passphrase-file", "-", status=2, stdin=b"\n")[1]


def test_a_lost_private_signing_key_is_not_replaced_in_silence(key, base):
    key("generate", "--no-passphrase")
    (base / "keys" / "signing.pem").unlink()
    _out, err = key("generate", "--no-passphrase", status=2)
    assert "signing.pub is there, but not its private half" in err


def test_rewrap_from_the_command_line(key, base, pairs):
    key("generate", "--no-passphrase", "--only", "operations")
    world = SealedWorld(base)
    dump = sealed_dump(world, [pairs[0].recipient])
    copy_by_hand(world, dump, "nas")
    world.catalog.close()
    key("generate", "--only", "second", "--passphrase-file", base / "passphrase")
    plain = json.loads(key("rewrap", "--json")[0])
    assert {(one["place"], one["file"]) for one in plain["added"]} == {("holding", "keys-2.tsv"), ("nas", "keys-2.tsv")}
    store.private_file(base / "keys", "operations").rename(base / "away.pem")
    key("generate", "--only", "third", "--no-passphrase")
    assert "key-locked" in key("rewrap", "--json", status=1)[0]  # the second is here, and nobody can be asked
    both = PASSPHRASE + b"\n" + pairs[0].protect_pem(PASSPHRASE)
    plain = json.loads(key("rewrap", "--json", "--key", "-", "--passphrase-file", "-", stdin=both)[0])
    assert [one["file"] for one in plain["added"]] == ["keys-3.tsv", "keys-3.tsv"]
    out, err = key("rewrap")
    assert "OK   keys of 0 dumps" in out and "1 dumps needed nothing" in out and "1 of 1 dumps" in err
    shutil.rmtree(base / "nas")
    out, _err = key("rewrap", status=1)
    assert f"FAIL {dump.id} at nas:" in out


class SealedWorld(World):
    """stage_world's server with the key folder and signing key that are there."""

    def __init__(self, base):
        from backupcore.image.manifest import Signer

        shutil.move(base / "keys", base / "kept")
        super().__init__(base)
        shutil.rmtree(base / "keys")
        shutil.move(base / "kept", base / "keys")
        self.signer = Signer.load(base / "keys")


# -- the kit


def test_the_kit_is_a_page_that_says_all_and_gives_nothing_away(key, base):
    key("generate", "--passphrase-file", base / "passphrase")
    out, _err = key("kit", "--out", base / "kit.txt")
    assert stat.S_IMODE((base / "kit.txt").stat().st_mode) == 0o600
    assert "there already" in key("kit", "--out", base / "kit.txt", status=2)[1]
    text = (base / "kit.txt").read_text("ascii")
    sheets = text.split("\f")
    assert len(sheets) == 3 and not [line for line in text.replace("\f", "\n").split("\n") if len(line) > 80]
    assert all(len(sheet.split("\n")) <= 88 for sheet in sheets)  # A4 at eight lines an inch
    signing = json.loads(key("list", "--json")[0])["signing"]
    assert signing["fingerprint"] in text and signing["public"] in text
    assert (base / "state" / "server-id").read_text().strip() in text
    for word in ("acme-backup", "prod", "https://s3.acme.example", f"{base}/nas", "s3://acme-backup/prod"):
        assert word in "".join(text.split())  # a long path is wrapped
    assert "hidden-profile" not in text and "BEGIN PRIVATE KEY" not in text
    for name, sheet in zip(("escrow", "operations"), sheets[1:]):
        pem = sheet[sheet.index("-----BEGIN ENCRYPTED") :]
        assert pem == store.read_private(base / "keys", name).decode()
        told = re.search(r"^    ([0-9a-f]{64})$", sheet, re.MULTILINE).group(1)
        assert told == subprocess.run(["sha256sum"], input=pem.encode(), capture_output=True).stdout.decode()[:64]


def test_the_kit_refuses_a_key_without_passphrase_unless_it_is_wanted(key, base):
    key("generate", "--no-passphrase", "--only", "operations")
    _out, err = key("kit", status=2)
    assert "key operations has no passphrase" in err and "--unprotected" in err
    out, _err = key("kit", "--unprotected")
    assert "BEGIN PRIVATE KEY" in out and "IT HAS NO PASSPHRASE" in out
    store.private_file(base / "keys", "operations").unlink()
    out, _err = key("kit")
    assert "operations: its private key is not in this kit" in out and "PRIVATE KEY--" not in out
    assert "not on this server" in key("kit", "--only", "operations", status=2)[1]


def checks_of(kit):
    """The commands of section 2, as they are printed."""
    section = kit[kit.index("2. IS A DUMP WHOLE") : kit.index("Then read whose dump")]
    return "\n".join(line[4:] for line in section.split("\n") if line.startswith("    "))


def run_checks(kit, folder):
    """Runs the kit's commands verbatim in a dump's folder with nothing but what they name; each one's success."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "openssl", "sed", "sha256sum"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name))
    pem = re.search(r"-----BEGIN PUBLIC KEY-----\n.*?\n-----END PUBLIC KEY-----\n", kit, re.DOTALL).group(0)
    (folder.parent / "signing.pub").write_text(pem)
    script = checks_of(kit)
    starts = ("openssl ", "for f in", "sha256sum -c")
    commands, found = [], []
    for line in script.split("\n"):
        if line.startswith(starts):
            commands.append("")
        commands[-1] += line + "\n"
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(["sh", "-c", command], cwd=folder, env={"PATH": str(tools)}, capture_output=True)
        found.append(done.returncode == 0)
    return found


def test_the_three_commands_of_the_kit_find_every_change(key, base, pairs):
    key("generate", "--passphrase-file", base / "passphrase")
    world = SealedWorld(base)
    dump = Path(sealed_dump(world, [pairs[0].recipient]).holding)
    other = Path(sealed_dump(world, [pairs[0].recipient], "web2").holding)
    world.catalog.close()
    text, _err = key("kit")
    assert run_checks(text, dump) == [True, True, True]
    good = {path.name: path.read_bytes() for path in dump.iterdir()}

    def with_change(name, data):
        (dump / name).write_bytes(data)
        try:
            return run_checks(text, dump)
        finally:
            (dump / name).write_bytes(good[name])

    flipped = {name: bytes([data[0] ^ 1]) + data[1:] for name, data in good.items()}
    assert with_change("manifest.json", good["manifest.json"].replace(b'"level": 0', b'"level": 1'))[0] is False
    assert with_change("manifest.sig", flipped["manifest.sig"])[0] is False
    assert with_change("RESTORE.txt", b"rm -rf /\n" + good["RESTORE.txt"]) == [True, False, True]
    assert with_change("SHA256SUMS", b"")[1] is False
    assert with_change("SHA256SUMS", (other / "SHA256SUMS").read_bytes())[1] is False
    for name in good:
        if name.endswith(".enc"):
            assert with_change(name, flipped[name]) == [True, True, False]
            assert with_change(name, good[name][:-1]) == [True, True, False]
    # who forges a manifest with a second digest further in is found by the signature, and sed takes the first level
    forged = good["manifest.json"].replace(b'"versions": {}', b'"versions": {\n  "sums_sha256": "00"\n }')
    assert forged != good["manifest.json"] and with_change("manifest.json", forged) == [False, True, True]


# -- what a person types, and what others can see


def typed(base, words, answers):
    """Runs the command on a terminal of its own; answers: what is typed at each question. (status, screen, seen)."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "backupcore", "--config", str(base / "stowage.yml"), *words],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, close_fds=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    screen, left, until, seen = b"", list(answers), time.monotonic() + 60, ""
    try:
        while time.monotonic() < until:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    data = os.read(master, 4096)
                except OSError:
                    break
                if not data:
                    break
                screen += data
            if left and screen.rstrip(b" ").endswith(b":") and not select.select([master], [], [], 0.3)[0]:
                seen += (
                    Path(f"/proc/{process.pid}/cmdline").read_text() + Path(f"/proc/{process.pid}/limits").read_text()
                )
                os.write(master, left.pop(0) + b"\n")
                screen += b"\n"
    finally:
        if process.poll() is None and time.monotonic() >= until:
            os.kill(process.pid, signal.SIGKILL)
        status = process.wait()
        os.close(master)
    return status, screen.decode(), seen


def test_a_passphrase_is_typed_twice_unseen(base):
    words = ["key", "generate", "--only", "operations"]
    status, screen, _seen = typed(base, words, [PASSPHRASE, b"another one here", PASSPHRASE])
    assert status == 0, screen
    assert "new passphrase for key operations:" in screen and "wrong, again:" in screen
    assert "made and proven" in screen and PASSPHRASE.decode() not in screen
    status, screen, seen = typed(base, ["key", "prove", "operations"], [b"wrong wrong wrong", PASSPHRASE])
    assert status == 0 and "is active" in screen, screen
    assert re.search(r"Max core file size +0 +0 ", seen) and PASSPHRASE.decode() not in seen
    status, screen, _seen = typed(base, ["key", "prove", "operations"], [b"wrong"] * 3)
    assert status == 1 and "does not open with this passphrase" in screen


def test_nothing_secret_is_left_on_the_disk_or_in_the_process_table(key, base):
    key("generate", "--passphrase-file", "-", stdin=PASSPHRASE)
    (base / "passphrase").unlink()
    for path in base.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert PASSPHRASE not in data
            assert b"BEGIN PRIVATE KEY" not in data or path.name == "signing.pem", path


def test_the_commands_of_the_kit_that_begin_with_stowage_can_be_typed(key, base):
    key("generate", "--passphrase-file", base / "passphrase")
    text, _err = key("kit")
    found = re.findall(r"^  (stowage (?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert [command.split()[1] for command in found] == ["restore", "rebuild"]
    for command in found:
        _main.parser().parse_args(shlex.split(command.replace("\\\n", ""))[1:])


def test_the_page_for_bad_nights_shows_the_kit_s_commands_as_they_are():
    page = (Path(__file__).resolve().parents[4] / "docs" / "restore.md").read_text("utf-8")
    shown = re.sub(r"^    [$>] ", "", page, flags=re.MULTILINE)
    for command in (*kit.CHECKS, kit.WHOSE):
        assert command in shown


def test_where_clients_seal_the_next_step_is_the_playbook(key, base):
    with (base / "stowage.yml").open("a") as stream:
        stream.write("policies: {standard: {encrypt: client}}\n")
    assert "WARN no key is active, and policy standard seals" in key("list")[0]
    assert "stowage.backup.site" in key("generate", "--no-passphrase", "--only", "operations")[0]
    out, _err = key("revoke", "operations")
    assert "stowage.backup.site" in out and "the next run will refuse it" in out
    assert "stowage.backup.site" not in key("revoke", "operations")[0]
