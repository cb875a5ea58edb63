"""AWS's public list of prices for S3, as of its date: what holds for a target that nobody wrote a price for.

Here live numbers. A region or a storage class that is not here has no known price, and nothing is guessed; who knows
it writes `price:`. Not here: what is reckoned with them (bill.py). The names are AWS's own.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from ..settings import Price

DATE = "2026-08-07"
SOURCE = "AWS Price List: AmazonS3 of 2026-08-07, AWSDataTransfer of 2026-07-20"
CURRENCY = "$"
GB = 1 << 30  # AWS's GB, of storage and of traffic
KIB = 1 << 10

# To the internet: so many GB a month of all buckets together, and what one of them costs. The first 100 are free.
EGRESS = ((100.0, 0.0), (10240.0, 0.09), (51200.0, 0.085), (153600.0, 0.07), (None, 0.05))

# storage a GB and month; PUT, COPY, POST and LIST, 1,000; GET and others, 1,000; retrieval a GB
_Line = Tuple[Tuple[Tuple[Optional[float], float], ...], float, float, float]

_STANDARD = ((51200.0, 0.023), (512000.0, 0.022), (None, 0.021))
_US: Dict[str, _Line] = {
    "STANDARD": (_STANDARD, 0.005, 0.0004, 0.0),
    "STANDARD_IA": (((None, 0.0125),), 0.01, 0.001, 0.01),
    "ONEZONE_IA": (((None, 0.01),), 0.01, 0.001, 0.01),
    "GLACIER_IR": (((None, 0.004),), 0.02, 0.01, 0.03),
    "GLACIER": (((None, 0.0036),), 0.03, 0.0004, 0.0),
    "DEEP_ARCHIVE": (((None, 0.00099),), 0.05, 0.0004, 0.0),
}
LIST: Dict[str, Dict[str, _Line]] = {
    "us-east-1": _US,
    "us-east-2": _US,
    "us-west-2": _US,
    "eu-west-1": {name: _US[name] for name in ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR")},
    "eu-central-1": {
        "STANDARD": (((51200.0, 0.0245), (512000.0, 0.0235), (None, 0.0225)), 0.0054, 0.00043, 0.0),
        "STANDARD_IA": (((None, 0.0135),), 0.01, 0.001, 0.01),
    },
}
LEAST_DAYS = {"STANDARD_IA": 30, "ONEZONE_IA": 30, "GLACIER_IR": 90, "GLACIER": 90, "DEEP_ARCHIVE": 180}
LEAST_SIZE = {"STANDARD_IA": 128 * KIB, "ONEZONE_IA": 128 * KIB, "GLACIER_IR": 128 * KIB}
# An archive keeps 32 KiB of its own of each object, and 8 KiB at the price of STANDARD. What a GB costs that is woken,
# by how soon.
ARCHIVES: Dict[str, Dict[str, float]] = {
    "GLACIER": {"Bulk": 0.0, "Standard": 0.01, "Expedited": 0.03},
    "DEEP_ARCHIVE": {"Bulk": 0.0025, "Standard": 0.02, "Expedited": 0.02},  # it knows no Expedited: asked as Standard
}


def listed(tariff: str) -> Optional[Price]:
    """The price of `aws/REGION/CLASS`, with /TIER (how soon an archive is to be awake) and /LATER+… (classes to which a
    rule moves files) behind it, as a driver's tariff names it; None when it is not here.

    When files are moved is not reckoned: storage costs what it does in CLASS, which is the most; waking does what it
    does in the last class.
    """
    provider, region, kind, tier, later = (tariff.split("/") + ["", "", "", "", ""])[:5]
    line = LIST.get(region, {}).get(kind) if provider == "aws" else None
    if line is None:
        return None
    storage, write, read, retrieval = line
    last = later.rpartition("+")[2] or kind
    an_object, woken = 0.0, ARCHIVES.get(last, {}).get(tier or "Standard", 0.0)
    if kind in ARCHIVES:
        standard = LIST[region]["STANDARD"][0][0][1]
        an_object = (32 * KIB * storage[0][1] + 8 * KIB * standard) / GB
    return Price(
        read_gb=EGRESS[1][1] + retrieval, request_1000=read, currency=CURRENCY, write_1000=write, storage_gb=storage,
        egress_gb=EGRESS, retrieval_gb=retrieval, woken_gb=woken, object_1000=an_object * 1000,
        least_days=LEAST_DAYS.get(kind, 0), least_size=LEAST_SIZE.get(kind, 0), gb=GB,
        listed=f"AWS {region} {kind}, {DATE}" + (f", as if nothing moved to {later}" if later else ""),
    )  # fmt: skip
