"""What structures are made of, against the equations written out."""

from itertools import combinations

import torch
from torch.nn.functional import relu, softmax

from mamdr_core.models.autoint import InteractingLayer
from mamdr_core.models.deepfm import pair_products
from mamdr_core.models.fields import FieldEmbeddings, FirstOrder
from mamdr_core.models.star import PartitionedNormalization, StarLinear
from mamdr_core.models.structures import build_model
from tests.models.small_structures import small_inputs, small_settings
from tests.models.test_structures import random_fields

INPUTS = small_inputs(small_settings("mlp"), domains=3)  # user, item, domain 4; city 2; values 5; two numbers


def test_pair_products_are_those_of_all_pairs():
    x_BFD = torch.randn(3, 5, 4)
    expected = sum(x_BFD[:, i] * x_BFD[:, j] for i, j in combinations(range(5), 2))
    torch.testing.assert_close(pair_products(x_BFD), expected)


def test_features_of_any_width_become_embeddings_of_one():
    layer, fields = FieldEmbeddings(INPUTS, 4), random_fields(INPUTS, 6)
    x_BFD = layer(fields)
    assert x_BFD.shape == (6, layer.count, 4) == (6, 7, 4)
    for place, name in enumerate(("user", "item", "domain")):
        assert torch.equal(x_BFD[:, place], fields[name])
    for place, name in ((3, "city"), (4, "values")):
        torch.testing.assert_close(x_BFD[:, place], fields[name] @ layer.maps[f"map_{name}"].weight.T)
    for k in range(2):
        torch.testing.assert_close(x_BFD[:, 5 + k], fields["numeric"][:, k, None] * layer.numeric_KD[k])


def test_the_first_order_is_linear_in_ids_and_numbers():
    layer = FirstOrder(INPUTS)
    assert [(table.name, table.column, table.rows, table.std) for table in layer.tables] == [
        ("first_order.user", "user", 10, 0.0),
        ("first_order.item", "item", 8, 0.0),
        ("first_order.domain", "domain", 4, 0.0),
        ("first_order.city", "city", 5, 0.0),
    ]
    fields = random_fields(INPUTS, 6)
    fields |= {table.name: torch.randn(6, 1) for table in layer.tables}
    weights = sum(fields[table.name][:, 0] for table in layer.tables)
    numbers = torch.cat([fields["values"], fields["numeric"]], 1) @ layer.linear.weight[0]
    torch.testing.assert_close(layer(fields), weights + numbers)


def test_an_interacting_layer_is_attention_between_fields():
    layer, x_BFD = InteractingLayer(4, heads=2, head_width=3, dropout=0.0), torch.randn(5, 6, 4)
    heads = []
    for head in range(2):
        rows = slice(3 * head, 3 * head + 3)
        query, key, value = (x_BFD @ part.weight[rows].T for part in (layer.query, layer.key, layer.value))
        heads.append(softmax(query @ key.transpose(1, 2), dim=2) @ value)  # Eq. 5 and 6
    expected = relu(torch.cat(heads, 2) + x_BFD @ layer.residual.weight.T)  # Eq. 7 and 8
    torch.testing.assert_close(layer(x_BFD), expected)


def tower(fields, name, x):
    """A network of a domain's own, layer by layer."""
    layers = sorted(key for key in fields if key.startswith(f"{name}.") and key.endswith(".weight"))
    for place, key in enumerate(layers):
        bias = fields[key.replace("weight", "bias")][0]
        x = x @ fields[key].view(len(bias), -1).T + bias
        x = relu(x) if place < len(layers) - 1 else x
    return x


def parts(name):
    settings = small_settings(name)
    inputs = small_inputs(settings, domains=3)
    model, fields = build_model(settings, inputs), random_fields(inputs, 6)
    return model, fields, torch.cat([fields[key] for key in inputs.names], 1)


def test_shared_bottom_is_a_shared_network_and_a_tower():
    model, fields, x_BD = parts("shared_bottom")
    torch.testing.assert_close(model(fields), tower(fields, "tower", model.bottom(x_BD))[:, 0])


def expert_outputs(experts, fields, x_BD):
    """Each expert's output by itself, [B, H] each."""
    outputs = []
    for e in range(len(experts.layers[0].weight_EOI)):
        h = x_BD
        for layer in experts.layers:
            h = relu(h @ layer.weight_EOI[e].T + layer.bias_EO[e])
        outputs.append(h)
    return outputs


def test_mmoe_mixes_shared_experts_by_the_domains_gate():
    model, fields, x_BD = parts("mmoe")
    gate_BE = softmax(tower(fields, "gate", x_BD), dim=1)
    outputs = expert_outputs(model.experts, fields, x_BD)
    mixed = gate_BE[:, :1] * outputs[0] + gate_BE[:, 1:] * outputs[1]
    torch.testing.assert_close(model(fields), tower(fields, "tower", mixed)[:, 0])


def extracted(level, name, fields, own_BD, shared_BD):
    """A level of PLE, expert by expert: three of the domain's, then two of all."""
    weight, bias = fields[f"{name}.expert.0.weight"].view(3, 4, -1), fields[f"{name}.expert.0.bias"].view(3, 4)
    outputs = [relu(own_BD @ weight[e].T + bias[e]) for e in range(3)] + expert_outputs(level.shared, fields, shared_BD)
    gates = [softmax(tower(fields, f"{name}.gate", own_BD), dim=1)]
    if level.shared_gate is not None:
        gates.append(softmax(level.shared_gate(shared_BD), dim=1))
    return [sum(gate[:, e, None] * output for e, output in enumerate(outputs)) for gate in gates]


def test_cgc_mixes_the_domains_experts_and_the_shared_ones():
    model, fields, x_BD = parts("cgc")
    (own_BD,) = extracted(model.level, "level_0", fields, x_BD, x_BD)
    torch.testing.assert_close(model(fields), tower(fields, "tower", own_BD)[:, 0])


def test_ple_feeds_what_each_gate_extracts_to_the_next_level():
    model, fields, x_BD = parts("ple")
    own_BD, shared_BD = extracted(model.levels[0], "level_0", fields, x_BD, x_BD)
    (own_BD,) = extracted(model.levels[1], "level_1", fields, own_BD, shared_BD)
    torch.testing.assert_close(model(fields), tower(fields, "tower", own_BD)[:, 0])


def test_with_one_level_and_like_sizes_ple_is_cgc():
    cgc, ple = small_settings("cgc"), small_settings("ple")
    ple = small_settings("ple", ple=type(ple.ple)(**{**vars(cgc.cgc), "levels": 1}))
    inputs = [small_inputs(settings, 3) for settings in (cgc, ple)]
    assert inputs[0] == inputs[1]
    fields = random_fields(inputs[0], 6)
    torch.testing.assert_close(build_model(ple, inputs[1], 1)(fields), build_model(cgc, inputs[0], 1)(fields))


def test_a_star_layer_multiplies_the_shared_weights_by_the_domains():
    layer, x_BD = StarLinear("s", INPUTS, 4, 3), torch.randn(5, 4)
    own = {"s.weight": torch.randn(1, 12), "s.bias": torch.randn(1, 3)}
    weight = layer.shared.weight * (1 + own["s.weight"].view(3, 4))
    torch.testing.assert_close(layer(own, x_BD), x_BD @ weight.T + layer.shared.bias + own["s.bias"])
    unmet = {name: torch.zeros_like(values) for name, values in own.items()}
    torch.testing.assert_close(layer(unmet, x_BD), layer.shared(x_BD))


def test_partitioned_normalisation_scales_and_shifts_normalised_rows_by_domain():
    layer, x_BD = PartitionedNormalization("n", INPUTS, 4), 3 + 2 * torch.randn(5, 4)
    torch.nn.init.normal_(layer.scale)
    torch.nn.init.normal_(layer.shift)
    own = {"n.scale": torch.randn(1, 4), "n.shift": torch.randn(1, 4)}
    normal_BD = (x_BD - x_BD.mean(1, keepdim=True)) / (x_BD.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = (1 + layer.scale) * (1 + own["n.scale"]) * normal_BD + layer.shift + own["n.shift"]
    torch.testing.assert_close(layer(own, x_BD), expected)


def test_raws_gate_scales_features_and_passes_no_gradient_on():
    model, fields, x_BD = parts("raw")
    scaled = x_BD * 2 * torch.sigmoid(model.gate(x_BD))
    torch.testing.assert_close(model(fields), model.wide(fields) + model.layers(scaled)[:, 0])
    gate_BD = model.gate(x_BD.detach()).sigmoid().detach()
    (expected,) = torch.autograd.grad(model.layers(x_BD * 2 * gate_BD).sum(), fields["user"])
    (found,) = torch.autograd.grad(model(fields).sum(), fields["user"])
    torch.testing.assert_close(found, expected)


def test_fields_are_joined_as_cat_joins_them():
    model, fields, x_BD = parts("mlp")
    torch.testing.assert_close(model(fields), model.layers(x_BD)[:, 0])
    assert x_BD.shape == (6, 3 * 4 + 2 + 5 + 2)
