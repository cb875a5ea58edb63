"""Restore where there is no server any more: a place given by its address, a key, and nothing else.

Here lives an Engine without configuration: its state is a throw-away folder, its catalog is made from the manifests
of the clients that are asked for, its one target is the place. What comes after is what every restore does.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple
from urllib.parse import unquote, urlsplit

from ..errors import NothingThatOld, RequestError, TargetRefused
from ..hookspecs import TargetContext, TargetError
from ..ids import is_name
from ..settings import Settings, TargetSettings
from . import drivers
from .engine import Engine
from .rebuilding import read_signers


@dataclass(frozen=True)
class Place:
    """Where the images are. url: s3://bucket/prefix, file:///folder or a folder. The rest: of an S3 place.

    signers: fingerprints, signer_keys: files, of keys that alone are believed; else the one that signed all.
    """

    url: str
    endpoint: Optional[str] = None
    region: Optional[str] = None
    credentials: Optional[str] = None
    profile: Optional[str] = None
    signers: Sequence[str] = ()
    signer_keys: Sequence[str] = ()


def is_place(word: Optional[str]) -> bool:
    """Whether what --from names is the address of a place, and not a target of the configuration."""
    return word is not None and ("/" in word)


def settings_of(place: Place) -> TargetSettings:
    """The target that a place is. Raises RequestError."""
    s3 = {"endpoint": place.endpoint, "region": place.region, "credentials": place.credentials,
          "profile": place.profile}  # fmt: skip
    given = {key: value for key, value in s3.items() if value is not None}
    parts = urlsplit(place.url) if "://" in place.url else None
    if parts is not None and parts.scheme == "s3" and parts.netloc and not (parts.query or parts.fragment):
        options: Dict[str, Any] = {"bucket": parts.netloc, "prefix": unquote(parts.path).strip("/"), **given}
        return TargetSettings(parts.netloc if is_name(parts.netloc) else "bucket", "s3", options)
    if given:
        raise RequestError(f"--{next(iter(given))} goes with --from s3://BUCKET/PREFIX only")
    if parts is None:
        folder = Path(place.url).absolute()
    elif parts.scheme == "file" and parts.netloc in ("", "localhost"):
        folder = Path(unquote(parts.path))
    else:
        raise RequestError(f"--from {place.url!r} is no place", "s3://BUCKET/PREFIX, file:///FOLDER or a folder")
    if not folder.is_dir():
        raise RequestError(f"--from {place.url}: there is no such folder", "is it mounted?")
    return TargetSettings(folder.name if is_name(folder.name) else "folder", "directory", {"path": folder})


class Loose(Engine):
    """An Engine over one place, with the dumps of some clients in its catalog. report: of how they were found."""

    def __init__(self, place: Place, clients: Tuple[str, ...]):
        self.drivers = drivers.load()
        self._folder = tempfile.TemporaryDirectory(prefix="stowage-")
        top = Path(self._folder.name)
        one = settings_of(place)
        self.settings = Settings(
            file=top / "none", state=top / "state", keys=top / "keys", holding=(), cycle_days=7,
            targets={one.name: one}, policies={}, clients={},
        )  # fmt: skip
        self._targets: Dict[str, Any] = {}
        self._lock = threading.Lock()
        self._private: Optional[tempfile.TemporaryDirectory] = None
        self.place, self.name = place, one.name
        try:
            self.report = self._find(clients)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives back what was opened; nothing is left."""
        super().close()
        self._folder.cleanup()

    def _open_target(self, name: str, pruning: bool = False) -> Any:
        one = self.settings.targets[self.target_name(name)]
        driver = self.drivers.of("target")[one.type]
        try:
            options = driver.options.model_validate(dict(one.options))
        except ValueError as error:
            told = "; ".join(str(found["msg"]) for found in error.errors()) if hasattr(error, "errors") else str(error)
            raise RequestError(f"--from {self.place.url}: {told}") from None
        try:
            return driver.open(options, TargetContext(name, "restore", self.settings.state / "targets" / name))
        except TargetError as error:
            raise TargetRefused(f"{self.place.url}: {error.message}", error.hint) from None

    def _has(self, client: str) -> bool:
        """Whether anything lies there under the name of that client, readable or not."""
        try:
            return next(iter(self.target(self.name).list(f"{client}/")), None) is not None
        except TargetError as error:
            raise TargetRefused(f"{self.place.url}: {error.message}", error.hint) from None

    def _find(self, clients: Tuple[str, ...]) -> Any:
        from ..rebuild import merge

        given = read_signers(self.place.signer_keys)
        signers = tuple(word.lower() for word in self.place.signers)
        asked = merge.Request(self.name, "the same with", signers, given, clients=clients, bare=True)
        try:
            return merge.rebuild(self.settings, self.catalog, self.target(self.name), {}, asked)
        except (NothingThatOld, RequestError) as error:
            whose = f" of {', '.join(clients)}" if clients else ""
            if clients and not any(self._has(client) for client in clients):
                raise RequestError(
                    f"{self.place.url} has nothing{whose}", f"stowage list dumps --from {self.place.url}"
                ) from None
            if isinstance(error, RequestError):
                raise
            raise NothingThatOld(
                f"{self.place.url} holds no dump{whose} that can be read",
                f"stowage list dumps --from {self.place.url}",
            ) from None
        except TargetError as error:
            raise TargetRefused(f"{self.place.url}: {error.message}", error.hint) from None
