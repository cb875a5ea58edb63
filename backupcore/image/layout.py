"""Names: where a dump lies on a holding disk or target, and what its files are called.

Here live names only; what stands in the files lives in the module named after each.
"""

from __future__ import annotations

import re
from typing import Optional, Tuple

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SUMS = "SHA256SUMS"
RESTORE = "RESTORE.txt"
SEALED = ".enc"  # what names of sealed files end in
SUFFIXES = {"zstd": ".zst", "gzip": ".gz", "none": ""}
# Four digits, so that a shell's * lists the parts in their order.
MAX_PARTS = 10000
# At a target's root, beside the folders of the clients.
MARK = ".stowage"
RUNS = MARK + "/runs/"  # <server id>/<run>.json, .sig: signed records of runs
SIGNERS = MARK + "/keys/"  # <fingerprint>.pub: public keys that signed dumps there; the name proves the content
_KEYS = re.compile(r"keys(?:-([2-9]|[1-9][0-9]{1,3}))?[.]tsv\Z")
_PART = re.compile(r"image-([0-9]{4})\.([a-z0-9-]{1,16})(\.zst|\.gz|)(\.enc|)\Z")


def part_name(number: int, codec: str, native: Optional[str] = None) -> str:
    """`image-0000.tar.zst`; native: the format of a stream that is no tree, in place of tar."""
    if not 0 <= number < MAX_PARTS:
        raise ValueError("a dump has at most %d parts" % MAX_PARTS)
    return "image-%04d.%s%s" % (number, native or "tar", SUFFIXES[codec])


def index_name(codec: str) -> str:
    """`index.tsv.zst`."""
    return "index.tsv" + SUFFIXES[codec]


def frames_name(codec: str) -> str:
    """`frames.tsv.zst`."""
    return "frames.tsv" + SUFFIXES[codec]


def keys_name(renewal: int = 1) -> str:
    """`keys.tsv`; renewed wrappings lie beside it as `keys-2.tsv`, `keys-3.tsv` and so on."""
    return "keys.tsv" if renewal == 1 else "keys-%d.tsv" % renewal


def parse_keys_name(name: str) -> Optional[int]:
    """The number of a file of wrapped keys, None when the name is none."""
    match = _KEYS.match(name)
    return int(match.group(1) or 1) if match else None


def parse_part_name(name: str) -> Optional[Tuple[int, str]]:
    """(number, format) of a part's file name, None when it is none."""
    match = _PART.match(name)
    return (int(match.group(1)), match.group(2)) if match else None


def source_prefix(client: str, source: str, segment: Optional[str] = None) -> str:
    """`client/source`, or `client/source.segment`: the folder of all its dumps."""
    return "%s/%s.%s" % (client, source, segment) if segment else "%s/%s" % (client, source)


def dump_prefix(client: str, source: str, dump: str, segment: Optional[str] = None) -> str:
    """`client/source/dump`: the folder of a dump below a holding disk or a target's root, no slash behind."""
    return "%s/%s" % (source_prefix(client, source, segment), dump)
