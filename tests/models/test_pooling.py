"""How several ids of a row become one embedding, projections, and which tables they read."""

import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.striping import Stripe
from mamdr_core.models.pooling import ActivationUnit, PooledStructure, mean_weights, pool_max, pool_sum
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Inputs, Table, owners, readers
from mamdr_core.runtime.errors import MamdrError

SIZES = {"user": 9, "item": 7, "domain": 3, "tags": 5}
FIELD = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [9.0, 9.0]], [[5.0, 5.0]] * 3])
WEIGHT = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (lambda x, w: pool_sum(x, w), [10.0, -14.0]),
        (lambda x, w: pool_sum(x, mean_weights(w)), [2.5, -3.5]),
        (pool_max, [3.0, -2.0]),
    ],
)
def test_padding_is_ignored_and_rows_without_ids_are_zero_with_zero_gradient(pool, expected):
    field = FIELD.clone().requires_grad_()
    pooled = pool(field, WEIGHT)
    assert pooled.tolist() == [expected, [0.0, 0.0]]
    pooled.sum().backward()
    assert field.grad.isfinite().all()
    assert not field.grad[1].any()
    assert not field.grad[0, 2].any()


def test_attention_weighs_each_id_by_a_network_of_it_and_the_rows_own():
    torch.manual_seed(0)
    unit, query = ActivationUnit(2), torch.randn(2, 2)
    field = FIELD.clone().requires_grad_()
    pooled = unit(query, field, WEIGHT)
    whole = torch.cat([unit.query_HD, unit.key_HD, unit.difference_HD, unit.product_HD], 1)
    expected = 0
    for place in range(2):
        k, q = FIELD[0, place], query[0]
        before = whole @ torch.cat([q, k, q - k, q * k]) + unit.bias_H
        hidden = torch.nn.functional.prelu(before[None], unit.slope_H)
        expected = expected + WEIGHT[0, place] * (hidden[0] @ unit.out_H + unit.out_bias) * k
    torch.testing.assert_close(pooled[0], expected)
    assert pooled[1].tolist() == [0.0, 0.0]
    pooled.sum().backward()
    assert field.grad.isfinite().all()
    assert not field.grad[1].any()


def declare(*features, train_ids=True, name="mlp") -> Inputs:
    settings = ModelSettings(name=name, embedding_dim=4, hidden=(5,), train_ids=train_ids)
    return declare_inputs(settings, features, SIZES)


def test_a_sequence_reads_the_items_rows_and_a_bag_its_own():
    history = Feature(name="history", kind="sequence", length=3, table="item", pooling="attention")
    inputs = declare(history, Feature(name="tags", kind="bag", size=2, length=4), name="wdl")
    assert [table.name for table in inputs.features] == ["user", "item", "domain", "history", "tags"]
    assert [table.name for table in readers(inputs.tables, "item")] == ["item", "history"]
    owned = {table.name: (table.rows, table.width) for table in owners(inputs.tables)}
    assert owned["tags"] == (6, 2)
    assert owned["first_order.history"] == (8, 1)
    assert "history" not in owned
    assert inputs.width == 4 * 4 + 2


@pytest.mark.parametrize(
    ("table", "train_ids", "message"),
    [
        ("item", False, r"features\.history\.table: there is no embedding table item \(model\.train_ids: false"),
        ("nothing", True, r"features\.history\.table: there is no embedding table nothing: set an id column"),
    ],
)
def test_a_table_that_cannot_be_shared_is_named(table, train_ids, message):
    feature = Feature(name="history", kind="sequence", length=3, table=table)
    with pytest.raises(MamdrError, match=message):
        declare(feature, train_ids=train_ids)


def test_a_projected_vector_reaches_the_structure_in_its_width():
    vector = Feature(name="look", kind="vector", size=6, path="x", project=2)
    inputs = declare(vector)
    module = build_model(ModelSettings(embedding_dim=4, hidden=(5,), dropout=0.0), inputs, seed=1)
    assert isinstance(module, PooledStructure)
    assert module.structure.layers[0].in_features == 3 * 4 + 2
    fields = {name: torch.randn(2, width) for name, width in (("user", 4), ("item", 4), ("domain", 4), ("look", 6))}
    projected = fields["look"] @ module.projections["of_look"].weight.T
    torch.testing.assert_close(module(fields), module.structure({**fields, "look": projected}))


def test_trained_vectors_start_from_the_file_and_other_ids_as_embeddings():
    inputs = declare(Feature(name="taste", kind="vector", size=2, path="x", trainable=True))
    module = build_model(ModelSettings(embedding_dim=4, hidden=(5,)), inputs)
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]] + [[2.0, 3.0]] * 7)
    plain = initial_shared(module, inputs.tables, 2).tables["taste"]
    found = initial_shared(module, inputs.tables, 2, vectors={"taste": vectors}).tables["taste"]
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    assert torch.equal(found[[1, 3]], vectors[[1, 3]])
    part = initial_shared(module, inputs.tables, 2, stripe=Stripe(1, 3), vectors={"taste": vectors}).tables["taste"]
    assert torch.equal(part, found[1::3])


def test_a_model_without_bags_or_projections_is_the_structure_itself():
    inputs = Inputs((Table("user", "user", 10, 4), Table("domain", "domain", 4, 4)))
    assert not isinstance(build_model(ModelSettings(hidden=(5,)), inputs), PooledStructure)
