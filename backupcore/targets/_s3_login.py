"""Who Stowage is at an S3 place: keys from a file that may change, a role that is taken on, all renewed by themselves.

Here live the credentials and nothing of what is done with them (_s3_client.py). botocore is imported when it is used.
"""

from __future__ import annotations

import configparser
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any, Dict, Optional
from urllib.parse import quote

from backupcore.hookspecs import TargetError

from ._s3_errors import code_of, explained

_KEYS = {"access_key": "access_key_id", "secret_key": "secret_access_key", "session_token": "session_token",
         "proxy_user": "proxy_user", "proxy_password": "proxy_password"}  # fmt: skip


def read_credentials(path: Path, name: str) -> dict:
    """{access_key, secret_key, session_token?, proxy_user?, proxy_password?} from a file that only its owner can read.

    JSON or INI; flat, or one section for each target's name (INI also [default]). A file may hold the proxy's alone.
    """
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise TargetError(f"{path} can be read by others", f"chmod 600 {path}")
            content = file.read(100_000)
    except OSError as error:
        raise TargetError(
            f"cannot read the credentials of target {name}: {error.strerror}: {path}",
            "write access_key and secret_key into it, chmod 600",
        ) from None
    try:
        found = _section(content, name)
        keys = {key: found.get(key) or found.get("aws_" + long) for key, long in _KEYS.items()}
    except (ValueError, AttributeError, configparser.Error):
        raise TargetError(f"{path} is neither JSON nor INI", "write access_key and secret_key into it") from None
    own = [isinstance(keys[key], str) and bool(keys[key]) for key in ("access_key", "secret_key")]
    if not all(own) and (any(own) or not keys["proxy_user"]):
        raise TargetError(f"{path} has no access_key and secret_key for target {name}")
    return keys


def _section(content: str, name: str) -> dict:
    if content.lstrip().startswith("{"):
        found = json.loads(content)
        return found.get(name, found)
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    parser.read_string(content if content.lstrip().startswith("[") else "[default]\n" + content)
    for section in (name, "default"):
        if parser.has_section(section):
            return dict(parser[section])
    return {}


def session_of(path: Optional[Path], profile: Optional[str], name: str) -> Any:
    """A boto3 session with the keys of a file, else of a profile, else of the AWS chain: environment, web identity,
    container or instance role, which botocore renews."""
    if path is not None and read_credentials(path, name)["access_key"]:
        return _session(_of_file(path, name))
    import boto3.session

    return boto3.session.Session(profile_name=profile)


_loaders: list = []


def _session(credentials: Any) -> Any:
    """A boto3 session with these. What botocore knows of S3 is read once in a process: each client of its own memory of
    that took 12 MiB, and there is one for each target."""
    import boto3.session
    import botocore.session

    inner = botocore.session.Session()
    if _loaders:
        inner.register_component("data_loader", _loaders[0])
    else:
        _loaders.append(inner.get_component("data_loader"))
    inner._credentials = credentials  # the place where botocore's own providers put theirs
    return boto3.session.Session(botocore_session=inner)


def _of_file(path: Path, name: str) -> Any:
    """Credentials that are read again whenever the file has changed: who renews a token there needs no restart."""
    from botocore.credentials import Credentials

    class FromFile(Credentials):
        def __init__(self) -> None:
            self._lock, self._seen = threading.Lock(), None
            keys = self._read()
            super().__init__(keys["access_key"], keys["secret_key"], keys["session_token"], method="stowage-file")

        def _read(self) -> Dict[str, Any]:
            self._seen = _stamp(path)
            return read_credentials(path, name)

        def get_frozen_credentials(self) -> Any:
            with self._lock:
                if _stamp(path) != self._seen:
                    try:
                        keys = self._read()
                    except TargetError:
                        pass  # half written or taken away: the old ones may do, and the next change is seen
                    else:
                        if keys["access_key"]:
                            self.access_key, self.secret_key = keys["access_key"], keys["secret_key"]
                            self.token = keys["session_token"]
                return super().get_frozen_credentials()

    return FromFile()


def _stamp(path: Path) -> Any:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def take_on(session: Any, options: Any, name: str, common: Dict[str, Any]) -> Any:
    """A session of the role that options ask for; its keys are renewed long before they expire. Talks to nobody yet.

    common: how STS is reached (region, config, verify).
    """
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.credentials import DeferredRefreshableCredentials

    lasts = round(options.role_duration)
    asked = {"RoleArn": options.role_arn, "RoleSessionName": options.role_session, "DurationSeconds": lasts}
    if options.role_token is not None:
        common = {**common, "config": common["config"].merge(Config(signature_version=UNSIGNED))}
    elif options.external_id is not None:
        asked["ExternalId"] = options.external_id
    endpoint = options.sts_endpoint or options.endpoint
    made: list = []

    def refresh() -> Dict[str, Any]:
        # raised as it is by botocore, and told as it is: not as a fault of what was about to be done
        what = f"target {name}: cannot take on the role {options.role_arn}"
        try:
            if not made:
                made.append(session.client("sts", endpoint_url=endpoint, **common))
            if options.role_token is not None:
                answer = made[0].assume_role_with_web_identity(**asked, WebIdentityToken=_token(options.role_token))
            else:
                answer = made[0].assume_role(**asked)
        except TargetError:
            raise
        except Exception as error:
            found = explained(error, what)
            if code_of(error) == "AccessDenied":
                found.hint = "let the role's trust policy name this key, and allow the key sts:AssumeRole"
            else:
                found.hint = found.hint.replace(" endpoint:", " sts_endpoint:") or "look at role_arn: and sts_endpoint:"
            raise found from None
        keys = answer["Credentials"]
        return {"access_key": keys["AccessKeyId"], "secret_key": keys["SecretAccessKey"],
                "token": keys["SessionToken"], "expiry_time": keys["Expiration"].isoformat()}  # fmt: skip

    class OfRole(DeferredRefreshableCredentials):
        # botocore's 15 minutes are all that the shortest role lasts
        _advisory_refresh_timeout = min(900, lasts // 4)
        _mandatory_refresh_timeout = min(600, lasts // 8)

    return _session(OfRole(refresh, "stowage-role"))


def _token(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or "it is no text"
        raise TargetError(f"the token of the role cannot be read: {path}: {told}", "correct role_token:") from None


def proxies_of(options: Any, name: str) -> Optional[Dict[str, str]]:
    """The proxy as botocore wants it, with user and password of the credentials file; None: the environment's."""
    if options.proxy is None:
        return None
    url = options.proxy.rstrip("/")
    keys = read_credentials(options.credentials, name) if options.credentials else {}
    if keys.get("proxy_user"):
        scheme, _, host = url.partition("://")
        user, password = (quote(str(keys.get(key) or ""), safe="") for key in ("proxy_user", "proxy_password"))
        url = f"{scheme}://{user}:{password}@{host}"
    return {"http": url, "https": url}
