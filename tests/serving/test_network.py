"""The exported module predicts as the run, for every structure, with replicated and sharded tables."""

import numpy as np
import pytest
import torch

from mamdr_core.engine.isotonic import Curve
from mamdr_core.engine.platt import Calibration
from mamdr_core.models.structures import MODELS
from mamdr_core.serving.files import compare, write_files
from mamdr_core.serving.network import ServedNetwork
from mamdr_core.serving.scorer import Scorer
from mamdr_core.training.package import load_shared
from tests.serving.saved_run import LOOK, VECTORS, make_served


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_network_predicts_as_the_run_in_known_and_unknown_domains(tmp_path, name):
    served = make_served(tmp_path, name=name)
    network = ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS).eval()
    difference = compare(network, Scorer(served, VECTORS), served, [-1, 0, 3, 5])
    assert difference < 1e-6


@pytest.mark.slow
def test_statistics_by_domain_are_exported_as_the_run_has_them(tmp_path):
    served = make_served(tmp_path, name="star", star={"auxiliary": [4], "normalization": "partitioned"})
    shared, scorer = load_shared(tmp_path), Scorer(served, VECTORS)
    network = ServedNetwork(served, shared, served.specific(), VECTORS).eval()
    for call in write_files(network, served, tmp_path, onnx=True).values():
        assert compare(call, scorer, served, [-1, 0, 3, 5]) < 1e-5
    for name, domain in (("mean", 3), ("variance", 3), ("mean", 5), ("variance", -1)):  # 5 and -1 have no theta_i
        table = f"normalization.{name}"
        shared.tables[table][domain + 1] += 0.1
        changed = ServedNetwork(served, shared, served.specific(), VECTORS).eval()
        assert compare(changed, scorer, served, [domain]) > 1e-4
        assert compare(changed, scorer, served, [0]) < 1e-6
        shared.tables[table][domain + 1] -= 0.1


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_mixed_model_saved_by_any_number_of_ranks_is_served(tmp_path, ranks):
    """w_i, effects of users and items, and of a user within a domain; domain 5 has no rows."""
    served = make_served(tmp_path, ranks, method="mixed")
    mixed = served.mixed(served.engine(VECTORS))
    assert mixed.effects[2].variance > 0.1
    scorer = Scorer(served, VECTORS)
    assert scorer.domains == {0, 1, 2, 3}
    shared = load_shared(tmp_path)
    network = ServedNetwork(served, shared, {}, VECTORS, mixed).eval()
    assert compare(network, scorer, served, [-1, 0, 3, 5]) < 1e-6
    mixed.effects[2].values_K.zero_()
    without = ServedNetwork(served, shared, {}, VECTORS, mixed).eval()
    assert compare(without, scorer, served, [0]) > 0.1
    assert compare(without, scorer, served, [-1, 5]) < 1e-6
    alone = ServedNetwork(served, shared, {}, VECTORS).eval()
    assert compare(alone, scorer, served, [5]) > 1e-2


CALIBRATION = Calibration(torch.linspace(0.3, 2, 7).double(), torch.linspace(-2, 1, 7).double())


CURVE = Curve(torch.tensor([-0.6, -0.2, 0.1]).double(), torch.tensor([-1.5, -0.1, 0.0]).double())
CURVED = Calibration(CALIBRATION.slope_K, CALIBRATION.shift_K, CURVE)


@pytest.mark.parametrize(
    ("calibration", "rate"), [(CALIBRATION, 1.0), (None, 0.1), (CALIBRATION, 0.1), (CURVED, 1.0), (CURVED, 0.1)]
)
def test_calibration_and_negative_rate_apply_to_batches_and_to_the_module(tmp_path, calibration, rate):
    plain, served = (make_served(tmp_path / name, **more) for name, more in (
        ("plain", {}), ("served", {"calibration": calibration, "negative_rate": rate})
    ))  # fmt: skip
    shared, scorer = load_shared(tmp_path / "served"), Scorer(served, VECTORS)
    network = ServedNetwork(served, shared, served.specific(), VECTORS, None, served.calibration()).eval()
    assert compare(network, scorer, served, [-1, 0, 3, 5]) < 1e-6

    def by_hand(features, domain):
        before = ServedNetwork(plain, shared, plain.specific(), VECTORS).eval()(features, domain)
        slope, shift = (
            (each[domain + 1] for each in (CALIBRATION.slope_K, CALIBRATION.shift_K)) if calibration else (1, 0)
        )
        logits = before.logit()
        if calibration is CURVED:  # interpolated between its points, with slope 1 beyond the first and the last
            within = np.interp(logits, CURVE.knots_J, CURVE.values_J)
            logits = torch.from_numpy(within).float() + (logits - logits.clamp(-0.6, 0.1))
        probability = (slope * logits + shift).sigmoid()
        return probability / (probability + (1 - probability) / rate)

    assert compare(by_hand, scorer, served, [-1, 0, 3, 5]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "deepfm"])
def test_bags_sequences_and_vectors_are_exported(tmp_path, name):
    """Some rows have empty bags or sequences, or ids beyond the vocabulary between known ones."""
    served, vectors = make_served(tmp_path, several=True, name=name), VECTORS | LOOK
    shared = load_shared(tmp_path)
    network, scorer = ServedNetwork(served, shared, served.specific(), vectors).eval(), Scorer(served, vectors)
    assert compare(network, scorer, served, [-1, 0, 3, 5]) < 1e-6
    for call in write_files(network, served, tmp_path, onnx=True).values():
        assert compare(call, scorer, served, [-1, 0, 3, 5]) < 1e-5
    shared.tables["item"] += 1.0
    shared.tables["taste"] += 1.0
    changed = ServedNetwork(served, shared, served.specific(), vectors).eval()
    assert compare(changed, scorer, served, [0]) > 1e-3


@pytest.mark.slow
def test_exported_files_of_a_mixed_model_predict_as_the_run(tmp_path):
    served = make_served(tmp_path, method="mixed", calibration=CURVED, negative_rate=0.5)
    mixed = served.mixed(served.engine(VECTORS))
    network = ServedNetwork(served, load_shared(tmp_path), {}, VECTORS, mixed, served.calibration()).eval()
    for call in write_files(network, served, tmp_path, onnx=True).values():
        assert compare(call, Scorer(served, VECTORS), served, [-1, 0, 3, 5]) < 1e-5


def test_predictions_depend_on_theta_i_and_the_domain(tmp_path):
    served = make_served(tmp_path)
    whole = ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS).eval()
    without = ServedNetwork(served, load_shared(tmp_path), {}, VECTORS).eval()
    scorer = Scorer(served, VECTORS)
    assert compare(without, scorer, served, [0]) > 1e-3
    assert compare(without, scorer, served, [-1, 5]) < 1e-6
    assert compare(lambda features, domain: whole(features, domain + 1), scorer, served, [0]) > 1e-3


def test_tables_are_read_from_the_files_of_several_ranks(tmp_path):
    whole, sharded = make_served(tmp_path / "whole"), make_served(tmp_path / "sharded", ranks=3)
    assert "shared-00002.safetensors" in sharded.files
    for name, table in whole.shared().tables.items():
        ids = torch.tensor([len(table) - 1, 0, 3, 4, 3])
        assert torch.equal(sharded.shared().tables[name][ids], table[ids])
    network = ServedNetwork(whole, load_shared(tmp_path / "whole"), whole.specific(), VECTORS).eval()
    assert compare(network, Scorer(sharded, VECTORS), sharded, [-1, 2]) < 1e-6


def test_theta_i_with_rows_of_users_cannot_be_exported(tmp_path):
    served = make_served(tmp_path, touched=True)
    with pytest.raises(ValueError, match=r"theta_i of domain 0 holds rows of (user|item|weekday)"):
        ServedNetwork(served, load_shared(tmp_path), served.specific(), VECTORS)
