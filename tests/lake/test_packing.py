"""Shards are balanced on rows, whatever the sizes of the domains."""

from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.lake.examples.packing import pack_domains


def loads(rows, packing):
    found = [0.0] * packing.count
    for domain, shards in packing.shards.items():
        for shard in shards:
            found[shard] += rows[domain] / len(shards)
    return found


def test_domains_go_to_the_least_loaded_shard_largest_first():
    assert pack_domains({0: 6, 1: 5, 2: 4, 3: 3}, target=9).shards == {0: (0,), 1: (1,), 2: (1,), 3: (0,)}


def test_domains_almost_as_large_as_a_shard_are_divided_if_shards_are_uneven():
    # Whole, two of nine domains of .9 shards would share one.
    rows = dict.fromkeys(range(9), 900)
    packing = pack_domains(rows, target=1000, count=8)
    assert max(loads(rows, packing)) <= 1.1 * 9 * 900 / 8


def test_one_shard_holds_all_where_all_is_little():
    packing = pack_domains({0: 5, 7: 1}, target=1000)
    assert (packing.count, packing.shards) == (1, {0: (0,), 7: (0,)})


def test_a_giant_domain_is_spread_and_no_shard_exceeds_the_mean_by_a_tenth():
    rows = {0: 300_000, **dict.fromkeys(range(1, 1001), 700)}
    packing = pack_domains(rows, target=50_000)
    assert packing.count == 20
    assert len(packing.shards[0]) == 6
    found = loads(rows, packing)
    assert max(found) <= 1.1 * sum(found) / len(found)


def test_the_number_of_shards_may_be_given():
    packing = pack_domains(dict.fromkeys(range(100), 10), target=1, count=4)
    assert packing.count == 4
    assert loads(dict.fromkeys(range(100), 10), packing) == [250.0] * 4


@given(
    st.dictionaries(st.integers(0, 10_000), st.integers(1, 10**6), min_size=1, max_size=200),
    st.integers(1, 10**6),
    st.integers(0, 20),
)
def test_every_domain_is_placed_and_no_shard_exceeds_the_mean_by_over_a_part(rows, target, count):
    packing = pack_domains(rows, max(target, sum(rows.values()) // 50), count)
    assert set(packing.shards) == set(rows)
    assert all(0 <= shard < packing.count for shards in packing.shards.values() for shard in shards)
    mean = sum(rows.values()) / packing.count
    largest_part = max(rows[domain] / len(shards) for domain, shards in packing.shards.items())
    assert max(loads(rows, packing)) <= mean + largest_part + 1e-6
