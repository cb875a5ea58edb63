"""The shape of stowage.yml: one model per section, unknown keys forbidden, values parsed to bytes and seconds.

Here live the models and nothing else; reading files, references between sections and messages live in
config.py. Every key stands in docs/operator.md (tests/unit/test_docs.py compares them).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Callable, ClassVar, Dict, List, Literal, Optional, Tuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .. import hours
from ..ids import is_name
from ..schedule import nights
from ..settings import DUMPS_PER_CLIENT, RetrySettings
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


def _percent(value: Any) -> float:
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            value = float(value.strip()[:-1])
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 100:
        raise ValueError("is no share: write 90 % or another between 1 and 100")
    return value / 100


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


def _or_none(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


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
    warn: Annotated[float, BeforeValidator(_percent)] = 0.9


def _cycle(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"days"}:
        value = value["days"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 3650:
        raise ValueError("is no cycle: write a number of days")
    return float(value)


def _first_nights(value: Any) -> Any:
    if value == "all":
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 3650:
        raise ValueError("is no number of nights: write 4, or all for one night")
    return value


def _priority(value: Any) -> Any:
    named = {"low": 0, "normal": 1, "high": 2}
    if isinstance(value, str) and value in named:
        return named[value]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
        raise ValueError("is no priority: write low, normal, high or a whole number up to 100 (low is 0, high is 2)")
    return value


def _weekdays(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = ",".join(value)
    return nights.parse_days(value)


def _time_of_day(value: Any) -> int:
    # YAML reads 22:00 without quotes as the number 22 * 60, which is what is meant; 22 alone is not
    if isinstance(value, int) and not isinstance(value, bool) and 60 <= value < 24 * 60:
        return value
    return nights.parse_time(value)


def _times(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no schedule: write 'sun 20:00', 'mon-sat 21:00' or hourly, in quotes")
    nights.parse_times(value)
    return value


def _interim(value: Any) -> float:
    if value is False or isinstance(value, str) and value.strip().lower() == "off":  # YAML's own off is False
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 3650:
        raise ValueError("must be a number of days up to 3650, or off")
    return float(value)


Nights = Annotated[int, Field(ge=0, le=3650)]


class Cycle(Section):
    days: Annotated[float, Field(gt=0, le=3650)] = 7
    first_nights: Annotated[Optional[int], BeforeValidator(_first_nights)] = None
    first_night: Optional[Literal["all"]] = None
    grace: Nights = 3
    server_grace: Optional[Nights] = None
    interim: Annotated[float, BeforeValidator(_interim)] = 7.0


class Schedule(Section):
    full: Annotated[Optional[str], BeforeValidator(_times)] = None
    incremental: Annotated[Optional[str], BeforeValidator(_times)] = None


class Timing(BaseModel):
    """What a policy, a client or a source may say of its nights; None: nothing said here."""

    cycle: Annotated[Optional[float], BeforeValidator(_cycle)] = None
    grace: Optional[Nights] = None
    priority: Annotated[Optional[int], BeforeValidator(_priority)] = None
    strategy: Optional[Literal["standard", "full", "incremental", "skip"]] = None
    days: Annotated[Optional[Any], BeforeValidator(_weekdays)] = None
    earliest: Annotated[Optional[int], BeforeValidator(_time_of_day)] = None
    max_chain: Annotated[Optional[int], Field(ge=1, le=100)] = None
    schedule: Optional[Schedule] = None
    split: Optional[Literal["auto", "never"]] = None
    interim: Annotated[Optional[float], BeforeValidator(_interim)] = None


def _soft(value: Any) -> Tuple[Any, bool]:
    """The amount of a limit without its last word, and whether the limit is hard."""
    match = re.match(r"(.*\S)\s+(hard|soft)\Z", value) if isinstance(value, str) else None
    return (match.group(1), match.group(2) == "hard") if match else (value, True)


def _limit_size(value: Any) -> Tuple[float, bool]:
    amount, hard = _soft(value)
    size = _size(amount)
    if size <= 0:
        raise ValueError("must be more than nothing: leave it out for no limit")
    return float(size), hard


def _limit_time(value: Any) -> Tuple[float, bool]:
    amount, hard = _soft(value)
    return _positive_duration(amount), hard


_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?i?)(bit|B)/s\s*[x*]\s*(\S.*)\Z")


def _limit_target(value: Any) -> Tuple[float, bool]:
    amount, hard = _soft(value)
    match = _RATE.match(amount) if isinstance(amount, str) else None
    if match is None:
        return _limit_size(value)
    number, prefix, unit, span = match.groups()
    rate = float(number) * parse_size("1 " + prefix + "B") / (8 if unit == "bit" else 1)
    if rate <= 0:
        raise ValueError("must be more than nothing: leave it out for no limit")
    return rate * _positive_duration(span), hard


class Limits(Section):
    bytes: Annotated[Optional[Any], BeforeValidator(_limit_size)] = None
    window: Annotated[Optional[Any], BeforeValidator(_limit_time)] = None
    holding: Annotated[Optional[Any], BeforeValidator(_limit_size)] = None
    targets: Dict[str, Annotated[Any, BeforeValidator(_limit_target)]] = {}


class Planning(Section):
    estimate: Literal["auto", "walk", "history"] = "auto"
    estimate_time: Duration = 600.0


class Keys(Section):
    folder: AbsolutePath


class Keep(Section):
    last: Optional[Count] = None
    days: Annotated[Optional[int], Field(ge=1, le=36500)] = None
    daily: Optional[Count] = None
    weekly: Optional[Count] = None
    monthly: Optional[Count] = None
    yearly: Optional[Count] = None


def _dumps(value: Any) -> str:
    word = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not re.match(r"(all|full|incremental|none|\d)\Z", word):
        raise ValueError("is none of all, full, incremental, none or a level, 0 to 9")
    return word


class Copy(Section):
    """One entry of a list of copies; what it does not say, the layer above says. A key with null takes it back."""

    later: ClassVar[Tuple[str, ...]] = ("encrypt",)
    target: str
    dumps: Annotated[str, BeforeValidator(_dumps)] = "all"
    every: Optional[Literal["day", "week", "month"]] = None
    made_on: Annotated[Optional[Any], BeforeValidator(_or_none(_weekdays))] = None
    days: Annotated[Optional[Any], BeforeValidator(_or_none(_weekdays))] = None
    window: Annotated[Optional[Any], BeforeValidator(_or_none(hours.parse_windows))] = None
    rate: Annotated[Optional[Any], BeforeValidator(_or_none(hours.parse_rates))] = None
    after: Optional[str] = None
    keep: Optional[Keep] = None
    self_contained: bool = False
    priority: Annotated[int, BeforeValidator(_priority)] = 1
    lock: Annotated[Optional[float], BeforeValidator(_or_none(_positive_duration))] = None
    min_copies: Optional[Count] = None


class Copies(BaseModel):
    """What a policy, a client or a source may say of its copies; None: nothing said here."""

    copies: Optional[List[Copy]] = None
    holding: Optional[Literal["auto", "never", "required"]] = None
    min_copies: Optional[Count] = None


class Policy(Copies, Timing, Section):
    later: ClassVar[Tuple[str, ...]] = ("recipients", "verify", "drill")
    compress: Annotated[str, AfterValidator(_compress)] = "zstd"
    gzip_fallback: bool = True
    encrypt: Literal["none", "client", "server"] = "none"
    rpo: Duration = 26 * 3600.0
    keep_on_holding: Annotated[int, Field(ge=0, le=1000)] = 1
    part_size: Annotated[int, BeforeValidator(_part_size)] = 4 * 1024**3
    resume: Literal["night", "next", "never"] = "night"


class Driven(BaseModel):
    """A section whose other keys are options of the driver its type names."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str


class Event(Driven):
    events: Optional[Annotated[List[str], Field(min_length=1)]] = None


Money = Annotated[Optional[float], Field(ge=0, le=1e9, allow_inf_nan=False)]


class Price(Section):
    currency: Annotated[Optional[str], Field(min_length=1, max_length=8)] = None
    storage_gb: Money = None
    write_1000: Money = None
    request_1000: Money = None
    read_gb: Money = None
    woken_gb: Money = None
    least_days: Annotated[Optional[float], Field(ge=0, le=3650)] = None
    least_size: Annotated[Optional[int], BeforeValidator(_size), Field(ge=0, le=1 << 20)] = None


class Target(Driven):
    price: Optional[Any] = None  # the name of one of prices, or a Price: config_prices.py
    rate: Annotated[Optional[Any], BeforeValidator(hours.parse_rates)] = None


def _spindle(value: str) -> str:
    if not is_name(value):
        raise ValueError("is no name: letters, digits, '.', '_' and '-' make one")
    return value


class Source(Copies, Timing, Driven):
    type: str = "tree"
    policy: str = "standard"
    spindle: Annotated[Optional[str], AfterValidator(_or_none(_spindle))] = None


class Client(Copies, Timing, Section):
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
    network: Optional[str] = None
    dumps_at_once: Count = DUMPS_PER_CLIENT
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


class Prune(Section):
    grace: Annotated[float, BeforeValidator(_duration)] = 3 * 86400.0
    nightly: bool = True
    history: Annotated[float, BeforeValidator(_duration), Field(ge=35 * 86400)] = 400 * 86400.0


class Timeouts(Section):
    connect: Duration = 30.0
    silence: Duration = 300.0
    dump: Duration = 3 * 86400.0


class Retry(Section):
    time: Annotated[float, BeforeValidator(_duration)] = RetrySettings.time
    roaming: Annotated[float, BeforeValidator(_duration)] = RetrySettings.roaming


class Network(Section):
    rate: Annotated[Optional[Any], BeforeValidator(_or_none(hours.parse_rates))] = None
    dumps: Optional[Count] = None


def _network(value: Any) -> Any:
    """A network is mostly nothing but its rate."""
    return value if isinstance(value, dict) and {"rate", "dumps"} & set(value) else {"rate": value}


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
    prices: Dict[str, Price] = {}
    copies: Optional[List[Copy]] = None
    policies: Dict[str, Policy] = {}
    clients: Dict[str, Client] = {}
    events: Dict[str, Event] = {}
    dumps_at_once: Count = 4
    copies_at_once: Count = 4
    drill: Drill = Drill()
    verify: Verify = Verify()
    prune: Prune = Prune()
    limits: Limits = Limits()
    planning: Planning = Planning()
    networks: Dict[str, Annotated[Network, BeforeValidator(_network)]] = {}
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()
    ssh: Ssh = Ssh()
