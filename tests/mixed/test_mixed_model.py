"""The mixed model: recovered variances, leave-one-out logits, unknown ids, and any number of ranks."""

from dataclasses import replace

import pytest
import torch

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.files.state_files import read_state, write_state
from tests.mixed.drawn_rows import ITEMS, USERS, draw_columns, fitted, make_model, of_rank

MEAN, TAU = [-0.3, 0.5, 0.0, -0.5], [0.3, 0.8, 0.1, 0.4]


def test_the_prior_of_domains_and_variances_of_users_and_items_are_recovered():
    """Deviations within 30%, since the Laplace approximation shrinks those of effects with few rows."""
    columns, weights_nF = draw_columns([80] * 150, MEAN, TAU, user=0.7, item=0.5)
    model = fitted(columns, effects=("user", "item"))
    prior = model.weights.prior
    torch.testing.assert_close(prior.mean_F, torch.tensor(MEAN), rtol=0, atol=0.1)
    torch.testing.assert_close(prior.tau_F, torch.tensor(TAU), rtol=0.3, atol=0.05)
    assert [effect.variance**0.5 for effect in model.effects] == pytest.approx([0.7, 0.5], rel=0.3)
    errors_F = (model.weights.weights_DF - weights_nF).square().mean(0).sqrt()
    spread_F = (weights_nF - weights_nF.mean(0)).square().mean(0).sqrt()  # the error of one w for all domains
    assert (errors_F < spread_F).all()
    assert errors_F[1] < 0.4 * spread_F[1]


def test_the_variance_of_users_within_a_domain_is_recovered():
    columns, _ = draw_columns([200] * 50, MEAN, TAU, pair=0.8, users=20)
    model = fitted(columns, effects=("user_in_domain",))
    assert model.effects[0].variance ** 0.5 == pytest.approx(0.8, rel=0.3)


def test_domains_with_equal_rows_have_equal_weights():
    """The prior collapses, and its mean is the logistic regression over all rows."""
    one, _ = draw_columns([60], [-0.3, 0.8], [0.0, 0.0])
    ids = {name: values.repeat(20) for name, values in one.ids.items()}
    ids["domain"] = torch.arange(1, 21).repeat_interleave(60).int()
    counts_n = torch.full((20,), 60)
    columns = Columns(ids, one.numeric.repeat(20, 1), one.labels.repeat(20), offsets_of(counts_n))
    model = fitted(columns, effects=())
    assert model.weights.prior.tau_F.max() < 2e-3
    mean_F = model.weights.prior.mean_F
    assert (model.weights.weights_DF - mean_F).abs().max() < 1e-4
    phi_NF = model.design.rows(columns, torch.arange(len(columns)))
    slope_F = phi_NF.T @ (columns.labels - (phi_NF @ mean_F).sigmoid()) / len(columns)
    assert slope_F.abs().max() < 1e-3


def unknown(columns, *names):
    """Replace the ids in some columns by the unknown id."""
    ids = columns.ids | {name: torch.zeros_like(columns.ids[name]) for name in names}
    return Columns(ids, columns.numeric, columns.labels, columns.offsets)


def test_an_unknown_id_has_effect_zero_and_a_new_domain_the_mean_of_the_prior():
    columns, _ = draw_columns([40] * 30, MEAN, TAU, user=0.7, item=0.5)
    model = fitted(columns)
    phi_NF = model.design.rows(columns, torch.arange(len(columns)))
    by_weights_N = (phi_NF * model.weights.weights_DF.repeat_interleave(40, 0)).sum(1)
    torch.testing.assert_close(model.predict(unknown(columns, "user", "item")), by_weights_N)
    by_mean_N = phi_NF @ model.weights.prior.mean_F
    torch.testing.assert_close(model.predict(unknown(columns, "user", "item", "domain")), by_mean_N)
    assert (model.predict(columns) - by_weights_N).abs().max() > 0.5  # known ids have effects
    assert model.variance(unknown(columns, "domain")).mean() > model.variance(columns).mean()


def test_rows_of_the_unknown_id_have_no_effect():
    columns, _ = draw_columns([40] * 30, [2.0, 0.5], [0.3, 0.3])
    without = fitted(columns, effects=("item",))
    model = fitted(unknown(columns, "user"), effects=("user", "item"))
    torch.testing.assert_close(model.predict(unknown(columns, "user")), without.predict(columns), rtol=0, atol=1e-3)


def test_leave_one_out_logits_approximate_a_fit_without_the_row():
    """Within .06 of a new fit, priors and variances included; the plain logits differ by more than .1 on average.

    Half of the rows have the unknown user, whose effect is 0 in both.
    """
    columns, _ = draw_columns([30] * 20, MEAN, TAU, user=2.0, item=0.5, users=60, seed=3)
    columns.ids["user"][:300] = 0
    model = fitted(columns)
    plain_N, left_out_N = model.predict(columns), model.leave_one_out(columns)
    checked = list(range(0, 600, 60))
    others = [(torch.arange(600) != row).nonzero().squeeze(1) for row in checked]
    expected = torch.stack(
        [fitted(columns.take(rows)).predict(columns)[row] for row, rows in zip(checked, others, strict=True)]
    )
    assert (left_out_N[checked] - expected).abs().max() < 0.06
    assert (plain_N[checked] - expected).abs().mean() > 0.1


def test_a_constant_feature_changes_no_prediction():
    columns, _ = draw_columns([30] * 20, MEAN, TAU, user=0.7)
    constant = torch.cat([columns.numeric, torch.full((600, 1), 7.0)], 1)
    widened = Columns(columns.ids, constant, columns.labels, columns.offsets)
    found_N = fitted(widened).predict(widened)
    torch.testing.assert_close(found_N, fitted(columns).predict(columns), rtol=0, atol=1e-3)


def test_a_feature_that_is_missing_in_a_domain_has_the_mean_of_the_prior():
    """Missing values are zeros, the mean of this feature over all rows."""
    columns, _ = draw_columns([30] * 20, MEAN, TAU, user=0.7)
    columns.numeric[:30, 0] = 0
    columns.numeric[30:, 0] -= columns.numeric[30:, 0].mean()
    model = fitted(columns)
    column = model.design.names.index("numeric.0")
    prior = model.weights.prior
    assert prior.tau_F[column] > 0.1
    assert model.weights.weights_DF[0, column] == pytest.approx(float(prior.mean_F[column]), abs=1e-4)
    assert model.weights.variances_DF[0, column] == pytest.approx(float(prior.tau_F[column] ** 2), rel=0.05)
    assert (model.weights.weights_DF[1:, column] - prior.mean_F[column]).abs().min() > 1e-3


def test_phi_consists_of_products_of_vectors_vectors_and_numeric_features():
    tables = [Table(f"{of}_vector", of, 3, 2, trainable=False) for of in ("user", "item")]
    frozen = {
        "user_vector": torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]),
        "item_vector": torch.tensor([[0.0, 0.0], [5.0, 6.0], [7.0, 8.0]]),
    }
    ids = {"user": torch.tensor([1, 2]), "item": torch.tensor([2, 0]), "domain": torch.tensor([1, 1])}
    columns = Columns(ids, torch.tensor([[9.0], [9.0]]), torch.zeros(2), torch.tensor([0, 2]))
    design = Design(tables, frozen, 1, factors=2)
    assert design.names[:3] == ("bias", "user*item.0", "user*item.1")
    assert design.names[3:] == ("user_vector.0", "user_vector.1", "item_vector.0", "item_vector.1", "numeric.0")
    expected = [[1.0, 7.0, 16.0, 1.0, 2.0, 7.0, 8.0, 9.0], [1.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 9.0]]
    assert design.rows(columns, torch.tensor([0, 1])).tolist() == expected
    design.standardise(columns, SingleProcess())
    standard_MF = design.rows(columns, torch.tensor([0, 1]))
    assert standard_MF.tolist() == [
        [1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 0.0],
        [1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.0],
    ]
    assert len(Design(tables, frozen, 1, factors=0)) == len(design) - 2


@pytest.fixture(scope="module")
def rows():
    """Rows of seven domains, one of them without rows and one with a single row."""
    return draw_columns([50, 1, 30, 0, 40, 25, 60], MEAN, TAU, user=0.7, item=0.5)[0]


OWNER_OF = {1: [0] * 7, 2: [1, 0, 1, 0, 0, 1, 0], 3: [2, 1, 0, 2, 1, 0, 2], 4: [3, 0, 0, 1, 3, 0, 3]}
"""By number of ranks, the owner of each domain; of four ranks one has no rows, and one has no domain."""


def in_place(columns, owner_n, parts):
    """Merge values of the ranks' rows in the order of all rows."""
    whole_N = torch.empty(len(columns))
    owner_N = owner_n[columns.ids["domain"].long() - 1]
    for rank, part in enumerate(parts):
        whole_N[owner_N == rank] = part
    return whole_N


@pytest.mark.parametrize("ranks", [2, 4])
def test_several_ranks_fit_the_same_model_as_one_process(rows, ranks):
    """Up to rounding, since sums over domains have another order."""
    owner_n = torch.tensor(OWNER_OF[ranks])

    def train(collective):
        own = of_rank(rows, owner_n, collective.rank)
        model = make_model(own, collective)
        return model.fit(own), model.predict(own), model.leave_one_out(own), model.variance(own)

    sweeps, *found = zip(*run_simulated(train, ranks), strict=True)
    model = make_model(rows)
    assert set(sweeps) == {model.fit(rows)}
    for parts, whole_N in zip(
        found, (model.predict(rows), model.leave_one_out(rows), model.variance(rows)), strict=True
    ):
        torch.testing.assert_close(in_place(rows, owner_n, parts), whole_N, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_state_written_by_two_ranks_is_read_by_any_number_of_ranks(rows, ranks, tmp_path):
    writer_n, reader_n = torch.tensor(OWNER_OF[2]), torch.tensor(OWNER_OF[ranks])

    def write(collective):
        own = of_rank(rows, writer_n, collective.rank)
        model = make_model(own, collective)
        model.fit(own)
        write_state(tmp_path, collective.rank, model.state_dict(), "mixed-")
        return model.predict(own), model.leave_one_out(own)

    def read(collective):
        own = of_rank(rows, reader_n, collective.rank)
        model, is_own = make_model(own, collective), reader_n == collective.rank
        model.load_state_dict(read_state(tmp_path, collective.rank, ranks, is_own, prefix="mixed-"))
        return model.predict(own), model.leave_one_out(own)

    expected = [in_place(rows, writer_n, parts) for parts in zip(*run_simulated(write, 2), strict=True)]
    found = [in_place(rows, reader_n, parts) for parts in zip(*run_simulated(read, ranks), strict=True)]
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)  # batches have other domains
    served = MixedModel.from_state(
        MixedSettings(),
        (),
        {},
        3,
        {"user": USERS, "item": ITEMS, "domain": 7},
        read_state(tmp_path, 0, 1, torch.ones(7, dtype=torch.bool), prefix="mixed-"),
    )
    assert torch.equal(served.predict(rows), expected[0])


def test_the_error_for_a_state_of_another_model_names_the_tensor(rows):
    state = fitted(rows, sweeps=1).state_dict()
    other = draw_columns([5], [0.0, 0.0], [0.0, 0.0])[0]
    with pytest.raises(MamdrError, match=r"another model: its design\.mean is not float64 of the shape \[2\]"):
        make_model(other).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"effects": ("user", "user")}, r"mixed\.effects must differ, got \['user', 'user'\]"),
        ({"sweeps": 0}, r"mixed\.sweeps must be >= 1, got 0"),
        ({"variance": 0.0}, r"mixed\.variance must be > 0, got 0\.0"),
        ({"tolerance": float("nan")}, r"mixed\.tolerance must be > 0, got nan"),
    ],
)
def test_errors_name_the_setting_and_its_value(settings, message):
    with pytest.raises(ValueError, match=message):
        MixedSettings(**settings)


def test_sample_weights_are_relative_and_add_no_evidence():
    """Equal weights change nothing, and labels of rows with weight zero have no effect."""
    columns, _ = draw_columns([40] * 20, MEAN, TAU, user=0.5)
    plain = fitted(columns, effects=("user",))
    equal = fitted(replace(columns, weights=torch.full((len(columns),), 3.0)), effects=("user",))
    torch.testing.assert_close(equal.predict(columns), plain.predict(columns))
    kept_N = torch.arange(len(columns)) % 2 == 0
    weighted = replace(columns, weights=kept_N.float())
    found = fitted(weighted, effects=("user",))
    flipped = replace(weighted, labels=torch.where(kept_N, columns.labels, 1 - columns.labels))
    torch.testing.assert_close(fitted(flipped, effects=("user",)).predict(columns), found.predict(columns))
    assert (found.predict(columns) - plain.predict(columns)).abs().mean() > 0.1
    moved_N = (found.leave_one_out(weighted) - found.predict(columns)).abs()
    assert moved_N[~kept_N].max() < 1e-4
    assert moved_N[kept_N].min() > 1e-3
