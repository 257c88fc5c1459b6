"""The gate stops significantly worse models and gives its reasons with figures; days with wrong labels are detected."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.config.promotion import GateSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.parameters import Shared
from mamdr_core.promotion import measuring
from mamdr_core.promotion.judging import calibration, gauc, judge, mean_auc, weighted_auc
from mamdr_core.promotion.measuring import measure
from mamdr_core.promotion.opening import OpenedModel, mask_unknown_ids

KNOWN = {"user": 0.0, "item": 0.0}
ROWS = (900, 0, 600, 300, 2400, 40)


class Echo(nn.Module):
    """A model whose logits are a row's only numeric feature."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, fields):
        return self.scale * fields["numeric"][:, 0]


class Log:
    """Rows of six domains over three days, with a true logit each; a fifth are clicks."""

    def __init__(self, seed=0, rows=ROWS):
        self.random = np.random.default_rng(seed)
        self.counts = torch.tensor(rows)
        self.truth = self.random.normal(size=sum(rows)) * 1.2 - 1.7
        self.labels = (self.random.random(sum(rows)) < 1 / (1 + np.exp(-self.truth))).astype(np.float32)
        self.newest = np.arange(sum(rows)) % 3 == 0

    def model(self, noise=0.3, logits=None, shift=0.0):
        """A model that knows the truth up to some noise."""
        if logits is None:
            logits = self.truth + self.random.normal(size=len(self.truth)) * noise + shift
        domain = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)
        columns = Columns(
            ids={"domain": domain.int() + 1, "user": torch.arange(len(domain)).int() % 5},
            numeric=torch.from_numpy(np.asarray(logits, dtype=np.float32))[:, None],
            labels=torch.from_numpy(self.labels),
            offsets=offsets_of(self.counts),
        )
        engine = EagerEngine(Echo(), (), {}, batch_size=1024)
        return OpenedModel(
            SimpleNamespace(shared=Shared(torch.ones(1), {}), specific={}, calibration=None), engine, columns
        )

    def judge(self, challenger, champion=None, unseen=KNOWN, **limits):
        paired = measure(challenger, champion, self.newest, MetricsSettings())
        return paired, judge(paired, unseen, GateSettings(**limits))


@pytest.fixture
def rows():
    return Log()


def test_figures_equal_those_of_evaluation_whatever_the_batch_of_rows(rows, monkeypatch):
    challenger, champion = rows.model(), rows.model(noise=1.0)
    paired, verdict = rows.judge(challenger, champion)
    columns = challenger.columns
    ids = columns.ids["user"]
    expected = domain_metrics(columns.numeric[:, 0], columns.labels, columns.offsets, None, ids, MetricsSettings())
    np.testing.assert_allclose(paired.challenger.auc, expected.auc, rtol=0, atol=1e-12)
    assert mean_auc(paired.challenger) == pytest.approx(expected.mean_auc(), abs=1e-12)
    assert weighted_auc(paired.challenger) == pytest.approx(expected.weighted_auc(), abs=1e-12)
    total = float((expected.mean_prediction * expected.rows).nansum() / expected.clicks.sum())
    assert calibration(paired.challenger) == pytest.approx(total, abs=1e-9)
    assert verdict.mean.value == pytest.approx(mean_auc(paired.challenger) - mean_auc(paired.champion), abs=1e-12)
    assert verdict.mean.low < verdict.mean.value < verdict.mean.high
    overall = expected.overall()
    assert gauc(paired, paired.challenger) == pytest.approx(overall["gauc"], abs=1e-12)
    assert paired.challenger.calibration_error == pytest.approx(overall["calibration_error"], abs=1e-9)
    assert verdict.gauc.value == pytest.approx(overall["gauc"] - gauc(paired, paired.champion), abs=1e-12)
    assert verdict.gauc.low < verdict.gauc.value < verdict.gauc.high
    monkeypatch.setattr(measuring, "PART_ROWS", 700)
    again, _ = rows.judge(challenger, champion)
    np.testing.assert_array_equal(again.difference, paired.difference)
    np.testing.assert_array_equal(again.variance, paired.variance)
    np.testing.assert_array_equal(again.challenger.group_auc, paired.challenger.group_auc)


def test_an_equal_and_a_better_model_pass(rows):
    assert rows.judge(rows.model(), rows.model())[1].violations == []
    _, verdict = rows.judge(rows.model(noise=0.2), rows.model(noise=2.0))
    assert verdict.violations == []
    assert verdict.mean.low > 0
    assert verdict.worse_n.sum() == 0


def test_a_worse_model_is_stopped_with_the_figures(rows):
    _, verdict = rows.judge(rows.model(noise=2.0), rows.model(noise=0.2))
    assert len(verdict.violations) == 3
    assert "its mean AUC 0." in verdict.violations[0]
    assert "below the champion's 0." in verdict.violations[0]
    assert "95% interval of the difference -0." in verdict.violations[0]
    assert "weighted AUC" in verdict.violations[1]
    assert "of 4 domains are worse by more than gate.domain_drop 0.02" in verdict.violations[2]
    assert not verdict.judged_n[5]  # too few clicks


def test_a_drop_of_gauc_stops_where_it_has_a_limit(rows):
    loose = {"max_auc_drop": 1, "max_weighted_auc_drop": 1, "domain_drop": 1}
    worse, better = rows.model(noise=2.0), rows.model(noise=0.2)
    assert rows.judge(worse, better, **loose)[1].violations == []
    (violation,) = rows.judge(worse, better, **loose, max_gauc_drop=0.01)[1].violations
    assert "its GAUC 0." in violation
    assert "more than gate.max_gauc_drop 0.01" in violation
    one = Log(5, (30, 0))
    for users in (0, 1):  # no group, and one, whose noise is not known
        models = [one.model(noise=noise) for noise in (3.0, 0.1)]
        for model in models:
            model.columns.ids["user"][:] = users
        assert one.judge(*models, **loose, least_auc=0, max_calibration=9, max_gauc_drop=0)[1].violations == []


def test_a_drop_within_its_limit_or_within_noise_stops_nothing(rows):
    worse, better = rows.model(noise=2.0), rows.model(noise=0.2)
    loose = {"max_auc_drop": 0.3, "max_weighted_auc_drop": 0.3, "domain_drop": 0.3}
    assert rows.judge(worse, better, **loose)[1].violations == []
    few = Log(5, (30, 0, 25, 30, 40, 20))
    _, verdict = few.judge(few.model(noise=1.5), few.model(noise=0.9))
    assert verdict.mean.value < -0.005
    assert verdict.violations == []


def test_few_equally_good_models_are_stopped_by_chance():
    stopped = 0
    for seed in range(100):
        rows = Log(seed, (300, 0, 200, 100, 400, 40))
        stopped += bool(rows.judge(rows.model(noise=1.0), rows.model(noise=1.0))[1].violations)
    assert stopped <= 8  # either mean by chance in one of 40, most often together, and several domains


def test_a_day_with_shuffled_labels_is_detected_for_equally_good_models(rows):
    rows.labels[rows.newest] = rows.random.permutation(rows.labels[rows.newest])
    _, verdict = rows.judge(rows.model(), rows.model())
    assert len(verdict.violations) == 1
    assert "the newest day's labels look wrong" in verdict.violations[0]
    assert "its AUC falls from 0." in verdict.violations[0]
    assert "the champion's AUC falls from 0." in verdict.violations[0]
    assert verdict.challenger_lead.earlier > 0.7
    assert abs(verdict.challenger_lead.day - 0.5) < 0.06
    assert abs(verdict.mean.value) < 0.02
    assert rows.judge(rows.model(), rows.model(), least_day_lead=0.0)[1].violations == []
    assert "labels look wrong" in rows.judge(rows.model())[1].violations[0]


def test_labels_are_not_blamed_if_only_the_challenger_fails_on_the_newest_day(rows):
    broken = rows.truth + rows.random.normal(size=len(rows.truth)) * 0.3
    broken[rows.newest] = rows.random.normal(size=rows.newest.sum())
    _, verdict = rows.judge(rows.model(logits=broken), rows.model())
    assert verdict.challenger_lead.is_lost
    assert not verdict.champion_lead.is_lost
    assert not any("labels" in violation for violation in verdict.violations)
    assert any(violation.startswith("its mean AUC") for violation in verdict.violations)


def test_labels_are_not_checked_with_a_single_day(rows):
    rows.newest[:] = True
    _, verdict = rows.judge(rows.model(), rows.model())
    assert (verdict.challenger_lead, verdict.violations) == (None, [])


def test_without_a_champion_the_absolute_limits_hold(rows):
    assert rows.judge(rows.model())[1].violations == []
    _, verdict = rows.judge(rows.model(logits=rows.random.normal(size=len(rows.truth)) - 1.5))
    assert [violation.split(" is ")[0] for violation in verdict.violations] == ["its mean AUC"]
    assert "below gate.least_auc 0.52" in verdict.violations[0]


def test_overprediction_nan_and_unknown_users_are_stopped(rows):
    [violation] = rows.judge(rows.model(shift=2.0), rows.model())[1].violations
    assert "times the clicks, beyond gate.max_calibration 1.5" in violation
    logits = rows.truth.copy()
    logits[950] = np.nan
    assert "its predictions are not finite in 1 domains" in rows.judge(rows.model(logits=logits))[1].violations
    [violation] = rows.judge(rows.model(), rows.model(), unseen={"user": 0.9, "item": 0.1})[1].violations
    assert violation.startswith("the user is unknown in 90.0% of the rows of the newest day, more than gate.max_unseen")


def test_without_a_domain_that_can_be_measured_a_run_is_stopped(rows):
    rows.labels[:] = 0
    [violation] = rows.judge(rows.model())[1].violations
    assert violation == "no domain of the test split has both clicks and other rows: no AUC can be measured"
    nothing = Log(rows=(0, 0))
    assert nothing.judge(nothing.model(), nothing.model())[1].violations == [violation]


def test_ids_beyond_a_models_vocabulary_are_its_unknown_id(rows):
    model = rows.model()
    known = mask_unknown_ids(model.columns, {"user": 2, "domain": 4})
    assert known.ids["user"].unique().tolist() == [0, 1, 2]
    assert known.ids["domain"].unique().tolist() == [0, 1, 3, 4]
    unseen = OpenedModel(model.package, model.engine, known).unseen("user", torch.ones(len(known), dtype=torch.bool))
    assert unseen == pytest.approx(3 / 5, abs=1e-3)


def test_ids_beyond_a_models_vocabulary_leave_bags_with_their_weights():
    tags = torch.tensor([[3, 10, 1], [11, 4, 0], [12, 0, 0]], dtype=torch.int32)
    weights = torch.tensor([[1.0, 9.0, 2.0], [5.0, 3.0, 0.0], [7.0, 0.0, 0.0]])
    ids = {"domain": torch.ones(3, dtype=torch.int32), "tags": tags}
    columns = Columns(ids, torch.zeros(3, 0), torch.zeros(3), torch.tensor([0, 3]), bag_weights={"tags": weights})
    known = mask_unknown_ids(columns, {"domain": 1, "tags": 9})
    assert known.ids["tags"].tolist() == [[3, 1, 0], [4, 0, 0], [0, 0, 0]]
    assert known.bag_weights["tags"].tolist() == [[1, 2, 0], [3, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_auc_drop": -0.1}, r"gate\.max_auc_drop must be in \[0, 1\], got -0\.1"),
        ({"max_worse_share": 2}, r"gate\.max_worse_share must be in \[0, 1\], got 2"),
        ({"confidence": 1.0}, r"gate\.confidence must be between 0 and 1"),
        ({"max_calibration": 0.9}, r"gate\.max_calibration must be >= 1"),
    ],
)
def test_a_limit_out_of_its_range_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        GateSettings(**values)
