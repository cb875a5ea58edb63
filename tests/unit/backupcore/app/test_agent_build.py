"""agent.pyz: the same bytes from the same sources, Python 3.8, standard library only."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from backupcore.app.agent_build import BYTECODE, HALVES, OPTIONAL, START, build_agent, closure, main

ROOT = Path(__file__).resolve().parents[4]
STDLIB_3_8 = frozenset((
    "__future__", "array", "ast", "base64", "binascii", "bisect", "collections", "contextlib", "ctypes", "dataclasses",
    "datetime", "errno", "fcntl", "functools", "gc", "grp", "hashlib", "heapq", "hmac", "importlib", "io", "itertools",
    "json", "math", "mmap", "operator", "os", "pathlib", "pwd", "queue", "re", "resource", "secrets", "select",
    "shutil", "signal", "socket", "stat", "string", "struct", "subprocess", "sys", "tempfile", "threading", "time",
    "traceback", "typing", "types", "warnings", "weakref", "zlib", "zipfile", "marshal", "multiprocessing", "zipimport",
    "_frozen_importlib_external",
))  # fmt: skip


def test_two_builds_are_equal_wherever_they_are_made(tmp_path):
    first = build_agent(str(tmp_path / "one.pyz"))
    (tmp_path / "deep").mkdir()
    argv = [sys.executable, "-B", "-m", "backupcore.app.agent_build", str(tmp_path / "deep" / "two.pyz")]
    subprocess.run(argv, cwd=ROOT, env={"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}, check=True)
    assert (tmp_path / "deep" / "two.pyz").read_bytes() == first == (tmp_path / "one.pyz").read_bytes()


def test_the_closure_is_python_3_8_and_the_standard_library(tmp_path):
    modules, foreign = closure([START, BYTECODE, *HALVES.values()], str(ROOT))
    assert {"backupcore.agent.extract", "backupcore.agent.dump", "backupcore.agent.tree"} <= set(modules)
    assert not {name for name in modules if name.split(".")[1:2] in (["app"], ["cli"], ["dump"], ["sources"])}
    assert {name.split(".")[0] for name in foreign} <= STDLIB_3_8 | OPTIONAL
    for path in modules.values():
        tree = ast.parse(Path(path).read_text("utf-8"), path, feature_version=(3, 8))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module.split(".")[0] for node in top if isinstance(node, ast.ImportFrom) and not node.level}
        assert not names & OPTIONAL, "%s imports at its top what a client may lack" % path


def test_the_zip_has_no_times_and_is_sorted(tmp_path):
    build_agent(str(tmp_path / "a.pyz"))
    with zipfile.ZipFile(tmp_path / "a.pyz") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist()) and "__main__.py" in archive.namelist()
        assert {(one.date_time, one.compress_type, one.create_system) for one in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 3)
        }  # fmt: skip


def test_a_third_partys_half_is_built_in_and_must_be_standard_library(tmp_path, monkeypatch):
    package = tmp_path / "acme_backup"
    package.mkdir()
    (package / "__init__.py").write_text('"""A."""\n')
    (package / "mail_half.py").write_text('"""B."""\nimport json\nfrom . import words\n')
    (package / "words.py").write_text('"""C."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    build_agent(str(tmp_path / "a.pyz"), {"mail": "acme_backup.mail_half"})
    with zipfile.ZipFile(tmp_path / "a.pyz") as archive:
        wanted = {"acme_backup/__init__.py", "acme_backup/mail_half.py", "acme_backup/words.py"}
        assert wanted <= set(archive.namelist())
        assert b"'mail': 'acme_backup.mail_half'" in archive.read("__main__.py")
    (package / "words.py").write_text('"""C."""\nimport pydantic\n')
    with pytest.raises(ValueError, match="standard library only, not pydantic"):
        build_agent(str(tmp_path / "b.pyz"), {"mail": "acme_backup.mail_half"})
    with pytest.raises(ValueError, match="needs acme_backup.nothing"):
        build_agent(str(tmp_path / "b.pyz"), {"mail": "acme_backup.nothing"})
    assert not (tmp_path / "b.pyz").exists()


def test_the_command_line(tmp_path, capsys):
    assert main([str(tmp_path / "a.pyz")]) == 0 and main([]) == 2
    assert main([str(tmp_path / "no" / "folder" / "a.pyz")]) == 1
    assert "was not built" in capsys.readouterr().err
