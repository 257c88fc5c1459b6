"""Both engines over `random_columns`, trajectories of DR, and the comparison of changes, for several test modules."""

import pytest
import torch

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine import fast as fast_module
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Change, Rows, Scope, Shared, Theta
from mamdr_core.models.structures import build_model
from tests.engine.small_models import as_double, random_columns, small_engine, small_inputs, with_base

COUNTS = [9, 1, 13, 0, 30, 7]
DOMAINS = range(len(COUNTS))
SCOPES = {
    "own domain": [Scope(frozenset({"domain"}), {"domain": torch.tensor([d + 1])}) for d in DOMAINS],
    "everything": [Scope() for _ in DOMAINS],
    "some rows": [Scope(None, {"user": torch.tensor([1, 4]), "domain": torch.tensor([d + 1])}) for d in DOMAINS],
    "some of them some rows": [Scope(None, {"user": torch.tensor([1, 4])} if d % 2 else None) for d in DOMAINS],
}


def fast_engine(dropout: float = 0.5, batch_size: int = 4, double: bool = True, **options) -> FastEngine:
    """The engine of `small_engine`, fast; not compiled by default."""
    inputs = small_inputs(len(COUNTS))
    module = build_model(ModelSettings(hidden=(5,), dropout=dropout), inputs, seed=1)
    module = module.double() if double else module
    return FastEngine(module, inputs.tables, {}, batch_size, **{"compiles": False, **options})


def eager_engine(dropout: float = 0.5, **options) -> tuple[EagerEngine, Shared]:
    """The reference engine, and theta_S."""
    engine, shared = small_engine(len(COUNTS), dropout=dropout)
    engine.on_nan = options.get("on_nan", "stop")
    return engine, shared


def columns_of(counts: list[int] = COUNTS, has_base: bool = False) -> Columns:
    """Random rows in float64."""
    columns = as_double(random_columns(counts))
    return with_base(columns) if has_base else columns


def visit(columns: Columns, domain: int, as_domain: int | None = None) -> Visit:
    """All rows of a domain."""
    start, stop = columns.offsets[domain : domain + 2].tolist()
    return Visit(columns, torch.arange(start, stop), as_domain)


def assert_same(found: Change, expected: Change, atol: float = 1e-10) -> None:
    """The changes have the same rows, and values that differ by `atol` at most."""
    torch.testing.assert_close(found.dense, expected.dense, rtol=0, atol=atol)
    assert found.rows.keys() == expected.rows.keys()
    for name, rows in expected.rows.items():
        assert torch.equal(found.rows[name].ids, rows.ids)
        torch.testing.assert_close(found.rows[name].values, rows.values, rtol=0, atol=atol)


def trajectories(columns: Columns, shared: Shared) -> tuple[list[Theta], list[list[Visit]]]:
    """DR's: a support of other columns, shown as the target, then the target; theta_i is not zero."""
    supports = columns_of([6] * len(COUNTS), columns.base_logits is not None)
    generator = torch.Generator().manual_seed(4)
    like = {"generator": generator, "dtype": shared.dense.dtype}
    thetas = [
        Theta(
            shared,
            Change(
                0.1 * torch.randn(len(shared.dense), **like),
                {"domain": Rows(torch.tensor([d + 1]), torch.randn(1, 3, **like))},
            ),
        )
        for d in DOMAINS
    ]
    return thetas, [[visit(supports, (d + 1) % 6, as_domain=d), visit(columns, d)] for d in DOMAINS]


def limited(monkeypatch: pytest.MonkeyPatch, most: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Let stacks of more trajectories run out of memory; the sizes of those that are tried."""
    run, sizes = fast_module.open_stack, []

    def open_stack(stack, *more):
        sizes.append(len(stack))
        if len(stack) > most:
            raise error("DefaultCPUAllocator: can't allocate memory")
        return run(stack, *more)

    monkeypatch.setattr(fast_module, "open_stack", open_stack)
    return sizes
