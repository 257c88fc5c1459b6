"""Normalisation by domain: a batch's statistics and the measured ones, against plain numpy."""

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm

from mamdr_core.models.checking import check_structure
from mamdr_core.models.groups import GROUP, SIZES
from mamdr_core.models.layers import EPSILON
from mamdr_core.models.mlp import MLP
from mamdr_core.models.statistics import FEW_ROWS, ROW_WEIGHT, DomainNormalization, statistics_layers
from mamdr_core.models.structures import build_model
from mamdr_core.models.tables import Table
from mamdr_core.runtime.errors import MamdrError
from tests.models.small_structures import PARTITIONED, small_inputs, small_settings

WIDTH = 3


@pytest.fixture
def layer():
    return DomainNormalization("norm", small_inputs(small_settings("mlp"), 4), WIDTH).train()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(domains):
    """Measured statistics of the domains of a batch, by field."""
    mean, variance = draw(domains, WIDTH, seed=1), 0.1 + draw(domains, WIDTH, seed=2).square()
    return {"norm.count": torch.full((domains, 1), 50.0).double(), "norm.mean": mean, "norm.variance": variance}


def by_hand(x, weight, mean, variance):
    """A domain's rows as the docstring of the layer has it: measured rows make up what lacks to `FEW_ROWS`."""
    own = weight.sum() ** 2 / (weight**2).sum() if weight.any() else 0.0
    lacking = max(0.0, FEW_ROWS - own)
    all_weight = np.concatenate([weight / max(weight.sum(), 1e-300) * own, [lacking / 2, lacking / 2]])
    deviation = np.sqrt(variance)
    values = np.concatenate([x, [mean - deviation, mean + deviation]])  # two points of that mean and variance
    center = np.average(values, axis=0, weights=all_weight)
    spread = np.average((values - center) ** 2, axis=0, weights=all_weight)
    return (x - center) / np.sqrt(spread + EPSILON)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_training_batch_is_normalised_by_each_domains_own_rows(layer, weighted):
    """Domains of 1, 2, 5 and 40 rows; with weights also one whose rows all weigh nothing."""
    sizes = [1, 2, 5, 40]
    x, weight = draw(48, WIDTH), torch.ones(48).double()
    if weighted:
        weight = draw(48, seed=3).abs() / 48
        weight[1:3] = 0
    fields = measured(4) | {
        ROW_WEIGHT: weight,
        GROUP: torch.arange(4).repeat_interleave(torch.tensor(sizes)),
        SIZES: torch.tensor(sizes),
    }
    found = layer(fields, x).split(sizes)
    for number, (own, own_weight) in enumerate(zip(x.split(sizes), weight.split(sizes), strict=True)):
        mean, variance = (fields[name][number].numpy() for name in ("norm.mean", "norm.variance"))
        expected = by_hand(own.numpy(), own_weight.numpy(), mean, variance)
        np.testing.assert_allclose(found[number].numpy(), expected, rtol=1e-9, atol=1e-12)
        alone = {name: fields[name][number : number + 1] for name in measured(4)} | {ROW_WEIGHT: own_weight}
        np.testing.assert_allclose(layer(alone, own).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_enough_rows_are_batch_normalisation_with_its_gradient(layer):
    x, to_out = draw(FEW_ROWS, WIDTH).requires_grad_(), draw(FEW_ROWS, WIDTH, seed=5)
    found = layer(measured(1) | {ROW_WEIGHT: torch.ones(FEW_ROWS).double()}, x)
    (gradient,) = torch.autograd.grad((found * to_out).sum(), x)
    expected = batch_norm(x, None, None, training=True, eps=EPSILON)
    (expected_gradient,) = torch.autograd.grad((expected * to_out).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


def test_the_gradient_of_groups_is_that_of_calls_for_each_domain(layer):
    sizes = torch.tensor([1, 3, 3, 20])
    x, weight = draw(27, WIDTH).requires_grad_(), draw(27, seed=3).abs()
    to_out, fields = draw(27, WIDTH, seed=5), measured(4)
    together = fields | {ROW_WEIGHT: weight, GROUP: torch.arange(4).repeat_interleave(sizes), SIZES: sizes}
    (found,) = torch.autograd.grad((layer(together, x) * to_out).sum(), x)
    parts = zip(x.split(sizes.tolist()), weight.split(sizes.tolist()), strict=True)
    alone = [
        layer({name: rows[n : n + 1] for name, rows in fields.items()} | {ROW_WEIGHT: w}, own)
        for n, (own, w) in enumerate(parts)
    ]
    (expected,) = torch.autograd.grad((torch.cat(alone) * to_out).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_padding_changes_nothing(layer):
    x = torch.cat([draw(5, WIDTH), torch.full((3, WIDTH), 7.0).double()])
    padded = layer(measured(1) | {ROW_WEIGHT: torch.tensor([0.2] * 5 + [0.0] * 3).double()}, x)
    alone = layer(measured(1) | {ROW_WEIGHT: torch.ones(5).double()}, x[:5])
    torch.testing.assert_close(padded[:5], alone, rtol=0, atol=1e-12)


def test_outside_training_the_measured_statistics_hold(layer):
    fields, x = measured(2), draw(3, WIDTH)
    groups = {GROUP: torch.tensor([0, 1, 1]), SIZES: torch.tensor([1, 2]), ROW_WEIGHT: torch.ones(3).double()}
    expected = (x - fields["norm.mean"][[0, 1, 1]]) / (fields["norm.variance"][[0, 1, 1]] + EPSILON).sqrt()
    torch.testing.assert_close(layer.eval()(fields | groups, x), expected)


def test_star_declares_its_statistics_and_layer_normalisation_has_none():
    settings = small_settings(PARTITIONED)
    inputs = small_inputs(settings, 3)
    (layer,) = statistics_layers(build_model(settings, inputs))
    tables = [table for table in inputs.tables if table.measured]
    assert [(table.name, table.rows, table.width) for table in tables] == [
        ("normalization.count", 4, 1),
        ("normalization.mean", 4, inputs.width),
        ("normalization.variance", 4, inputs.width),
    ]
    assert layer.width == inputs.width
    plain = small_settings("star")
    assert not any(table.measured for table in small_inputs(plain, 3).tables)
    assert not statistics_layers(build_model(plain, small_inputs(plain, 3)))


def test_a_measured_table_that_is_read_for_every_row_is_refused():
    with pytest.raises(ValueError, match="table x is measured: it must be per_domain"):
        Table("x", "domain", 3, 2, feature=False, measured=True)


class Unobserved(MLP):
    """An MLP with a layer whose statistics nobody can measure."""

    def __init__(self, inputs, settings):
        super().__init__(inputs, settings)
        self.normalize = DomainNormalization("norm", inputs, inputs.width)


class Narrow(Unobserved):
    """It declares that it normalises two numbers."""

    def observe(self, fields):
        return {"norm": fields["user"][:, :2]}


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Unobserved, r"it has a DomainNormalization but no method observe\(fields\)"),
        (Narrow, r"observe of 2 rows returned \{'norm': \[2, 2\]\}, expected \{'norm': \[2, 21\]\}"),
    ],
)
def test_a_users_structure_must_observe_what_it_normalises(structure, message):
    settings = small_settings("mlp")
    inputs = small_inputs(settings, 3)
    assert inputs.width == 21
    with pytest.raises(MamdrError, match=message):
        check_structure("own:Structure", structure(inputs, settings), inputs)
