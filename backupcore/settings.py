"""What the administrator wants, as plain frozen records handed down to every room.

Here live the records; reading and checking YAML lives in ``backupcore.app.config``. Sizes are bytes,
durations seconds. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, FrozenSet, Mapping, Optional, Tuple

from .hours import Rates, Windows

# At once on one client: the second dump walks while the first waits for its line; more only fight for its disks.
DUMPS_PER_CLIENT = 2


@dataclass(frozen=True)
class HoldingDisk:
    """A fast local folder where dumps land; use: bytes it may take, negative: bytes to leave free."""

    path: Path
    use: int


@dataclass(frozen=True)
class CopyRule:
    """One copy a policy asks for. dumps: all, full or incremental. keep is read by retention. windows: when it may be
    made, None: always; rate: how fast, over all copies of this rule."""

    target: str
    dumps: str = "all"
    every: Optional[str] = None
    windows: Optional[Windows] = None
    rate: Optional[Rates] = None
    keep: Mapping[str, Any] = field(default_factory=dict)
    self_contained: bool = False  # what it keeps is kept with its whole chain there


@dataclass(frozen=True)
class Policy:
    """What a source wants. compress: none, gzip, zstd, zstd:LEVEL, gzip:LEVEL; rpo in seconds.

    gzip_fallback: a client without zstd may send gzip (reported). encrypt: none, or who seals, client or server.
    """

    name: str
    compress: str = "zstd"
    gzip_fallback: bool = True
    encrypt: str = "none"
    copies: Tuple[CopyRule, ...] = ()
    rpo: float = 26 * 3600.0
    keep_on_holding: int = 1
    part_size: int = 4 * 1024**3


@dataclass(frozen=True)
class Timing:
    """When a source is dumped and at which levels, all said: of the configuration, its policy, its client and itself.

    cycle: nights from one full to the next at most. grace: nights a full may be late once its client is back.
    priority: 0 low, 1 normal, 2 high, or any other. strategy: standard, full, incremental or skip. days: weekdays, 0 is
    Monday. earliest: minutes after midnight. max_chain: dumps a restore may need (None: any number). full,
    incremental: a schedule of its own, as written. split: auto, never, or not said: whether a big tree is cut into
    segments. interim: while it waits for its first full, files changed within so many days are dumped; 0: nothing is.
    """

    cycle: int = 7
    grace: int = 3
    priority: int = 1
    strategy: str = "standard"
    days: FrozenSet[int] = frozenset(range(7))
    earliest: Optional[int] = None
    max_chain: Optional[int] = None
    full: Optional[str] = None
    incremental: Optional[str] = None
    split: str = ""
    interim: float = 7.0

    @property
    def own(self) -> bool:
        """Whether it has a schedule of its own for all of its dumps."""
        return self.full is not None


@dataclass(frozen=True)
class Source:
    """One thing on a client that is dumped; options are those its source driver declares (path, exclude, …)."""

    client: str
    name: str
    type: str
    policy: Policy
    options: Mapping[str, Any]
    timing: Timing = Timing()


@dataclass(frozen=True)
class Client:
    """A machine. transport: ssh or local. presence: always or roaming.

    agent_*: where the role put things on the client; the defaults are the contract.
    """

    name: str
    sources: Mapping[str, Source]
    transport: str = "ssh"
    address: str = ""
    port: int = 22
    user: str = "stowage"
    presence: str = "always"
    agent_python: str = "/usr/bin/python3"
    agent: str = "/usr/local/lib/stowage/agent.pyz"
    agent_config: str = "/etc/stowage/agent.json"
    state: str = "present"  # retired: its images stay, nothing is dumped
    ignore: Mapping[str, str] = field(default_factory=dict)  # path no source covers: reason


@dataclass(frozen=True)
class Price:
    """What reading from a target costs, in currency: a GB (10^9 bytes), 1,000 requests."""

    read_gb: float
    request_1000: float
    currency: str


@dataclass(frozen=True)
class TargetSettings:
    """A place that keeps images; options are those its target driver declares. price: None when nobody said it.
    remote: its driver says that it outlives this machine. rate: how fast, over all uploads to it."""

    name: str
    type: str
    options: Mapping[str, Any]
    price: Optional[Price] = None
    remote: bool = False
    rate: Optional[Rates] = None


@dataclass(frozen=True)
class EventSettings:
    """Who is told what happened; options are those its event driver declares."""

    name: str
    type: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class DrillSettings:
    """The small drill of a night: whether, of how many files, of at most so many bytes, for at most so many seconds."""

    nightly: bool = True
    files: int = 5
    size: int = 256 * 1024**2
    time: float = 600.0


@dataclass(frozen=True)
class VerifySettings:
    """The small verify of a night: in how many days all is to be read, for how many seconds a night (0: none), and how
    many bytes of each target that charges for reading (0: none)."""

    sample_days: float = 30.0
    night: float = 600.0
    metered: int = 1024**3


@dataclass(frozen=True)
class PruneSettings:
    """What is past its keep: so many seconds from its mark to its removal; whether the nightly run prunes."""

    grace: float = 3 * 86400.0
    nightly: bool = True


@dataclass(frozen=True)
class NightLimit:
    """How much a night may take of something: bytes, or seconds of dumps. hard: never more; else only in need."""

    amount: float
    hard: bool = True


@dataclass(frozen=True)
class PlanningSettings:
    """What a night is planned by. estimate: auto, walk or history; estimate_time: seconds for a client's walk.

    first_nights: over how many nights first fulls spread (None: the planner says). server_grace: nights a full may be
    late after an outage of this server (None: the cycle but one). limits: of a night, by resource: bytes, seconds,
    holding, target:NAME.
    """

    estimate: str = "auto"
    estimate_time: float = 600.0
    first_nights: Optional[int] = None
    server_grace: Optional[int] = None
    limits: Mapping[str, NightLimit] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The whole configuration, checked. file: the stowage.yml it came from."""

    file: Path
    state: Path
    keys: Path
    holding: Tuple[HoldingDisk, ...]
    cycle_days: float
    targets: Mapping[str, TargetSettings]
    policies: Mapping[str, Policy]
    clients: Mapping[str, Client]
    events: Mapping[str, EventSettings] = field(default_factory=dict)
    dumps_at_once: int = 4
    copies_at_once: int = 4
    connect_timeout: float = 30.0
    silence_timeout: float = 300.0
    known_hosts: Path = Path("/etc/stowage/known_hosts.d")  # one file a client
    ssh_key: Path = Path("/etc/stowage/ssh/id_ed25519")
    ssh_program: str = "ssh"
    verify: VerifySettings = VerifySettings()
    drill: DrillSettings = DrillSettings()
    prune: PruneSettings = PruneSettings()
    planning: PlanningSettings = PlanningSettings()
