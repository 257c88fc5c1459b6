"""Every method trains every structure, and saved parameters predict the same after loading."""

import pytest
import torch

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Theta
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.models.structures import MODELS
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.package import load_package, publish_package, save_rank
from mamdr_core.training.rounds import shuffle_rows
from tests.models.small_structures import MULTI_DOMAIN, featured_columns, small_engine, small_settings

COUNTS = {1: [12], 3: [9, 4, 6]}


def make_learner(structure: str, domains: int) -> Learner:
    engine, shared = small_engine(small_settings(structure, dropout=0.2), domains)
    columns = featured_columns(COUNTS[domains])
    return Learner(
        engine=engine,
        train=columns,
        supports=SupportSample(SingleProcess(), columns, 1024, shuffle_rows(columns, 1, Arrays())),
        shared=shared,
        specific=SpecificStore(range(domains), MemoryBuffer(shared.dense), shared.dense),
        average=lambda change, weight: change,
        settings=LearningSettings(
            inner=InnerSettings(lr=0.01), outer=OuterSettings(beta=0.5), dr=DRSettings(k=2, lr=0.01, gamma=0.5)
        ),
        seed=3,
    )


def rows_of(learner: Learner, domain: int) -> Visit:
    return Visit(learner.train, torch.arange(*learner.train.offsets[domain : domain + 2].tolist()))


def run_one_round(learner: Learner, name: str) -> None:
    domains = len(learner.specific)
    order = torch.randperm(len(learner.train), generator=torch.Generator().manual_seed(1))
    slices = {domain: rows_of(learner, domain).rows for domain in reversed(range(domains))}
    method, round_ = METHODS[name], Round(0, 0, slices, order)
    for make_update in (method.shared, method.specific):
        if make_update:
            make_update(learner)(round_)


def logits(learner: Learner, domain: int, **parameters) -> torch.Tensor:
    theta = Theta(**{"shared": learner.shared, "specific": learner.specific[domain], **parameters})
    return learner.engine.predict(theta, rows_of(learner, domain))


@pytest.mark.parametrize("domains", [1, 3])
@pytest.mark.parametrize("structure", sorted(MODELS))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_round_of_every_method_changes_the_predictions_of_every_structure(method, structure, domains):
    learner = make_learner(structure, domains)
    start = learner.shared.copy()
    before = [logits(learner, domain) for domain in range(domains)]
    run_one_round(learner, method)
    for domain in range(domains):
        after = logits(learner, domain)
        assert after.isfinite().all()
        assert (after - before[domain]).abs().max() > 1e-5
    per_domain = {table.name for table in learner.engine.tables if table.per_domain}
    assert bool(per_domain) == (structure in MULTI_DOMAIN)
    if learner.shared.dense.ne(start.dense).any():  # the weights of every domain change together with theta_S
        biases = [name for name in per_domain if name == "tower.1.bias" or name == "star.2.bias"]
        assert all((learner.shared.tables[name] != start.tables[name])[1:].any(1).all() for name in biases)
    for domain, own in learner.specific.items():
        for name in per_domain & own.rows.keys():
            assert own.rows[name].ids.tolist() == [domain + 1]
        if METHODS[method].specific:
            assert per_domain <= own.rows.keys()
            assert (logits(learner, domain, specific=None) - logits(learner, domain)).abs().max() > 1e-6


@pytest.mark.parametrize("structure", sorted(MODELS))
def test_a_package_predicts_as_the_trained_parameters(tmp_path, structure):
    learner = make_learner(structure, 3)
    run_one_round(learner, "mamdr")
    saved = save_rank(str(tmp_path / "making"), 0, learner.shared, learner.specific)
    texts = {"config.yaml": "", "pinned.json": "{}", "metrics.json": "{}"}
    publish_package(str(tmp_path / "making"), str(tmp_path / "package"), saved, texts)
    package = load_package(str(tmp_path / "package"))
    assert list(package.specific) == [0, 1, 2]
    for domain in range(3):
        found = logits(learner, domain, shared=package.shared, specific=package.specific[domain])
        assert torch.equal(found, logits(learner, domain))
