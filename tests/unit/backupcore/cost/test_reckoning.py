"""A month's bill: means over the month, tiers, least times and sizes, shares that add up, currencies apart."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from backupcore.hookspecs import Spent

from backupcore.catalog.spending import Stay
from backupcore.clock import NS
from backupcore.cost import aws, bill, usage
from backupcore.cost.bill import Amounts, tiered
from backupcore.errors import RequestError
from backupcore.settings import Price

DAY = 86400 * NS
NOVEMBER = usage.month("2026-11", 1 << 62)  # 30 days, over
GIB, GB = 1 << 30, 10**9
FLAT = Price(0.1, 0.5, "EUR", write_1000=5.0, storage_gb=((None, 2.0),))


def stay(target="cloud", came=0, gone=None, size=GB, source="etc", client="web1", **more):
    """came, gone: days of November, from 0."""
    begin = NOVEMBER.begin_ns
    name = f"{target}-{client}-{source}-{came}-{size}"
    return Stay(name, target, begin + int(came * DAY), client, source, size, more.pop("objects", 10),
                gone_ns=None if gone is None else begin + int(gone * DAY), **more)  # fmt: skip


def rows(stays, spent=None, prices=None, when=NOVEMBER, by="target"):
    return usage.rows(stays, spent or {}, {"cloud": FLAT} if prices is None else prices, when, by)


def test_a_month_is_one_by_utc():
    assert (NOVEMBER.end_ns - NOVEMBER.begin_ns, NOVEMBER.next.name) == (30 * DAY, "2026-12")
    assert usage.month("2026-12", 0).next.name == "2027-01"
    half = usage.month("2026-11", NOVEMBER.begin_ns + 15 * DAY)
    assert half.until_ns == NOVEMBER.begin_ns + 15 * DAY
    for wrong in ("2026-13", "2026-1", "november", "0000-01", "9999-12"):
        with pytest.raises(RequestError):
            usage.month(wrong, 0)


@pytest.mark.parametrize(
    "came, gone, held", [(-90, None, 1.0), (0, None, 1.0), (15, None, 0.5), (10, 13, 0.1), (-5, 3, 0.1), (-9, -2, 0.0)]
)
def test_storage_is_billed_by_the_time(came, gone, held):
    (row,) = rows([stay(came=came, gone=gone)])
    assert row.amounts.held == pytest.approx(held * GB)
    assert row.money == {"EUR": pytest.approx(held * 2.0)}
    assert (row.bytes, row.copies) == ((GB, 1) if gone is None else (0, 0))
    assert row.came == (GB if came >= 0 else 0)


def test_a_month_that_lasts_is_billed_until_now():
    now = usage.month("2026-11", NOVEMBER.begin_ns + 3 * DAY)
    (row,) = rows([stay(came=-10), stay(came=5, source="later")], when=now)
    assert row.money == {"EUR": pytest.approx(0.2)} and row.bytes == GB


def test_tiers_begin_where_others_ended():
    tiers = ((100.0, 0.0), (200.0, 1.0), (None, 0.5))
    assert tiered(50, tiers) == 0 and tiered(150, tiers) == 50 and tiered(300, tiers) == 150
    assert tiered(50, tiers, 80) == 30 and tiered(100, tiers, 180) == 20 + 40 and tiered(7, tiers, 999) == 3.5
    whole = tiered(1000, tiers)
    assert tiered(333, tiers) + tiered(667, tiers, 333) == pytest.approx(whole)


def test_the_list_of_aws_gives_the_sums_of_its_calculator():
    price = aws.listed("aws/us-east-1/STANDARD")
    used = Amounts(held=100 * 1024 * GIB, spent=Spent(write=1_000_000, read=10_000_000, got=1124 * GIB))
    made = bill.bill(price, used)
    assert made.storage == pytest.approx(51200 * 0.023 + 51200 * 0.022)
    assert (made.requests, made.read) == (pytest.approx(5 + 4), pytest.approx(1024 * 0.09))
    frankfurt = bill.bill(aws.listed("aws/eu-central-1/STANDARD_IA"), Amounts(held=1000 * GIB, spent=Spent(got=GIB)))
    assert (frankfurt.storage, frankfurt.read) == (pytest.approx(13.5), pytest.approx(0.01))  # egress is free so far
    deep = bill.bill(aws.listed("aws/us-east-1/DEEP_ARCHIVE"), Amounts(held=1024 * GIB, objects=1_000_000))
    overhead = (32 * 0.00099 + 8 * 0.023) / 1024 / 1024 * 1_000_000
    assert deep.storage == pytest.approx(1024 * 0.00099 + overhead)


def test_what_goes_before_its_least_time_is_billed_to_the_end_of_it():
    price = replace(FLAT, least_days=30)
    (early,) = rows([stay(came=0, gone=10)], prices={"cloud": price})
    assert early.bills["cloud"].early == pytest.approx(2.0 * 20 / 30)
    assert early.money == {"EUR": pytest.approx(2.0)}
    (late,) = rows([stay(came=-25, gone=10)], prices={"cloud": price})
    assert late.bills["cloud"].early == 0
    (there,) = rows([stay(came=0)], prices={"cloud": price})
    assert there.bills["cloud"].early == 0


def test_small_objects_are_billed_at_their_least_size():
    price = replace(FLAT, least_size=128 << 10)
    (row,) = rows([stay(objects=10, small=7, small_bytes=7000)], prices={"cloud": price})
    assert row.amounts.padding == 7 * (128 << 10) - 7000
    assert row.bills["cloud"].storage == pytest.approx((GB + row.amounts.padding) / GB * 2)
    (unknown,) = rows([stay(objects=0)], prices={"cloud": price})
    assert unknown.amounts.padding == (usage.OBJECTS - 1) * (128 << 10)


def test_no_price_is_no_money_and_said():
    (row,) = rows([stay()], {"cloud": Spent(write=3)}, prices={"cloud": None})
    assert (row.money, row.unpriced, row.bytes, row.amounts.spent.write) == ({}, ("cloud",), GB, 3)
    assert row.as_dict()["cost"] == {} and row.as_dict()["unpriced"] == ["cloud"]


def test_currencies_are_never_added():
    prices = {"cloud": FLAT, "other": replace(FLAT, currency="$"), "nas": None}
    stays = [stay(), stay("other"), stay("nas")]
    assert usage.money_of(rows(stays, prices=prices)) == {"EUR": pytest.approx(2), "$": pytest.approx(2)}
    (row,) = rows(stays, prices=prices, by="client")
    assert row.money == {"EUR": pytest.approx(2), "$": pytest.approx(2)} and row.unpriced == ("nas",)


def test_the_most_expensive_comes_first_then_the_largest_without_a_price():
    stays = [stay(source="a"), stay(source="b", size=3 * GB), stay("nas", source="c", size=9), stay("nas", source="d")]
    told = [row.name for row in rows(stays, prices={"cloud": FLAT}, by="source")]
    assert told == ["web1:b", "web1:a", "web1:d", "web1:c"]


def test_requests_without_a_copy_are_the_targets_alone():
    (row,) = rows([], {"cloud": Spent(write=1000, read=2000)})
    assert row.money == {"EUR": pytest.approx(6.0)}
    (row,) = rows([], {"cloud": Spent(write=1000)}, by="client")
    assert (row.name, row.amounts.spent.write) == ("", 1000)


@pytest.mark.parametrize("seed", range(20))
def test_shares_add_up_to_the_whole_by_whatever_they_are_told(seed):
    draw = random.Random(seed)
    prices = {name: aws.listed(f"aws/{region}/{kind}") for name, region, kind in (
        ("one", "us-east-1", "STANDARD"), ("two", "eu-west-1", "GLACIER_IR"), ("three", "us-west-2", "GLACIER"))}
    stays = [
        stay(draw.choice([*prices, "nas"]), draw.uniform(-200, 30), draw.choice([None, draw.uniform(0, 30)]),
             draw.randrange(1, 40_000 * GIB), f"s{draw.randrange(5)}", f"c{draw.randrange(3)}",
             objects=draw.randrange(20), small=draw.randrange(7), small_bytes=draw.randrange(9999))
        for _ in range(draw.randrange(1, 60))
    ]  # fmt: skip
    stays = [one for one in stays if one.gone_ns is None or one.gone_ns > one.came_ns]
    spent = {name: Spent(*(draw.randrange(1 << 45) for _ in range(6))) for name in prices}
    told = {by: rows(stays, spent, prices, by=by) for by in usage.BY}
    for by in ("client", "source"):
        assert usage.money_of(told[by])["$"] == pytest.approx(usage.money_of(told["target"])["$"], rel=1e-9)
        for name in ("bytes", "objects", "copies", "came"):
            assert sum(getattr(row, name) for row in told[by]) == sum(getattr(row, name) for row in told["target"])
        for name in Spent.__dataclass_fields__:
            whole = sum(getattr(one, name) for one in spent.values())
            assert sum(getattr(row.amounts.spent, name) for row in told[by]) == whole
