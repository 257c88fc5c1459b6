"""The eager reference engine: gradients and inner loops of a model, one step after another.

It is the reference for the fast engine, which gives the same numbers.
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
from mamdr_core.engine.columns import FrozenTables, Visit
from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.hashing import step_keys
from mamdr_core.engine.optimizers import AdamMoments, InnerState, dense_change
from mamdr_core.engine.parameters import EVERYTHING, Change, Rows, Scope, Theta
from mamdr_core.engine.parts import FieldGradient, Part, group_fields, join_gradients, one_part, part_key, parts_of
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
"""Rows that are predicted at a time."""


class EagerEngine:
    """Runs trajectories of a model over columns.

    Args:
        module: `logits_B = module(fields)`, fields by name [B, D].
        tables: the embedding tables and fixed vectors that the module reads.
        frozen: fixed vectors by table name.
        batch_size: maximum number of rows of an inner step.
        device: device of the computation; columns may be on another.
        on_nan: a step whose loss is not finite raises an error (stop), or is treated as one of zero gradient (skip).
        options: what a step does in addition to following the gradient.

    Attributes:
        per_domain: whether the model has tables per domain.
        mixes: whether one call of the model may contain rows of several domains; otherwise a batch of several domains
            takes one call per domain, and their losses are weighted by rows.
        statistics: layers of the model that normalise by measured statistics.
        skipped: number of skipped steps.
        waited: seconds that steps have waited for their rows; this engine does not measure it.
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
        """The embedding tables that learn and store their own rows."""
        return [table for table in owners(self.tables) if table.trainable and not table.measured]

    def gradient(self, theta: Theta, visit: Visit, seed: int | None = None) -> Change:
        """The gradient of the mean loss over all rows of a visit; see `loss_and_gradient`."""
        return self.loss_and_gradient(theta, visit, seed)[1]

    def loss_and_gradient(self, theta: Theta, visit: Visit, seed: int | None = None) -> tuple[float, Change]:
        """The mean loss over all rows of a visit, and its gradient.

        Args:
            theta: the parameters.
            visit: its rows form one batch of any size.
            seed: seed of dropout; None: without dropout.

        Raises:
            DivergedError: the loss is not finite and `on_nan` is stop; with skip the gradient is zero.
        """
        self.flat.load(theta.dense, training=seed is not None)
        key = 0 if seed is None else int(step_keys([seed], 1)[0, 0])
        caches = self._caches(theta, [visit], EVERYTHING, None, FOLLOW_GRADIENT, "sgd")
        loss, embedded = self._backward(visit, 0, slice(0, len(visit.rows)), caches, key)
        good = math.isfinite(loss)
        if not good:
            self.handle_divergence(visit, 0, 0, 1)
            self.flat.gradients_P.zero_()
        rows = {}
        for name, cache in caches.items():
            if not cache.trains:
                continue
            values_UD = torch.zeros_like(cache.static_UD)
            if good and any(reader in embedded for reader in cache.readers):
                values_UD.index_add_(0, *cache.together(0, embedded))
            rows[name] = Rows(cache.ids_U, values_UD)
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
        """One trajectory: inner steps on the batches of one visit after another (Alg. 1, lines 4-6).

        Args:
            theta: its start, which is not changed.
            visits: its rows, in order.
            lr: inner learning rate alpha.
            optimizer: "adam" or "sgd".
            state: moments to start from, updated in place; None, or for a table without any: zeros.
            scope: the parameters that may change.
            seed: seed of dropout.

        Returns:
            theta~ - theta.

        Raises:
            DivergedError: a loss is not finite and `on_nan` is stop.
        """
        with self.threads_for(visits):
            self.flat.load(theta.dense, training=True)
            start_P = self.flat.values_P.clone()
            moments = None
            if optimizer == "adam":
                moments = state.dense if state else AdamMoments.zeros_like(start_P)
            caches = self._caches(theta, visits, scope, state, self.options, optimizer)
            before = state.step if state else 0
            batches = [
                (visit, number, batch, rows)
                for number, visit in enumerate(visits)
                for batch, rows in enumerate(visit.batches(self.batch_size))
            ]
            keys_S = step_keys([seed], len(batches))[:, 0].tolist()
            for step, (key, (visit, number, batch, rows)) in enumerate(zip(keys_S, batches, strict=True), before + 1):
                loss, embedded = self._backward(visit, number, rows, caches, key)
                if not math.isfinite(loss):
                    self.handle_divergence(visit, number, batch, step)
                    self.flat.gradients_P.zero_()
                    embedded = {name: (places, torch.zeros_like(grad)) for name, (places, grad) in embedded.items()}
                self._move(number, embedded, caches, moments, step, lr)
            if state:
                state.step = before + len(batches)
                for cache in caches.values():
                    cache.write_moments(state)
            rows_changed = {name: cache.change() for name, cache in caches.items() if cache.trains}
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
        """Independent trajectories, each with a new optimizer state; see `descend`."""
        return [
            self.descend(theta, own_visits, lr, optimizer, None, scope, seed)
            for theta, own_visits, scope, seed in zip(thetas, visits, scopes, seeds, strict=True)
        ]

    def threads_for(self, visits: Sequence[Visit]) -> AbstractContextManager[None]:
        """Run the steps of visits on one CPU thread if their matrix products are small, otherwise on all threads."""
        if self.device.type != "cpu":
            return nullcontext()
        rows = sum(len(visit.rows) for visit in visits) / max(1, len(visits))
        numbers = len(self.flat.values_P) + sum(table.width for table in self.tables if table.per_domain)
        numbers += sum(table.length * HIDDEN * table.width for table in self.tables if table.pooling == "attention")
        return threads_for(6.0 * min(rows, self.batch_size) * numbers)

    def handle_divergence(self, visit: Visit, number: int, batch: int, step: int) -> None:
        """Raise DivergedError for a step whose loss is not finite, or count it as skipped.

        Args:
            visit: the step's visit.
            number: position of the visit in its trajectory, from 0.
            batch: position of the batch in the visit, from 0.
            step: number of the step, from 1, including the steps of earlier rounds if moments are carried.
        """
        domains = visit.ids("domain").unique() - 1
        where = f"step {step}, batch {batch + 1} of visit {number + 1}"
        error = DivergedError(int(domains) if len(domains) == 1 else None, where)
        if self.on_nan == "stop":
            raise error
        self.skipped += 1
        if self.skipped == 1:
            logger.warning("%s (logged once; the run's figures count such steps)", error)

    @torch.no_grad()
    def predict(self, theta: Theta, visit: Visit) -> Tensor:
        """Logits of the rows of a visit, base logits included, without dropout, float [M]."""
        self.flat.load(theta.dense, training=False)
        logits = []
        for rows in visit.rows.split(PREDICT_ROWS):
            beat()
            batch = Visit(visit.columns, rows, visit.as_domain)
            trained = [table for table in self.tables if table.trainable]
            ids = {table.name: batch.ids(table.column).to(self.device) for table in trained}
            logits_B = torch.empty(len(rows), dtype=self.flat.values_P.dtype, device=self.device)
            for part in self._parts(batch, slice(0, len(rows))):
                fields = {}
                for table in trained:
                    own = ids[table.name][part.read_by(table)]
                    fields[table.name] = theta.gather(table.source, own.flatten()).unflatten(0, own.shape)
                logits_B[part.places] = self.flat.module(self._fields(batch, part, fields))
            logits.append(batch.add_base(logits_B))
        return torch.cat(logits) if logits else torch.zeros(0, device=self.device)

    def _move(
        self,
        number: int,
        embedded: dict[str, FieldGradient],
        caches: dict[str, CachedTable],
        moments: AdamMoments | None,
        step: int,
        lr: float,
    ) -> None:
        """Update parameters along a batch's gradients: the dense ones in the flat buffer, and `embedded` by field."""
        touched = {
            name: cache.touched(number, embedded)
            for name, cache in caches.items()
            if any(reader in embedded for reader in cache.readers)
        }
        if self.options.clip_norm:
            gradients = [self.flat.gradients_P, *(gradient_VD for _, gradient_VD in touched.values())]
            squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
            factor = self.options.clip_factor(squares)
            self.flat.gradients_P.mul_(factor)
            touched = {name: (place, own * factor) for name, (place, own) in touched.items()}  # they may share memory
        if self.options.weight_decay:
            self.flat.values_P *= 1 - lr * self.options.weight_decay
        self.flat.values_P -= dense_change(self.flat.gradients_P, moments, step, lr)
        for name, (place_V, gradient_VD) in touched.items():
            caches[name].move(place_V, gradient_VD, step, lr)

    def _caches(
        self,
        theta: Theta,
        visits: Sequence[Visit],
        scope: Scope,
        state: InnerState | None,
        options: StepOptions,
        optimizer: str,
    ) -> dict[str, CachedTable]:
        """The rows that a trajectory reads, by embedding table."""
        return {
            table.name: CachedTable(
                theta, table, readers(self.tables, table.name), visits, scope, state, options.rule(table, optimizer)
            )
            for table in owners(self.tables)
            if table.trainable
        }

    def _parts(self, visit: Visit, rows: slice) -> list[Part]:
        """The calls of the model for a batch: one for all rows, or one per domain."""
        return parts_of(visit, rows, self.mixes) if self.per_domain else [one_part(rows)]

    def _backward(
        self, visit: Visit, number: int, rows: slice, caches: dict[str, CachedTable], key: int
    ) -> tuple[float, dict[str, FieldGradient]]:
        """Compute the gradient of a batch's mean loss, weighted if rows have weights; its dense part is in the buffer.

        Args:
            visit: the batch's visit.
            number: position of the visit in its trajectory.
            rows: slice of the visit.
            caches: rows of embedding tables.
            key: key of dropout.

        Returns:
            The loss, and the gradients of the fields of trained tables.
        """
        beat()
        self.flat.gradients_P.zero_()
        total = 0.0
        weights_B = visit.weights(rows, self.flat.values_P)
        weight = None if weights_B is None else weights_B.sum().clamp_min(torch.finfo(weights_B.dtype).tiny)
        found: dict[str, list[FieldGradient]] = {}
        for place, part in enumerate(self._parts(visit, rows)):
            fields = {
                name: cache.read(name, number, part.read_by(reader))
                for cache in caches.values()
                for name, reader in cache.readers.items()
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
            for cache in caches.values():
                for name, reader in cache.readers.items():
                    if cache.trains:
                        gradient = fields[name].grad  # None: the structure does not use the field
                        gradient = torch.zeros_like(fields[name]) if gradient is None else gradient
                        found.setdefault(name, []).append((part.read_by(reader), gradient))
        return total, {name: join_gradients(gradients) for name, gradients in found.items()}

    def _fields(self, visit: Visit, part: Part, embedded: dict[str, Tensor]) -> dict[str, Tensor]:
        """The embedded fields of a part with fixed vectors, numeric features, weights and groups."""
        columns, places_B = visit.columns, visit.rows[part.places]
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
