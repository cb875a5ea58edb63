"""What a target costs by the configuration: AWS's list, what is written over it, names, and what is wrong."""

from __future__ import annotations

import pytest

from backupcore.app import config, drivers
from backupcore.cost import aws
from backupcore.errors import ConfigError

BASE = "state: /var/lib/stowage\nholding: [{path: /srv/holding, use: 1 GB}]\n"


@pytest.fixture
def price_of(tmp_path):
    def price_of(target, more=""):
        file = tmp_path / "stowage.yml"
        file.write_text(f"{BASE}targets:\n  cloud: {target}\n{more}")
        return config.load(file, drivers.load()).settings.targets["cloud"].price

    return price_of


def test_a_bucket_at_aws_has_the_prices_of_its_region_and_class(price_of):
    price = price_of("{type: s3, bucket: acme-backup, region: eu-central-1, storage_class: STANDARD_IA}")
    assert price == aws.listed("aws/eu-central-1/STANDARD_IA")
    assert (price.storage_gb, price.least_days, price.least_size) == (((None, 0.0135),), 30, 128 << 10)
    assert price.read_gb == pytest.approx(0.10)  # what drills reckon with: traffic and retrieval
    assert aws.DATE in price.listed


@pytest.mark.parametrize(("tier", "woken"), [("", 0.02), (", restore_tier: Bulk", 0.0025)])
def test_what_wakes_slowly_costs_less(price_of, tier, woken):
    more = ", region: us-east-1, storage_class: DEEP_ARCHIVE" + tier
    price = price_of("{type: s3, bucket: acme-backup%s}" % more)
    assert (price.woken_gb, price.least_days, price.listed) == (woken, 180, f"AWS us-east-1 DEEP_ARCHIVE, {aws.DATE}")


@pytest.mark.parametrize(
    "more",
    [", region: xx-east-9", "", ", region: eu-west-1, endpoint: 'https://s3.wasabisys.com'",
     ", region: eu-west-1, storage_class: INTELLIGENT_TIERING",
     ", region: eu-west-1, endpoint: 'https://amazonaws.com.example.org'"],
)  # fmt: skip
def test_where_no_list_holds_no_price_is_known(price_of, more):
    assert price_of("{type: s3, bucket: acme-backup%s}" % more) is None


def test_what_is_written_takes_the_place_of_the_lists_numbers_key_by_key(price_of):
    price = price_of("{type: s3, bucket: acme-backup, region: us-east-1, price: {storage_gb: 0.02, read_gb: 0}}")
    listed = aws.listed("aws/us-east-1/STANDARD")
    assert price.storage_gb == ((None, 0.02),) and price.egress_gb == () and price.read_gb == 0
    assert (price.write_1000, price.currency) == (listed.write_1000, "$")


def test_another_currency_takes_the_place_of_the_whole_list(price_of):
    price = price_of("{type: s3, bucket: acme-backup, region: us-east-1, price: {read_gb: 0.09, currency: EUR}}")
    assert (price.read_gb, price.currency, price.storage_gb, price.write_1000) == (0.09, "EUR", (), 0.0)


def test_prices_have_names_for_several_targets(price_of):
    more = "prices:\n  wasabi: {currency: $, storage_gb: 0.0069, least_days: 90, least_size: 4 KiB}\n"
    price = price_of("{type: directory, path: /mnt/nas, price: wasabi}", more)
    assert (price.storage_gb, price.least_days, price.least_size) == (((None, 0.0069),), 90, 4096)


@pytest.mark.parametrize(
    "given, told",
    [("{read_gb: 1}", "targets.cloud.price.currency is missing"),
     ("{red_gb: 1, currency: $}", 'did you mean "read_gb"'),
     ("{read_gb: -1, currency: $}", "must be at least 0"), ("wasaby", 'there is no price "wasaby"'),
     ("7", "targets.cloud.price"), ("{storage_gb: .inf, currency: $}", "storage_gb")],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(price_of, given, told):
    with pytest.raises(ConfigError) as caught:
        price_of("{type: directory, path: /mnt/nas, price: %s}" % given)
    assert told in caught.value.message and "stowage.yml:4" in caught.value.message
