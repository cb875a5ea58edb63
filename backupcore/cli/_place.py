"""Places without a server, for the verbs that read images: `--from s3://BUCKET/PREFIX` or a folder, and their options.

Here lives how such a place is named and what is said of it; what it is made into: app/serverless.py.
"""

from __future__ import annotations

import argparse
from typing import Any, Optional, Tuple

from .. import text
from ..errors import RequestError
from ..restore.report import shell_word
from . import _output

HINT = "stowage restore --from s3://BUCKET/PREFIX CLIENT:/PATH --to DIR"
_KNOWN = ("stowage list dumps", "stowage list copies", "stowage list files")  # what asks such a place
_OPTIONS = ("endpoint", "region", "credentials", "profile", "signer", "signer_key")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a place needs that stands in no configuration."""
    group = parser.add_argument_group("with --from s3://BUCKET/PREFIX or a folder, where there is no server")
    group.add_argument("--endpoint", metavar="URL", help="of the S3 server (default: AWS)")
    group.add_argument("--region", metavar="R", help="of the bucket")
    group.add_argument("--credentials", metavar="FILE", help="access_key and secret_key (default: the AWS chain)")
    group.add_argument("--profile", metavar="P", help="of ~/.aws/config")
    group.add_argument("--signer", metavar="FPR", action="append", default=[],
                       help="believe only what is signed by this key, its fingerprint as in the key kit")  # fmt: skip
    group.add_argument("--signer-key", metavar="FILE", action="append", default=[],
                       help="a public signing key from the key kit, where the place has none")  # fmt: skip


def given(args: argparse.Namespace) -> bool:
    """Whether --from is such a place. Raises RequestError for its options without it."""
    if is_given(args):
        return True
    for name in _OPTIONS:
        if getattr(args, name):
            raise RequestError(f"--{name.replace('_', '-')} goes with --from s3://BUCKET/PREFIX or a folder", HINT)
    return False


def again(args: argparse.Namespace) -> str:
    """The options of such a place, to be typed again; '' when --from is none."""
    if not is_given(args):
        return ""
    words = ["--from", args.place]
    for name in _OPTIONS:
        value = getattr(args, name)
        for one in value if isinstance(value, list) else [value] if value else []:
            words += ["--" + name.replace("_", "-"), one]
    return "".join(" " + shell_word(word) for word in words)


def hint(told: str, words: str) -> str:
    """The next step after an error, as it must be typed where there is no server. words: of again()."""
    steps = [one.partition(" --from ")[0] for one in told.split("   or   ") if not one.startswith("stowage find ")]
    return "   or   ".join(one + words if one.startswith(_KNOWN) else one for one in steps)


def is_given(args: argparse.Namespace) -> bool:
    """Whether --from is such a place."""
    from ..app.serverless import is_place

    return is_place(args.place)


def is_folder(to: Optional[str]) -> bool:
    """Whether --to names a folder of this machine."""
    client, colon, _folder = (to or "").partition(":")
    return bool(to) and not (colon and "/" not in client)


def open_loose(args: argparse.Namespace, opener: Any, clients: Tuple[str, ...]) -> Any:
    """The engine over that place, closed at the end; says on standard error whom it believes."""
    from ..app.serverless import Loose, Place

    place = Place(args.place, args.endpoint, args.region, args.credentials, args.profile, args.signer, args.signer_key)
    opener.place = again(args)
    engine = opener.take(Loose(place, clients))
    report = engine.report
    for name in report.signers:
        if args.signer or args.signer_key:
            _output.say(f"signed by {name}")
        else:
            _output.say(f"signed by {name}: compare this fingerprint with the key kit before you use what comes")
    # who took the newest dumps away left signatures that are right
    _output.say("one place alone cannot show that nothing newer was taken away: compare the moment with your last mail")
    for one in report.findings:
        if one.status != "note":
            _output.say(text.escape(f"{one.status} {one.source + ': ' if one.source else ''}{one.message}"))
    for folder, why in report.left[:20]:
        _output.say(text.escape(f"WARN left alone: {folder}: {why}"))
    return engine
