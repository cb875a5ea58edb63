"""What the administrator wants, as plain frozen records handed down to every room.

Here live the records; reading and checking YAML lives in ``backupcore.app.config``. Sizes are bytes,
durations seconds. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, FrozenSet, Iterator, Mapping, Optional, Tuple

from .hours import Rates, Windows

# At once on one client: the second dump walks while the first waits for its line; more only fight for its disks.
DUMPS_PER_CLIENT = 2


@dataclass(frozen=True)
class HoldingDisk:
    """A fast local folder where dumps land; use: bytes it may take, negative: bytes to leave free. warn: when so much
    of it is full, a share, somebody is told."""

    path: Path
    use: int
    warn: float = 0.9


@dataclass(frozen=True)
class CopyRule:
    """One copy that is asked for of a source's dumps, all layers of the configuration in it.

    dumps: all, full, incremental or a level as a digit. every: the first good one of each day, week or month, "": each.
    made_on: only those of these nights (weekdays, 0 is Monday), None: of all. windows: when it may be made, None:
    always. rate: how fast, over all copies of this rule. after: the target on which its copy is verified first, "":
    none. keep is read by retention. self_contained: what it keeps is kept with its whole chain there. priority: order
    of staging, 0 low, 1 normal, 2 high, or any other. lock: seconds from a dump's begin on, 0: none.
    """

    target: str
    dumps: str = "all"
    every: str = ""
    made_on: Optional[FrozenSet[int]] = None
    windows: Optional[Windows] = None
    rate: Optional[Rates] = None
    after: str = ""
    keep: Mapping[str, Any] = field(default_factory=dict)
    self_contained: bool = False
    priority: int = 1
    lock: float = 0.0

    def takes(self, level: int) -> bool:
        """Whether `dumps` names this level; an interim dump goes where changes go, level 1."""
        return self.dumps in ("all", str(level), "incremental" if level else "full")


@dataclass(frozen=True)
class Policy:
    """What a source wants. compress: none, gzip, zstd, zstd:LEVEL, gzip:LEVEL; rpo in seconds.

    gzip_fallback: a client without zstd may send gzip (reported). encrypt: none, or who seals, client or server.
    copies, holding, min_copies: for sources that say nothing themselves, see Source. resume: whether a dump whose line
    was cut goes on with what came: night (within the run), next (in the next night, too), never.
    """

    name: str
    compress: str = "zstd"
    gzip_fallback: bool = True
    encrypt: str = "none"
    copies: Tuple[CopyRule, ...] = ()
    rpo: float = 26 * 3600.0
    keep_on_holding: int = 1
    part_size: int = 4 * 1024**3
    holding: str = "auto"
    min_copies: Optional[int] = None
    resume: str = "night"


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
    """One thing on a client that is dumped; options are those its source driver declares (path, exclude, …).

    copies: what holds for it of the configuration, its policy, its client and itself. holding: whether its dumps land
    on a holding disk, auto, never or required. min_copies: so many verified copies before a holding image may go
    (None: all that are wanted). Those not given are its policy's. spindle: what of its client it is read from; sources
    of one spindle are dumped one after the other. origins: key -> FILE:LINE, of what is not a default.
    """

    client: str
    name: str
    type: str
    policy: Policy
    options: Mapping[str, Any]
    timing: Timing = Timing()
    copies: Tuple[CopyRule, ...] = None  # type: ignore[assignment]
    holding: str = ""
    min_copies: Optional[int] = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    spindle: str = ""

    def __post_init__(self) -> None:
        for key in ("copies", "holding", "min_copies"):
            if self.policy is not None and getattr(self, key) in (None, ""):  # a restore asks for no policy
                object.__setattr__(self, key, getattr(self.policy, key))

    def rule(self, target: str) -> Optional[CopyRule]:
        """What is asked of a target, None for nothing."""
        return next((rule for rule in self.copies if rule.target == target), None)


@dataclass(frozen=True)
class Client:
    """A machine. transport: ssh or local. presence: always or roaming. network: the line it hangs on, a Network's name.

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
    network: str = ""
    dumps_at_once: int = DUMPS_PER_CLIENT


@dataclass(frozen=True)
class Network:
    """A line that clients share. rate: how fast their dumps together may come, None: as fast as they do. dumps: so many
    of them at once, None: any number."""

    name: str
    rate: Optional[Rates] = None
    dumps: Optional[int] = None


@dataclass(frozen=True)
class RetrySettings:
    """For how many seconds the night goes on trying clients that failed when it has nothing else to do, most and
    those that are roaming."""

    time: float = 1800.0
    roaming: float = 3600.0


@dataclass(frozen=True)
class Price:
    """What a target costs, in currency. A GB has so many bytes as gb says. Tiers: (up to so many GB or None, each).

    read_gb: a GB that is read, traffic and retrieval together; where egress_gb is said, the bill goes by its tiers and
    by retrieval_gb. request_1000: requests that read; write_1000: those that write or list. storage_gb: a GB for a
    month. woken_gb: a GB brought back from an archive. object_1000: objects for a month, besides their bytes.
    least_days: so long each is billed at least; least_size: bytes each is billed at least. listed: the public list and
    date it was taken from, '' where somebody wrote it.
    """

    read_gb: float
    request_1000: float
    currency: str
    write_1000: float = 0.0
    storage_gb: Tuple[Tuple[Optional[float], float], ...] = ()
    egress_gb: Tuple[Tuple[Optional[float], float], ...] = ()
    retrieval_gb: float = 0.0
    woken_gb: float = 0.0
    object_1000: float = 0.0
    least_days: float = 0.0
    least_size: int = 0
    gb: int = 10**9
    listed: str = ""


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
    """Who is told what happened; options are those its event driver declares. events: the kinds that it is told."""

    name: str
    type: str
    options: Mapping[str, Any]
    events: Tuple[str, ...] = ()


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
    """What is past its keep: so many seconds from its mark to its removal; whether the nightly run prunes. history: for
    so many seconds it is remembered what runs did, and what lay where."""

    grace: float = 3 * 86400.0
    nightly: bool = True
    history: float = 400 * 86400.0


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
    dump_timeout: float = 3 * 86400.0
    known_hosts: Path = Path("/etc/stowage/known_hosts.d")  # one file a client
    ssh_key: Path = Path("/etc/stowage/ssh/id_ed25519")
    ssh_program: str = "ssh"
    verify: VerifySettings = VerifySettings()
    drill: DrillSettings = DrillSettings()
    prune: PruneSettings = PruneSettings()
    planning: PlanningSettings = PlanningSettings()
    networks: Mapping[str, Network] = field(default_factory=dict)
    retry: RetrySettings = RetrySettings()

    def sources(self) -> Iterator[Source]:
        """All of all clients."""
        for client in self.clients.values():
            yield from client.sources.values()

    def source(self, client: str, name: str) -> Optional[Source]:
        """That source; None when it stands no longer in the configuration."""
        found = self.clients.get(client)
        return found.sources.get(name) if found is not None else None
