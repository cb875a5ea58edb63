"""The source `tree`: a folder with all below it. Here live its options; the walk is the agent's."""

from __future__ import annotations

from typing import Annotated, List, Optional, Union

from pydantic import AfterValidator, BaseModel, ConfigDict

from ..hookspecs import SourceDriver


def _path(value: str) -> str:
    if not value.startswith("/") or "\0" in value or "\n" in value:
        raise ValueError("is no absolute path")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("must not hold '..'")
    return "/" + "/".join(parts)


def _patterns(value: List[str]) -> List[str]:
    for pattern in value:
        if not pattern or "\0" in pattern or "\n" in pattern:
            raise ValueError("holds an empty or broken pattern")
    return value


def _script(value: Union[None, str, List[List[str]]]) -> Union[None, str, List[List[str]]]:
    if isinstance(value, list) and not all(command and command[0] for command in value):
        raise ValueError("holds an empty command")
    return value


Script = Annotated[Optional[Union[str, List[List[str]]]], AfterValidator(_script)]


class TreeOptions(BaseModel):
    """path: the folder. include: only these paths below it. exclude: patterns as in .gitignore.

    one_file_system: stay on the file system of path. before, after: a line for /bin/sh, or a list of argument
    lists, run on the client around the walk; a failing before fails the dump, after always runs.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    path: Annotated[str, AfterValidator(_path)]
    include: Annotated[List[str], AfterValidator(_patterns)] = []
    exclude: Annotated[List[str], AfterValidator(_patterns)] = []
    one_file_system: bool = True
    before: Script = None
    after: Script = None


DRIVER = SourceDriver("tree", "a folder with all below it", TreeOptions, "backupcore.agent.tree")
