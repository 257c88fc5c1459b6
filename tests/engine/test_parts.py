"""How a batch is cut by domain."""

import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parts import holds_one_domain, part_key, parts_of
from mamdr_core.models.tables import Table
from tests.models.small_structures import featured_columns


def test_a_batch_is_divided_by_domain():
    columns = featured_columns([2, 3, 1])
    parts = parts_of(Visit(columns, torch.tensor([5, 4, 0, 2, 1, 3])), slice(1, 6), together=False)
    assert [part.places.tolist() for part in parts] == [[2, 4], [1, 3, 5]]
    assert [part.first.tolist() for part in parts] == [[2], [1]]
    assert [part.share for part in parts] == [0.4, 0.6]
    for pure in (Visit(columns, torch.tensor([4, 2, 3])), Visit(columns, torch.tensor([5, 0, 2]), as_domain=1)):
        (part,) = parts_of(pure, slice(1, 3), together=False)
        assert (part.places, part.first, part.share) == (slice(1, 3), slice(1, 2), 1.0)
    assert parts_of(Visit(columns, torch.zeros(0, dtype=torch.long)), slice(0, 0), together=False) == []


def test_parts_have_distinct_keys_and_the_first_has_that_of_the_batch():
    keys = [part_key(key, number) for key in (-(1 << 31), -1, 0, (1 << 31) - 1) for number in range(50)]
    assert keys[0] == -(1 << 31)
    assert len(set(keys)) == len(keys)
    assert all(-(1 << 31) <= key < 1 << 31 for key in keys)


def test_a_visit_is_of_one_domain_if_its_rows_are_or_are_read_as_one():
    columns = featured_columns([2, 3, 1])
    assert holds_one_domain(Visit(columns, torch.tensor([2, 4])))
    assert holds_one_domain(Visit(columns, torch.tensor([0, 5]), as_domain=1))
    assert holds_one_domain(Visit(columns, torch.zeros(0, dtype=torch.long)))
    assert not holds_one_domain(Visit(columns, torch.tensor([1, 2])))


def test_a_per_domain_table_must_have_weights_and_use_the_domain_column():
    for wrong in ({"column": "user", "feature": False}, {"column": "domain"}):
        with pytest.raises(ValueError, match="table x is per_domain: it must hold weights and be looked up by domain"):
            Table(**{"name": "x", "rows": 3, "width": 2, "per_domain": True, **wrong})
