"""The contracts: what a third party imports is all there, needs nothing of the engine, and the examples are true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pluggy
import pytest
from pydantic import BaseModel

from backupcore import hookspecs

ROOT = Path(__file__).resolve().parents[3]
HOOKS = sorted(name for name in vars(hookspecs.StowageSpec) if name.startswith("stowage_"))


def test_what_the_contract_names_is_there():
    assert [name for name in hookspecs.__all__ if not hasattr(hookspecs, name)] == []


def test_a_third_party_needs_nothing_of_the_engine():
    code = "import sys, backupcore.hookspecs; print(*sorted(n for n in sys.modules if n.startswith('backupcore')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    outside = [name for name in out.split() if name != "backupcore" and not name.startswith("backupcore.hookspecs")]
    assert outside == []


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_a_hook_works_as_it_stands(hook):
    text = getattr(hookspecs.StowageSpec, hook).__doc__
    example = textwrap.dedent(text.split("Example::", 1)[1])
    names = {"hookimpl": hookspecs.hookimpl, **{name: getattr(hookspecs, name) for name in hookspecs.__all__}}
    for word in re.findall(r"\b[A-Z][A-Za-z]+(?:Options|Target)\b|\bsend_to_chat\b", example):
        names.setdefault(word, type(word, (BaseModel,), {}))
    exec(compile(ast.parse(example), hook, "exec"), names)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs.StowageSpec)
    manager.register(type("Package", (), {hook: staticmethod(names[hook])})())
    manager.check_pending()
    ((driver,),) = getattr(manager.hook, hook)()
    assert driver.type
    assert driver.summary


def test_errors_of_drivers_carry_a_next_step():
    for error in (hookspecs.SourceError, hookspecs.TargetError, hookspecs.EventError):
        made = error("it is so", "do this")
        assert (made.message, made.hint, str(made)) == ("it is so", "do this", "it is so")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\0b"])
def test_no_target_is_asked_for_a_name_that_leaves_its_root(name):
    with pytest.raises(hookspecs.TargetError):
        hookspecs.safe_name(name)
