"""The eager reference engine: the three primitives that carry every learning method, step by step.

Every faster engine must give the same numbers as this one.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns, FrozenTables, Visit
from mamdr_core.engine.drawing import draw_rows
from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.hashing import step_keys
from mamdr_core.engine.optimizers import AdamMoments, AdamState, adam_change
from mamdr_core.engine.parameters import EVERYTHING, Change, Rows, Scope, Shared, Theta
from mamdr_core.errors import DivergedError
from mamdr_core.models.tables import Table

logger = logging.getLogger(__name__)
PREDICT_ROWS = 16_384


@dataclass
class _WorkingTable:
    """The rows of one embedding table that a trajectory meets: the paper's static and dynamic cache (section 4.5)."""

    ids_U: Tensor
    static_UD: Tensor
    dynamic_UD: Tensor
    trains: bool
    may_move_U: Tensor | None
    moments: AdamMoments | None
    step_before: int  # of Adam when `moments` were zero
    local: list[Tensor]  # by visit, places in ids_U, int64 [M]

    def change(self) -> Rows:
        """Dynamic - static, of the rows that may move."""
        if self.may_move_U is None:
            return Rows(self.ids_U, self.dynamic_UD - self.static_UD)
        moved = self.may_move_U
        return Rows(self.ids_U[moved], self.dynamic_UD[moved] - self.static_UD[moved])


class EagerEngine:
    """Runs trajectories of a model over columns.

    Args:
        module: `logits_B = module(fields)`, fields by name [B, D].
        tables: the embedding tables that feed it.
        frozen: fixed vectors by table name.
        batch_size: rows of an inner step at most.
        device: where to compute; columns may lie elsewhere.
        on_nan: what a step does whose loss is not finite: stop with an error, or skip its rows, as if their gradient
            were zero.

    Attributes:
        skipped: steps skipped so far.
        waited: seconds that steps have waited for their rows so far.
    """

    def __init__(
        self,
        module: nn.Module,
        tables: Sequence[Table],
        frozen: FrozenTables,
        batch_size: int,
        device: torch.device | str = "cpu",
        on_nan: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.flat = FlatModule(module, device)
        self.tables = tuple(tables)
        self.frozen = {name: vectors.to(device) for name, vectors in frozen.items()}
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.on_nan = on_nan
        self.skipped = 0
        self.waited = 0.0

    @property
    def trained_tables(self) -> list[Table]:
        """The embedding tables that learn."""
        return [table for table in self.tables if table.trainable]

    def gradient(self, theta: Theta, visit: Visit) -> Change:
        """The gradient of the mean loss over all of a visit's rows at `theta`, dropout off."""
        self.flat.load(theta.dense, training=False)
        working = {table.name: self._open(theta, table, [visit], EVERYTHING, None) for table in self.trained_tables}
        everything = slice(0, len(visit.rows))
        _, embedded = self._backward(visit, 0, everything, working)
        rows = {}
        for name, table in working.items():
            values_UD = torch.zeros_like(table.static_UD).index_add_(0, table.local[0], embedded[name])
            rows[name] = Rows(table.ids_U, values_UD)
        return Change(self.flat.gradients_P.clone(), rows)

    def descend(
        self,
        theta: Theta,
        visits: Sequence[Visit],
        lr: float,
        optimizer: str = "adam",
        state: AdamState | None = None,
        scope: Scope = EVERYTHING,
        seed: int = 0,
    ) -> Change:
        """One trajectory: visit after visit, batch after batch (Alg. 1, lines 4-6).

        Args:
            theta: where it starts; not changed.
            visits: what it meets, in order.
            lr: inner learning rate alpha.
            optimizer: "adam" or "sgd".
            state: Adam's moments to carry on and advance in place; None, or a table that it lacks: fresh ones.
            scope: what may change.
            seed: decides dropout.

        Returns:
            theta~ - theta.

        Raises:
            DivergedError: a loss is not finite, and `on_nan` is stop.
        """
        self.flat.load(theta.dense, training=True)
        start_P = self.flat.values_P.clone()
        adam = optimizer == "adam"
        moments = None
        if adam:
            moments = state.dense if state else AdamMoments.zeros_like(start_P)
        working = {
            table.name: self._open(theta, table, visits, scope, state, adam=adam) for table in self.trained_tables
        }
        before = step = state.step if state else 0
        keys_S = step_keys([seed], sum(len(visit.batches(self.batch_size)) for visit in visits))[:, 0]
        for number, visit in enumerate(visits):
            for batch, rows in enumerate(visit.batches(self.batch_size)):
                self._set_dropout(int(keys_S[step - before]))
                step += 1
                loss, embedded = self._backward(visit, number, rows, working)
                if not math.isfinite(loss):
                    self.meet_divergence(visit, number, batch, step)
                    self.flat.gradients_P.zero_()
                    embedded = {name: torch.zeros_like(gradient_BD) for name, gradient_BD in embedded.items()}
                self.flat.values_P -= _update(self.flat.gradients_P, moments, step, lr)
                for name, gradient_BD in embedded.items():
                    _step_rows(working[name], working[name].local[number][rows], gradient_BD, step, lr)
        if state:
            state.step = step
            _write_moments(state, working)
        rows_changed = {name: table.change() for name, table in working.items() if table.trains}
        return Change(self.flat.values_P - start_P, rows_changed)

    def descend_many(
        self,
        thetas: Sequence[Theta],
        visits: Sequence[Sequence[Visit]],
        lr: float,
        optimizer: str,
        scopes: Sequence[Scope],
        seeds: Sequence[int],
    ) -> list[Change]:
        """Independent trajectories, each with a fresh optimizer state; see `descend`."""
        return [
            self.descend(theta, own_visits, lr, optimizer, None, scope, seed)
            for theta, own_visits, scope, seed in zip(thetas, visits, scopes, seeds, strict=True)
        ]

    def meet_divergence(self, visit: Visit, number: int, batch: int, step: int) -> None:
        """Stop at a step whose loss is not finite, or count it as skipped.

        Args:
            visit: that it belongs to, the `number`-th of its trajectory, from 0.
            batch: of the visit, from 0.
            step: Adam's count at the step, from 1.
        """
        where = f"step {step}, batch {batch + 1} of visit {number + 1}"
        domains = visit.ids("domain").unique() - 1
        error = DivergedError(int(domains) if len(domains) == 1 else None, where)
        if self.on_nan == "stop":
            raise error
        self.skipped += 1
        if self.skipped == 1:
            logger.warning("%s (said once; the run's figures count such steps)", error)

    def _set_dropout(self, key: int) -> None:
        for buffer in self.flat.keys:
            buffer.fill_(key)

    @torch.no_grad()
    def predict(self, theta: Theta, visit: Visit) -> Tensor:
        """Logits of a visit's rows at `theta`, float32 [M], dropout off."""
        self.flat.load(theta.dense, training=False)
        logits = []
        for rows in visit.rows.split(PREDICT_ROWS):
            part = Visit(visit.columns, rows, visit.as_domain)
            fields = {
                table.name: theta.gather(table.name, part.ids(table.column).to(self.device))
                for table in self.trained_tables
            }
            logits.append(self.flat.module(self._fields(part, slice(0, len(rows)), fields)))
        return torch.cat(logits) if logits else torch.zeros(0, device=self.device)

    def _open(
        self,
        theta: Theta,
        table: Table,
        visits: Sequence[Visit],
        scope: Scope,
        state: AdamState | None,
        adam: bool = False,
    ) -> _WorkingTable:
        """Gather the rows of `table` that `visits` meet."""
        met = [visit.ids(table.column).to(self.device) for visit in visits]
        nothing = torch.zeros(0, dtype=torch.long, device=self.device)
        ids_U, local = torch.cat([nothing, *met]).unique(return_inverse=True)
        static_UD = theta.gather(table.name, ids_U)
        trains = scope.covers(table.name)
        only = (scope.only or {}).get(table.name)
        moments = None
        step_before = state.step if state else 0
        if trains and adam:
            moments = AdamMoments.zeros_like(static_UD)
            if state and table.name in state.tables:
                whole = state.tables[table.name]
                moments = AdamMoments(whole.first[ids_U], whole.second[ids_U])
                step_before = 0
        return _WorkingTable(
            ids_U=ids_U,
            static_UD=static_UD,
            dynamic_UD=static_UD.clone() if trains else static_UD,
            trains=trains,
            may_move_U=None if only is None else torch.isin(ids_U, only),
            moments=moments,
            step_before=step_before,
            local=list(local.split([len(ids) for ids in met])),
        )

    def _backward(
        self, visit: Visit, number: int, rows: slice, working: dict[str, _WorkingTable]
    ) -> tuple[float, dict[str, Tensor]]:
        """Leave the dense gradient of a batch's mean loss in the flat buffer.

        Returns:
            The loss, and the gradient of each trained embedding [B, D].
        """
        fields = {
            name: table.dynamic_UD[table.local[number][rows]].requires_grad_(table.trains)
            for name, table in working.items()
        }
        self.flat.gradients_P.zero_()
        logits_B = self.flat.module(self._fields(visit, rows, fields))
        labels_B = visit.columns.labels[visit.rows[rows]].to(self.device)
        loss = binary_cross_entropy_with_logits(logits_B, labels_B)
        loss.backward()
        return loss.item(), {name: field.grad for name, field in fields.items() if field.grad is not None}

    def _fields(self, visit: Visit, rows: slice, embedded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add fixed vectors and numeric features to the embedded fields of a batch."""
        columns: Columns = visit.columns
        places_B = visit.rows[rows]
        fields = dict(embedded)
        for table in self.tables:
            if not table.trainable:
                ids_B = columns.ids[table.column][places_B].to(self.device)
                fields[table.name] = self.frozen[table.name][ids_B.long()]
        if columns.numeric.shape[1]:
            fields["numeric"] = columns.numeric[places_B].to(self.device)
        return fields


def _update(gradient: Tensor, moments: AdamMoments | None, step: int, lr: float) -> Tensor:
    if moments is None:
        return lr * gradient
    return adam_change(gradient, moments.first, moments.second, step, lr)


def _step_rows(table: _WorkingTable, local_B: Tensor, gradient_BD: Tensor, step: int, lr: float) -> None:
    """Update only the rows that a batch touched; a row that occurs twice is updated once with the summed gradient."""
    place_V, inverse_B = local_B.unique(return_inverse=True)
    gradient_VD = gradient_BD.new_zeros(len(place_V), gradient_BD.shape[1]).index_add_(0, inverse_B, gradient_BD)
    if table.may_move_U is not None:
        moves_V = table.may_move_U[place_V]
        place_V, gradient_VD = place_V[moves_V], gradient_VD[moves_V]
    if table.moments is None:
        table.dynamic_UD[place_V] -= lr * gradient_VD
        return
    first_VD, second_VD = table.moments.first[place_V], table.moments.second[place_V]
    table.dynamic_UD[place_V] -= adam_change(gradient_VD, first_VD, second_VD, step - table.step_before, lr)
    table.moments.first[place_V], table.moments.second[place_V] = first_VD, second_VD


def _write_moments(state: AdamState, working: dict[str, _WorkingTable]) -> None:
    for name, table in working.items():
        if table.moments is not None and name in state.tables:
            state.tables[name].first[table.ids_U] = table.moments.first
            state.tables[name].second[table.ids_U] = table.moments.second


def initial_shared(
    module: nn.Module,
    tables: Sequence[Table],
    seed: int,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> Shared:
    """theta_S before training: the module's own initial values, embeddings drawn from N(0, 0.01).

    Args:
        module: as built under the same seed.
        tables: its embedding tables; only trainable ones are drawn.
        seed: decides the embeddings.
        device: where theta_S is wanted.
        part: (r, W): only rows r, r + W, ... of each table, with the values that they have in the whole.
    """
    first, step = part
    generator = torch.Generator().manual_seed(seed)
    dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    drawn = {
        table.name: draw_rows(table.rows, table.width, generator, first, step).mul_(0.01).to(device)
        for table in tables
        if table.trainable
    }
    return Shared(dense.clone().to(device), drawn)
