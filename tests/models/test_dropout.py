"""Dropout that follows from a key: the same values wherever and beside whatever it is computed."""

import pytest
import torch

from mamdr_core.models.dropout import Dropout


def test_the_share_that_is_dropped_is_the_rate_and_the_mean_stays():
    layer = Dropout(0.3)
    layer.key.fill_(7)
    out = layer(torch.ones(2000, 50))
    assert (out == 0).double().mean() == pytest.approx(0.3, abs=0.005)  # 3.5 standard deviations
    assert out.double().mean() == pytest.approx(1.0, abs=0.007)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


def test_columns_rows_keys_and_layers_are_dropped_independently():
    layers = [Dropout(0.5) for _ in range(4)]
    layers[1].key.fill_(1)
    layers[2].layer = 1
    layers[3].key.fill_(1 << 20)
    kept = torch.stack([layer(torch.ones(400, 100)).ne(0).double() for layer in layers])
    assert (torch.corrcoef(kept.flatten(1)) - torch.eye(4)).abs().max() < 0.02
    assert (torch.corrcoef(kept[0].T) - torch.eye(100)).abs().max() < 0.25  # 5 standard deviations
    assert (torch.corrcoef(kept[0]) - torch.eye(400)).abs().max() < 0.5


def test_padding_rows_change_nothing_and_evaluation_drops_nothing():
    layer = Dropout(0.5)
    x = torch.randn(9, 4)
    assert torch.equal(layer(torch.cat([x, torch.zeros(7, 4)]))[:9], layer(x))
    assert torch.equal(layer.eval()(x), x)


def test_the_gradient_passes_where_values_are_kept():
    layer, x = Dropout(0.5), torch.randn(8, 4, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.ne(0) * 2.0)


def test_a_rate_outside_its_range_is_an_error():
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        Dropout(1)
