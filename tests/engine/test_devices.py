"""On a device other than the CPU, tensors stay on it, numbers are the CPU's, and steps do not wait for the device."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.compiled import DenseStep
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Rows, Scope, Shared, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.models.structures import build_model, declare_inputs
from tests.engine.pretended import DEVICE, OnDevice, held_by, pretended_device
from tests.engine.small_models import as_double, random_columns, with_base

CPU = torch.device("cpu")
COUNTS = [9, 1, 13, 0, 30, 7]


class Setting:
    """An engine with its columns and theta_S on a device.

    Args:
        device: where all of it is.
        fields: mlp: trained embeddings; fixed: users have fixed vectors; star: weights of each domain.
        kind: of the engine.
        batch_size: rows of a step at most.
        counts: rows by domain.
    """

    def __init__(
        self,
        device: torch.device,
        fields: str = "mlp",
        kind: type[EagerEngine] = FastEngine,
        batch_size: int = 4,
        counts: list[int] = COUNTS,
    ) -> None:
        self.device, self.counts = device, counts
        settings = ModelSettings(name="star" if fields == "star" else "mlp", embedding_dim=3, hidden=(5,), dropout=0.5)
        feature = Feature(name="age", kind="numeric")
        inputs = declare_inputs(settings, (feature,), {"user": 9, "item": 7, "domain": len(counts)})
        tables = [
            replace(table, trainable=False) if fields == "fixed" and table.name == "user" else table
            for table in inputs.tables
        ]
        inputs = replace(inputs, tables=tuple(tables))
        module = build_model(settings, inputs, seed=1).double()
        generator = torch.Generator().manual_seed(2)
        drawn = {table.name: torch.randn(table.rows, table.width, generator=generator).double() for table in tables}
        frozen = {table.name: drawn.pop(table.name) for table in tables if not table.trainable}
        dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
        self.shared = Shared(dense, drawn).to(device)
        options = {"compiles": False, "group_memory": 1.0} if kind is FastEngine else {}
        self.engine = kind(module, tables, frozen, batch_size, device, **options)
        columns = with_base(as_double(random_columns(counts)))
        columns.base_logits = columns.base_logits.double()
        self.columns: Columns = columns.to(device)

    def visit(self, domain: int, as_domain: int | None = None) -> Visit:
        start, stop = self.columns.offsets[domain : domain + 2].tolist()
        return Visit(self.columns, torch.arange(start, stop, device=self.device), as_domain)

    def specific(self) -> dict[int, Change]:
        generator = torch.Generator().manual_seed(4)
        like = {"generator": generator, "dtype": torch.float64}
        found = {}
        for domain in range(len(self.counts) - 1):
            dense, row = torch.randn(len(self.shared.dense), **like), torch.randn(1, 3, **like)
            rows = Rows(torch.tensor([domain + 1], device=self.device), row.to(self.device))
            found[domain] = Change(dense.to(self.device), {"domain": rows})
        return found

    def negotiate(self) -> list[Change]:
        """DN: two trajectories with carried moments."""
        state = InnerState.zeros_like(self.shared)
        visits = [self.visit(domain) for domain in (4, 0, 2, 1, 3, 5)]
        run = self.engine.descend
        return [run(Theta(self.shared), visits, 0.05, "adam", state, seed=seed) for seed in (3, 4)]

    def descend_by_sgd(self) -> list[Change]:
        """One trajectory without moments."""
        return [self.engine.descend(Theta(self.shared), [self.visit(4), self.visit(2)], 0.05, "sgd", seed=5)]

    def regularize(self) -> list[Change]:
        """DR: a support shown as the target, then the target; the domain's row and some users' may move."""
        specific, domains = self.specific(), range(len(self.counts) - 1)
        users = torch.tensor([1, 4], device=self.device)
        only = [{"domain": torch.tensor([d + 1], device=self.device), "user": users} for d in domains]
        tables = frozenset({"domain"} | ({"user"} & self.shared.tables.keys()))
        return self.engine.descend_many(
            [Theta(self.shared, specific[d]) for d in domains],
            [[self.visit((d + 1) % 6, as_domain=d), self.visit(d)] for d in domains],
            0.05,
            "adam",
            [Scope(tables, own) for own in only],
            [11 + d for d in domains],
        )

    def predict(self) -> list[Change]:
        """Logits of all rows, of most domains at their own theta_i."""
        edges = self.columns.offsets.numpy()
        return [Change(predict_runs(self.engine, self.shared, self.specific(), self.columns, range(6), edges))]


RUNS: dict[str, Callable[[Setting], list[Change]]] = {
    "DN": Setting.negotiate,
    "SGD": Setting.descend_by_sgd,
    "DR": Setting.regularize,
    "prediction": Setting.predict,
}


def assert_on_device_and_same(found: list[Change], expected: list[Change]) -> None:
    for change, wanted in zip(found, expected, strict=True):
        assert isinstance(change.dense, OnDevice)
        assert torch.equal(held_by(change.dense), wanted.dense)
        assert change.rows.keys() == wanted.rows.keys()
        for name, rows in wanted.rows.items():
            assert torch.equal(held_by(change.rows[name].ids), rows.ids)
            assert torch.equal(held_by(change.rows[name].values), rows.values)


@pytest.mark.parametrize("fields", ["mlp", "fixed", "star"])
@pytest.mark.parametrize("run", RUNS)
def test_all_tensors_are_on_the_device_and_results_equal_the_cpus(run, fields):
    expected = RUNS[run](Setting(CPU, fields))
    with pretended_device() as dispatch:
        found = RUNS[run](Setting(DEVICE, fields))
    assert dispatch.operations > 100
    assert_on_device_and_same(found, expected)


@pytest.mark.parametrize("place", ["columns", "theta"])
def test_a_cpu_tensor_among_device_tensors_would_be_detected(place):
    with pretended_device():
        setting, on_cpu = Setting(DEVICE), Setting(CPU)
        if place == "columns":
            setting.columns.labels = on_cpu.columns.labels
        else:
            setting.shared.tables["user"] = on_cpu.shared.tables["user"]
        with pytest.raises(RuntimeError, match="of the CPU and one of the device"):
            setting.negotiate()


def steps_waits(run: str, batch_size: int) -> Counter[tuple[str, str]]:
    """How often the host waits, by place, with steps of a number of rows: one stack, laid out in one segment."""
    with pretended_device() as dispatch:
        setting = Setting(DEVICE, batch_size=batch_size, counts=[30] * 6)
        dispatch.waits.clear()
        RUNS[run](setting)
        return Counter(dispatch.waits)


@pytest.mark.parametrize("run", ["DN", "SGD", "DR"])
def test_steps_do_not_wait_for_the_device(run):
    """Where it waits, it does so once for each stack or segment of steps: as often for thirty steps as for one."""
    assert steps_waits(run, 1) == steps_waits(run, 30)


def test_a_step_that_waits_would_be_detected(monkeypatch):
    gradients_of = DenseStep.gradients

    def waiting(self, *arguments):
        found = gradients_of(self, *arguments)
        found[0].sum().item()
        return found

    monkeypatch.setattr(DenseStep, "gradients", waiting)
    more, fewer = (steps_waits("SGD", batch_size).total() for batch_size in (1, 30))
    assert more - fewer == 60 - 2


def test_all_tensors_of_the_eager_engine_are_on_the_device():
    """Its numbers are not compared: a pretended tensor that torch sets as a parameter's data keeps its own values."""
    with pretended_device():
        setting = Setting(DEVICE, kind=EagerEngine)
        for run in (Setting.negotiate, Setting.regularize):
            assert all(isinstance(change.dense, OnDevice) for change in run(setting))
        assert isinstance(setting.engine.predict(Theta(setting.shared), setting.visit(4)), OnDevice)
        loss, gradient = setting.engine.loss_and_gradient(Theta(setting.shared), setting.visit(2))
        assert loss > 0
        assert isinstance(gradient.dense, OnDevice)
