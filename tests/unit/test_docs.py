"""The documentation against the program: every command, option, key and hook is in it, and nothing else is."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from backupcore.hookspecs import StowageSpec

from backupcore.app import drivers, schema
from backupcore.cli import _main
from backupcore.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = (ROOT / "docs" / "operator.md").read_text("utf-8")
FOR_OPERATORS = [ROOT / "docs" / name for name in ("operator.md", "restore.md")]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# Commands that the design names and that this version does not have: no page may promise them.
LATER = ()
GLOBAL = {"--config", "--json", "--strict", "--help"}


def sections(text, mark):
    """heading -> text below it, for headings of exactly that mark."""
    parts = re.split(rf"^{mark} (.+)$", text, flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2])
    return {head.strip(): re.split(r"^#{1,3} ", body, flags=re.MULTILINE)[0] for head, body in pairs}


THIRD = sections(OPERATOR, "###")
COMMANDS = {head.split()[1]: body for head, body in THIRD.items() if head.startswith("stowage ")}


def verbs():
    (commands,) = (action for action in _main.parser()._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def options(parser):
    found = {string for action in parser._actions for string in action.option_strings if string.startswith("--")}
    return found - GLOBAL


def test_every_command_is_documented_and_no_other():
    assert set(COMMANDS) == set(verbs()) == set(_main.VERBS)


@pytest.mark.parametrize("verb", sorted(_main.VERBS))
def test_every_option_of_a_command_is_documented_and_no_other(verb):
    told = set(re.findall(r"^- (.*?):", COMMANDS[verb], flags=re.MULTILINE))
    told = {word for line in told for word in re.findall(r"`(--[a-z-]+)", line)}
    assert told == options(verbs()[verb])


def test_global_options_are_documented():
    body = sections(OPERATOR, "##")["Commands"]
    for option in GLOBAL | {"--version"}:
        assert f"`{option}" in body


def keys_of(model):
    return {field.alias or name for name, field in model.model_fields.items()}


def models():
    """section of the configuration reference -> its model."""
    found = {
        "Top level": schema.Root, "holding": schema.Holding, "cycle": schema.Cycle, "keys": schema.Keys,
        "targets": schema.Target, "targets, price": schema.Price, "drill": schema.Drill,
        "policies": schema.Policy, "limits": schema.Limits, "planning": schema.Planning,
        "policies, schedule": schema.Schedule, "policies, copies": schema.Copy,
        "policies, copies, keep": schema.Keep, "clients": schema.Client, "clients, sources": schema.Source,
        "events": schema.Event, "prune": schema.Prune,
        "verify": schema.Verify, "timeouts": schema.Timeouts, "ssh": schema.Ssh,
        "networks": schema.Network, "retry": schema.Retry,
    }  # fmt: skip
    heads = {"source": "clients, sources", "target": "targets", "event": "events"}
    for one in drivers.load().loaded:
        if one.origin == "built in":
            found[f"{heads[one.kind]}, type {one.driver.type}"] = one.driver.options
    return found


def test_every_section_of_the_configuration_is_documented():
    assert set(models()) == {head for head in THIRD if not head.startswith("stowage ")}


@pytest.mark.parametrize("section", sorted(models()))
def test_every_key_of_the_configuration_is_documented_and_no_other(section):
    told = re.findall(r"^\| `([a-z0-9_]+)` \|", THIRD[section], flags=re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == keys_of(models()[section])


def test_every_hook_is_documented():
    for name in vars(StowageSpec):
        if name.startswith("stowage_"):
            assert f"`{name}`" in OPERATOR


def test_every_exit_status_is_documented():
    body = sections(OPERATOR, "##")["Exit status"]
    assert re.findall(r"^\| ([0-9, ]+) \|", body, flags=re.MULTILINE) == ["0", "1", "2", "130, 143, 141"]


def commands_shown(text):
    """The `stowage …` lines of code blocks, without what stands for something else."""
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
            continue
        if not (inside or line.startswith("    ")):
            continue
        command = re.sub(r"^\s*(\$ |# )?(sudo )?", "", line)
        if re.match(r"stowage [a-z-]", command) and not re.search(r"\.\.\.|…|[|\[]", command):
            yield re.sub(r"\s+#.*", "", command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_can_be_typed(page):
    wrong = []
    for command in commands_shown(page.read_text("utf-8")):
        words = shlex.split(command.split(" > ")[0])[1:]
        try:
            _main.parser().parse_args(words)
        except RequestError as error:
            wrong.append(f"{command}: {error.message}")
    assert not wrong


@pytest.mark.parametrize("page", FOR_OPERATORS, ids=lambda page: page.name)
def test_no_page_for_operators_promises_a_command_of_later(page):
    text = page.read_text("utf-8")
    assert not [word for word in LATER if re.search(rf"stowage {word}\b", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert page.name == "README.md" or not missing  # the README is the lead's; its pages come last
