"""The eager reference engine: the three primitives that carry every learning method, step by step.

Every faster engine must give the same numbers as this one.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.caches import CachedTable
from mamdr_core.engine.columns import Columns, FrozenTables, Visit
from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.hashing import step_keys
from mamdr_core.engine.optimizers import AdamMoments, InnerState, adam_change
from mamdr_core.engine.parameters import EVERYTHING, Change, Rows, Scope, Theta
from mamdr_core.engine.parts import FieldGradient, Part, group_fields, joined, part_key, parts_of, whole
from mamdr_core.engine.step_options import FOLLOW_GRADIENT, StepOptions
from mamdr_core.engine.threads import threads_for
from mamdr_core.models.groups import mixes_domains
from mamdr_core.models.pooling import HIDDEN
from mamdr_core.models.statistics import ROW_WEIGHT, statistics_layers
from mamdr_core.models.tables import Table, owners, readers
from mamdr_core.runtime.errors import DivergedError
from mamdr_core.runtime.heartbeat import beat

logger = logging.getLogger(__name__)
PREDICT_ROWS = 16_384


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
        options: what a step does beyond following the gradient.

    Attributes:
        per_domain: whether the model has tables per domain.
        mixes: whether a call of it may hold rows of several domains; if not, a batch of several domains is one step of
            as many calls, their losses weighted by rows.
        statistics: layers of the model that normalise by measured statistics.
        skipped: steps skipped so far.
        waited: seconds that steps have waited for their rows so far; this engine does not measure it.
    """

    def __init__(
        self,
        module: nn.Module,
        tables: Sequence[Table],
        frozen: FrozenTables,
        batch_size: int,
        device: torch.device | str = "cpu",
        on_nan: Literal["stop", "skip"] = "stop",
        options: StepOptions = FOLLOW_GRADIENT,
    ) -> None:
        self.flat = FlatModule(module, device)
        self.options = options
        self.tables = tuple(tables)
        self.per_domain = any(table.per_domain for table in self.tables)
        self.mixes = not self.per_domain or mixes_domains(module)
        self.statistics = statistics_layers(module)
        self.frozen = {name: vectors.to(device) for name, vectors in frozen.items()}
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.on_nan = on_nan
        self.skipped = 0
        self.waited = 0.0

    @property
    def trained_tables(self) -> list[Table]:
        """The embedding tables that learn and have rows of their own."""
        return [table for table in owners(self.tables) if table.trainable and not table.measured]

    def gradient(self, theta: Theta, visit: Visit, seed: int | None = None) -> Change:
        """The gradient of the mean loss over all of a visit's rows at `theta`; see `loss_and_gradient`."""
        return self.loss_and_gradient(theta, visit, seed)[1]

    def loss_and_gradient(self, theta: Theta, visit: Visit, seed: int | None = None) -> tuple[float, Change]:
        """The mean loss over all of a visit's rows at `theta`, and its gradient.

        Args:
            theta: where.
            visit: its rows are one batch, however many.
            seed: decides dropout; None: dropout off.

        Raises:
            DivergedError: the loss is not finite, and `on_nan` is stop; else the gradient is zero.
        """
        self.flat.load(theta.dense, training=seed is not None)
        key = 0 if seed is None else int(step_keys([seed], 1)[0, 0])
        working = self._working(theta, [visit], EVERYTHING, None, FOLLOW_GRADIENT, "sgd")
        everything = slice(0, len(visit.rows))
        loss, embedded = self._backward(visit, 0, everything, working, key)
        good = math.isfinite(loss)
        if not good:
            self.handle_divergence(visit, 0, 0, 1)
            self.flat.gradients_P.zero_()
        rows = {}
        for name, table in working.items():
            if not table.trains:
                continue
            values_UD = torch.zeros_like(table.static_UD)
            if good and any(reader in embedded for reader in table.readers):
                values_UD.index_add_(0, *table.together(0, embedded))
            rows[name] = Rows(table.ids_U, values_UD)
        return loss, Change(self.flat.gradients_P.clone(), rows)

    def descend(
        self,
        theta: Theta,
        visits: Sequence[Visit],
        lr: float,
        optimizer: str = "adam",
        state: InnerState | None = None,
        scope: Scope = EVERYTHING,
        seed: int = 0,
    ) -> Change:
        """One trajectory: visit after visit, batch after batch (Alg. 1, lines 4-6).

        Args:
            theta: where it starts; not changed.
            visits: what it reads, in order.
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
        with self.threads_for(visits):
            return self._descend_eagerly(theta, visits, lr, optimizer, state, scope, seed)

    def _descend_eagerly(
        self,
        theta: Theta,
        visits: Sequence[Visit],
        lr: float,
        optimizer: str,
        state: InnerState | None,
        scope: Scope,
        seed: int,
    ) -> Change:
        """See `descend`."""
        self.flat.load(theta.dense, training=True)
        start_P = self.flat.values_P.clone()
        adam = optimizer == "adam"
        moments = None
        if adam:
            moments = state.dense if state else AdamMoments.zeros_like(start_P)
        working = self._working(theta, visits, scope, state, self.options, optimizer)
        before = step = state.step if state else 0
        keys_S = step_keys([seed], sum(len(visit.batches(self.batch_size)) for visit in visits))[:, 0]
        for number, visit in enumerate(visits):
            for batch, rows in enumerate(visit.batches(self.batch_size)):
                key = int(keys_S[step - before])
                step += 1
                loss, embedded = self._backward(visit, number, rows, working, key)
                if not math.isfinite(loss):
                    self.handle_divergence(visit, number, batch, step)
                    self.flat.gradients_P.zero_()
                    embedded = {name: (places, torch.zeros_like(grad)) for name, (places, grad) in embedded.items()}
                touched = {
                    name: table.touched(number, embedded)
                    for name, table in working.items()
                    if any(reader in embedded for reader in table.readers)
                }
                if self.options.clip_norm:
                    self._clip([self.flat.gradients_P, *(gradient_VD for _, gradient_VD in touched.values())])
                if self.options.weight_decay:
                    self.flat.values_P *= 1 - lr * self.options.weight_decay
                self.flat.values_P -= _update(self.flat.gradients_P, moments, step, lr)
                for name, (place_V, gradient_VD) in touched.items():
                    working[name].move(place_V, gradient_VD, step, lr)
        if state:
            state.step = step
            for table in working.values():
                table.write_moments(state)
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

    def threads_for(self, visits: Sequence[Visit]) -> AbstractContextManager[None]:
        """Run the steps of some visits on one of the CPU's threads if their products are small, else on all."""
        if self.device.type != "cpu":
            return nullcontext()
        rows = sum(len(visit.rows) for visit in visits) / max(1, len(visits))
        numbers = len(self.flat.values_P) + sum(table.width for table in self.tables if table.per_domain)
        numbers += sum(table.length * HIDDEN * table.width for table in self.tables if table.pooling == "attention")
        return threads_for(6.0 * min(rows, self.batch_size) * numbers)

    def handle_divergence(self, visit: Visit, number: int, batch: int, step: int) -> None:
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
            logger.warning("%s (logged once; the run's figures count such steps)", error)

    @torch.no_grad()
    def predict(self, theta: Theta, visit: Visit) -> Tensor:
        """Logits of a visit's rows at `theta`, base logits included, float32 [M], dropout off."""
        self.flat.load(theta.dense, training=False)
        logits = []
        for rows in visit.rows.split(PREDICT_ROWS):
            beat()
            batch = Visit(visit.columns, rows, visit.as_domain)
            trained = [table for table in self.tables if table.trainable]
            ids = {table.name: batch.ids(table.column).to(self.device) for table in trained}
            logits_B = torch.empty(len(rows), dtype=self.flat.values_P.dtype, device=self.device)
            for part in self._parts(batch, slice(0, len(rows))):
                fields = {
                    table.name: _gathered(theta, table, ids[table.name][part.read_by(table)]) for table in trained
                }
                logits_B[part.places] = self.flat.module(self._fields(batch, part, fields))
            logits.append(batch.add_base(logits_B))
        return torch.cat(logits) if logits else torch.zeros(0, device=self.device)

    def _clip(self, gradients: Sequence[Tensor]) -> None:
        """Shorten a step's gradients in place where their norm is above `options.clip_norm`."""
        squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        factor = self.options.clip_factor(squares)
        for gradient in gradients:
            gradient.mul_(factor)

    def _working(
        self,
        theta: Theta,
        visits: Sequence[Visit],
        scope: Scope,
        state: InnerState | None,
        options: StepOptions,
        optimizer: str,
    ) -> dict[str, CachedTable]:
        """The tables of theta_S by name, as a trajectory reads them."""
        return {
            table.name: CachedTable(
                theta, table, readers(self.tables, table.name), visits, scope, state, options.rule(table, optimizer)
            )
            for table in owners(self.tables)
            if table.trainable
        }

    def _parts(self, visit: Visit, rows: slice) -> list[Part]:
        """What the model sees at once of a batch: all of it, or the rows of one domain."""
        return parts_of(visit, rows, self.mixes) if self.per_domain else [whole(rows)]

    def _backward(
        self, visit: Visit, number: int, rows: slice, working: dict[str, CachedTable], key: int = 0
    ) -> tuple[float, dict[str, FieldGradient]]:
        """Leave the dense gradient of a batch's mean loss in the flat buffer, weighted where rows have weights.

        Args:
            visit: the `number`-th of its trajectory.
            rows: of the visit, the batch.
            working: the tables of theta_S.
            key: dropout's.

        Returns:
            The loss, and by field the gradient of what was read of a trained table.
        """
        beat()
        self.flat.gradients_P.zero_()
        total = 0.0
        weights_B = visit.weights(rows, self.flat.values_P)
        weight = None if weights_B is None else weights_B.sum().clamp_min(torch.finfo(weights_B.dtype).tiny)
        found: dict[str, list[FieldGradient]] = {}
        for place, part in enumerate(self._parts(visit, rows)):
            fields = {
                name: cached.read(name, number, part.read_by(reader))
                for cached in working.values()
                for name, reader in cached.readers.items()
            }
            for buffer in self.flat.keys:
                buffer.fill_(part_key(key, place))
            logits_B = visit.add_base(self.flat.module(self._fields(visit, part, fields)), part.places)
            labels_B = visit.columns.labels[visit.rows[part.places]].to(self.device)
            own_B = visit.weights(part.places, logits_B)
            if own_B is None or weight is None:
                loss = binary_cross_entropy_with_logits(logits_B, labels_B) * part.share
            else:
                losses_B = binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
                loss = (losses_B * own_B).sum() / weight
            loss.backward()
            total += loss.item()
            for cached in working.values():
                for name, reader in cached.readers.items():
                    if cached.trains:  # zeros of a field that the structure does not use
                        gradient = fields[name].grad
                        gradient = torch.zeros_like(fields[name]) if gradient is None else gradient
                        found.setdefault(name, []).append((part.read_by(reader), gradient))
        return total, {name: joined(gradients) for name, gradients in found.items()}

    def _fields(self, visit: Visit, part: Part, embedded: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add fixed vectors, numeric features, weights and groups to the embedded fields of a part."""
        columns: Columns = visit.columns
        places_B = visit.rows[part.places]
        fields = dict(embedded)
        if part.sizes_G is not None:
            fields |= group_fields(part.sizes_G, self.device)
        for table in self.tables:
            if not table.trainable:
                ids_B = columns.ids[table.column][places_B].to(self.device)
                fields[table.name] = self.frozen[table.name][ids_B.long()]
            if table.length and table.weight not in fields:
                weights = columns.weights_of(table.column, places_B)
                fields[table.weight] = weights.to(self.device, self.flat.values_P.dtype)
        if columns.numeric.shape[1]:
            fields["numeric"] = columns.numeric[places_B].to(self.device)
        if self.statistics:
            own_B = visit.weights(part.places, self.flat.values_P)
            fields[ROW_WEIGHT] = self.flat.values_P.new_ones(len(places_B)) if own_B is None else own_B
        return fields


def _gathered(theta: Theta, table: Table, ids: Tensor) -> Tensor:
    """What a trained table reads for ids [B] or [B, L], [B, D] or [B, L, D]."""
    rows: Tensor = theta.gather(table.source, ids.flatten()).unflatten(0, ids.shape)
    return rows


def _update(gradient: Tensor, moments: AdamMoments | None, step: int, lr: float) -> Tensor:
    if moments is None:
        return lr * gradient
    return adam_change(gradient, moments.first, moments.second, step, lr)
