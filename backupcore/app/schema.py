"""The shape of stowage.yml: one model per section, unknown keys forbidden, values parsed to bytes and seconds.

Here live the models and nothing else; reading files, references between sections and messages live in
config.py. Every key stands in docs/operator.md (tests/unit/test_docs.py compares them).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Dict, List, Literal, Optional, Tuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..text import parse_duration, parse_size


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("is no absolute path")
    return path


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds


def _size(value: Any) -> int:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ValueError("is no size: write 500 GiB or 200 MB")
    return parse_size(value)


def _use(value: Any) -> int:
    size = _size(value)
    if not size:
        raise ValueError("must not be 0: write what may be used, or a negative size to leave free")
    return size


def _part_size(value: Any) -> int:
    size = _size(value)
    if size < 16 << 20:
        raise ValueError("must be at least 16 MiB")
    return size


def _drill_size(value: Any) -> int:
    size = _size(value)
    if size < 1 << 20:
        raise ValueError("must be at least 1 MiB")
    return size


def _compress(value: str) -> str:
    match = re.match(r"(none|gzip|zstd)(?::(\d{1,2}))?\Z", value)
    highest = {"gzip": 9, "zstd": 19}
    if not match or match.group(2) and not 1 <= int(match.group(2)) <= highest.get(match.group(1), 0):
        raise ValueError("is no compression: write none, gzip, gzip:1-9, zstd or zstd:1-19")
    return value


def _host(value: str) -> str:
    if not re.match(r"[A-Za-z0-9\[:_][A-Za-z0-9._:%\[\]-]*\Z", value):
        raise ValueError("is no host name or address")
    return value


def _user(value: str) -> str:
    if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", value):
        raise ValueError("is no user name")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Duration = Annotated[float, BeforeValidator(_positive_duration)]
Count = Annotated[int, Field(ge=1, le=1000)]


class Section(BaseModel):
    """What every section has in common. later: keys of the design that this version does not carry out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    later: ClassVar[Tuple[str, ...]] = ()


class Holding(Section):
    path: AbsolutePath
    use: Annotated[int, BeforeValidator(_use)]


class Cycle(Section):
    days: Annotated[float, Field(gt=0, le=3650)] = 7


class Keys(Section):
    folder: AbsolutePath


class Keep(Section):
    last: Optional[Count] = None
    daily: Optional[Count] = None
    weekly: Optional[Count] = None
    monthly: Optional[Count] = None
    yearly: Optional[Count] = None


class Copy(Section):
    later: ClassVar[Tuple[str, ...]] = ("every", "days", "window", "rate", "lock", "encrypt")
    target: str
    dumps: Literal["all", "full", "incremental"] = "all"
    keep: Keep = Keep()


class Policy(Section):
    later: ClassVar[Tuple[str, ...]] = ("recipients", "verify", "drill", "priority")
    compress: Annotated[str, AfterValidator(_compress)] = "zstd"
    gzip_fallback: bool = True
    encrypt: Literal["none", "client", "server"] = "none"
    copies: Optional[List[Copy]] = None
    rpo: Duration = 26 * 3600.0
    keep_on_holding: Annotated[int, Field(ge=0, le=1000)] = 1
    part_size: Annotated[int, BeforeValidator(_part_size)] = 4 * 1024**3


class Driven(BaseModel):
    """A section whose other keys are options of the driver its type names."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str


class Price(Section):
    read_gb: Annotated[float, Field(ge=0)] = 0.0
    request_1000: Annotated[float, Field(ge=0)] = 0.0
    currency: Annotated[str, Field(min_length=1, max_length=8)]


class Target(Driven):
    price: Optional[Price] = None


class Source(Driven):
    type: str = "tree"
    policy: str = "standard"


class Client(Section):
    later: ClassVar[Tuple[str, ...]] = ("window", "rate", "snapshot")
    transport: Literal["ssh", "local"] = "ssh"
    address: Annotated[str, AfterValidator(_host)] = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: Annotated[str, AfterValidator(_user)] = "stowage"
    presence: Literal["always", "roaming"] = "always"
    agent_python: AbsolutePath = "/usr/bin/python3"
    agent: AbsolutePath = "/usr/local/lib/stowage/agent.pyz"
    agent_config: AbsolutePath = "/etc/stowage/agent.json"
    state: Literal["present", "retired"] = "present"
    ignore: Dict[str, str] = {}
    sources: Dict[str, Source] = {}


class Drill(Section):
    nightly: bool = True
    files: Count = 5
    size: Annotated[int, BeforeValidator(_drill_size)] = 256 * 1024**2
    time: Duration = 600.0


def _duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds < 0:
        raise ValueError("must not be negative")
    return seconds


class Verify(Section):
    sample_days: Annotated[float, Field(ge=1, le=3650)] = 30.0
    night: Annotated[float, BeforeValidator(_duration)] = 600.0
    metered: Annotated[int, BeforeValidator(_size), Field(ge=0)] = 1024**3


class Timeouts(Section):
    connect: Duration = 30.0
    silence: Duration = 300.0


class Ssh(Section):
    key: Optional[AbsolutePath] = None
    known_hosts: Optional[AbsolutePath] = None
    program: str = "ssh"


class Root(Section):
    later: ClassVar[Tuple[str, ...]] = ("catalog", "start", "recipients", "escrow")
    state: AbsolutePath = "/var/lib/stowage"
    holding: Annotated[List[Holding], Field(min_length=1)]
    cycle: Cycle = Cycle()
    keys: Optional[Keys] = None
    targets: Dict[str, Target] = {}
    policies: Dict[str, Policy] = {}
    clients: Dict[str, Client] = {}
    events: Dict[str, Driven] = {}
    dumps_at_once: Count = 4
    copies_at_once: Count = 4
    drill: Drill = Drill()
    verify: Verify = Verify()
    timeouts: Timeouts = Timeouts()
    ssh: Ssh = Ssh()
