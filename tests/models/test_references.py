"""Structures of papers since 2020 against their equations, written with plain tensors."""

import pytest
import torch
from torch.nn.functional import layer_norm, relu, softmax

from mamdr_core.config.job_config import load_config
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.own_code import check_own_names
from tests.models.small_structures import small_inputs, small_settings
from tests.models.test_structures import random_fields


def parts(name, **options):
    """A structure, fields of six rows, and the fields side by side [6, 21], the domain's embedding last of the ids."""
    settings = small_settings(name)
    settings = small_settings(name, options={**settings.options, **options})
    inputs = small_inputs(settings, domains=3)
    model, fields = build_model(settings, inputs), random_fields(inputs, 6)
    for parameter in model.parameters():  # also those that start at zero or one
        torch.nn.init.normal_(parameter, std=0.5)
    return model, fields, torch.cat([fields[key] for key in inputs.names], 1)


def network(layers, x):
    """A network of linear layers, with ReLU between them."""
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for place, layer in enumerate(linear):
        x = x @ layer.weight.T + layer.bias
        x = relu(x) if place < len(linear) - 1 else x
    return x


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [0, 3])
def test_dcnv2_multiplies_the_features_by_a_linear_map_of_what_it_has(rank, structure):
    model, fields, x0 = parts("dcnv2", low_rank=rank, structure=structure)
    x = x0
    for layer in model.crosses:
        weight = layer.outer.weight @ layer.inner_RD if rank else layer.outer.weight  # U V^T
        x = x0 * (x @ weight.T + layer.outer.bias) + x
    if structure == "parallel":
        expected = x @ model.cross_out.weight[0] + network(model.deep, x0)[:, 0]
    else:
        expected = network(model.deep, x)[:, 0]
    assert len(model.crosses) == 2
    torch.testing.assert_close(model(fields), expected)


def test_masknet_scales_normalised_embeddings_by_masks_of_the_instance():
    model, fields, _ = parts("masknet")
    e = model.embeddings(fields)
    normal = (e - e.mean(2, keepdim=True)) / (e.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normal = (normal * model.scale_FD + model.shift_FD).flatten(1)
    outputs = []
    for block in model.blocks.values():
        mask = network(block.mask, e.flatten(1))
        assert block.mask[0].out_features == 2 * 7 * 4
        outputs.append(relu(layer_norm((mask * normal) @ block.hidden.weight.T, (4,), block.scale_H, block.shift_H)))
    torch.testing.assert_close(model(fields), network(model.layers, torch.cat(outputs, 1))[:, 0])


def pepnet(model, fields, x, stop):
    """PEPNet; `stop` is what gates read in place of embeddings and of gated embeddings."""
    gated = x * 2 * torch.sigmoid(network(model.embedding_gate.layers, torch.cat([fields["domain"], stop(x)], 1)))
    known = torch.cat([fields[name] for name in ("user", "item", "domain", "values")], 1)  # values: vectors of users
    h, prior = gated, torch.cat([known, stop(gated)], 1)
    for layer, gate in zip(model.hidden, model.unit_gates, strict=True):
        h = 2 * torch.sigmoid(network(gate.layers, prior)) * relu(h @ layer.weight.T + layer.bias)
    return (h @ model.out.weight.T + model.out.bias)[:, 0]


def test_pepnet_gates_embeddings_by_domain_and_units_by_user_item_and_domain():
    model, fields, x = parts("pepnet")
    torch.testing.assert_close(model(fields), pepnet(model, fields, x, lambda read: read))
    for name in ("city", "user", "domain"):
        (found,) = torch.autograd.grad(model(fields).sum(), fields[name])
        (expected,) = torch.autograd.grad(pepnet(model, fields, x, lambda read: read.detach()).sum(), fields[name])
        torch.testing.assert_close(found, expected)
        x = torch.cat([fields[key] for key in model.names], 1)


def test_adasparse_scales_units_by_domain_and_prunes_small_factors():
    model, fields, _ = parts("adasparse", temperature=2.0, threshold=0.5)
    off = []

    def prune(pruner, h):
        v = fields["domain"] @ pruner.from_domain.weight.T + pruner.from_domain.bias + h @ pruner.from_units.weight.T
        factor = 2 * torch.sigmoid(2.0 * v)
        off.append((factor <= 0.5).double().mean())
        return h * factor * (factor > 0.5)

    others = torch.cat([fields[name] for name in ("user", "item", "city", "values", "numeric")], 1)
    h = torch.cat([fields["domain"], prune(model.first, others)], 1)
    for layer, pruner in zip(model.hidden, model.pruners, strict=True):
        h = prune(pruner, relu(h @ layer.weight.T + layer.bias))
    torch.testing.assert_close(model(fields), (h @ model.out.weight.T + model.out.bias)[:, 0])
    assert 0.05 < sum(off) / len(off) < 0.6


@pytest.mark.parametrize("adapters", [1, 5])
def test_hamurs_adapters_are_generated_for_each_row_and_normalised_by_domain(adapters):
    model, fields, x = parts("hamur", adapters=adapters)
    instance = network(model.hyper, x).view(6, 2, 2)
    h, adapted = x, list(model.adapters)
    for n, layer in enumerate(model.hidden):
        h = relu(h @ layer.weight.T + layer.bias)
        if n < 2 - adapters:
            continue
        own = adapted.pop(0)
        rows = []
        for b in range(6):
            down, up = own.left_HR @ instance[b] @ own.right_RA, own.left_AR @ instance[b] @ own.right_RH
            out = torch.sigmoid(h[b] @ down + own.bias_A) @ up + own.bias_H
            scale, shift = (fields[f"adapter.{n}.{name}"][b] for name in ("scale", "shift"))
            normal = (out - out.mean()) / (out.var(unbiased=False) + 1e-5).sqrt()
            rows.append(h[b] + (1 + own.scale_H) * (1 + scale) * normal + own.shift_H + shift)
        h = torch.stack(rows)
    assert not adapted
    torch.testing.assert_close(model(fields), (h @ model.out.weight.T + model.out.bias)[:, 0])


def m3oe(model, fields, x, own_of):
    """M3oE; `own_of` gives the domain's expert and the mean of the others from the pool's outputs."""
    parts_of = ("inputs", "outputs", "bias")
    inputs, outputs, bias = (fields[f"represent.{part}"] for part in parts_of)
    shared = model.represent.shared
    z = []
    for b in range(len(x)):
        weight = shared.weight * torch.outer(1 + outputs[b], 1 + inputs[b])  # STAR's product, of rank one
        z.append(relu(weight @ x[b] + shared.bias + bias[b]))
    z = torch.stack(z)

    def run(experts):
        layer = experts.layers[0]
        return [relu(z @ layer.weight_EOI[e].T + layer.bias_EO[e]) for e in range(len(layer.bias_EO))]

    gate = softmax(z @ model.gate.weight.T + model.gate.bias + fields["domain"] @ model.domain_gate.weight.T, 1)
    mixed = sum(gate[:, e, None] * output for e, output in enumerate(run(model.shared)))
    own, others = own_of(run(model.pool))
    beta = torch.sigmoid(model.beta)
    return network(model.tower, mixed + torch.sigmoid(model.alpha) * (beta * own + (1 - beta) * others))[:, 0]


def test_m3oe_balances_shared_experts_and_those_of_the_domain():
    model, fields, x = parts("m3oe")
    s = softmax(fields["choice.logits"], 1)

    def own_of(pool):
        own = sum(s[:, p, None] * output for p, output in enumerate(pool))
        return own, sum((1 - s[:, p, None]) / 2 * output for p, output in enumerate(pool))

    torch.testing.assert_close(model(fields), m3oe(model, fields, x, own_of))


def test_m3oe_with_an_expert_for_each_domain_is_the_papers():
    model, fields, x = parts("m3oe")
    fields["choice.logits"] = torch.tensor([0.0, 100.0, 0.0]).repeat(6, 1)  # the domain has the second expert
    expected = m3oe(model, fields, x, lambda pool: (pool[1], (pool[0] + pool[2]) / 2))
    torch.testing.assert_close(model(fields), expected)


@pytest.mark.parametrize("name", ["pepnet", "adasparse", "hamur", "m3oe", "dcnv2", "masknet"])
def test_without_ids_and_features_the_domain_alone_is_enough(name):
    settings = small_settings(name, train_ids=False)
    inputs = declare_inputs(settings, (), {"user": 3, "item": 3, "domain": 3})
    assert inputs.names == ("domain",)
    assert build_model(settings, inputs)(random_fields(inputs, 4)).std() > 0


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("dcnv2", "cross_layers: 0", "model.options: cross_layers must be >= 1, got 0"),
        ("dcnv2", "low_rank: -1", "model.options: low_rank must be >= 1, got -1"),
        ("dcnv2", "structure: both", "model.options.structure: Input should be 'parallel' or 'stacked', got 'both'"),
        ("masknet", "reduction: 0", "model.options: reduction must be in (0, 16], got 0.0"),
        ("pepnet", "gate: [0]", "model.options: gate must be >= 1, got (0,)"),
        ("adasparse", "threshold: 1", "model.options: threshold must be in [0, scale / 2), got 1.0"),
        ("adasparse", "temperature: 0", "model.options: temperature must be > 0, got 0.0"),
        ("hamur", "rank: 0", "model.options: rank must be >= 1, got 0"),
        ("m3oe", "domain_experts: 1", "model.options: domain_experts must be >= 2, got 1"),
        ("m3oe", "experts: 1", "model.options.experts: there is no such option; M3oEOptions has representation, "),
        ("mlp", "rank: 1", "model.options has rank, but no options are declared: remove it"),
    ],
)
def test_a_wrong_option_is_named(name, option, message):
    config = load_config(overrides=[f"model.name={name}", f"model.options={{{option}}}"])
    with pytest.raises(MamdrError) as error:
        check_own_names(config)
    assert str(error.value).startswith(message)
