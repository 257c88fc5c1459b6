"""The fast engine: compiled steps, many trajectories at once, and rows prepared ahead of their steps."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mamdr_core.engine.bags import pooled_rows
from mamdr_core.engine.columns import FrozenTables, Visit
from mamdr_core.engine.compiled import DenseState, DenseStep, Fields, PaddedBatch, cut_fields
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import step_keys
from mamdr_core.engine.layout import Layout, Stack, lay_out, open_stack
from mamdr_core.engine.memory import NoMemoryError, bytes_per_row, keep_freed_memory, no_memory_for, stack_limits
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import EVERYTHING, Change, Scope, Theta, stacked_dense
from mamdr_core.engine.parts import group_by_domain, group_fields, holds_one_domain
from mamdr_core.engine.stacking import Trajectory, cut_stacks, sort_trajectories
from mamdr_core.engine.step_options import FOLLOW_GRADIENT, StepOptions
from mamdr_core.engine.threads import divide, one_thread
from mamdr_core.engine.working import StackedRows
from mamdr_core.models.pooling import is_linear, linear_weights
from mamdr_core.models.statistics import ROW_WEIGHT
from mamdr_core.models.tables import Table
from mamdr_core.runtime import heartbeat
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class FastEngine(EagerEngine):
    """Gives the numbers of `EagerEngine`, except for rounding, in less time.

    Args:
        module, tables, frozen, batch_size, device, on_nan, options: see `EagerEngine`.
        precision: precision of matrix products: fp32, tf32 (only on CUDA) or bf16 (parameters and moments keep their
            type).
        group_memory: GB of memory for the stacks that run at the same time; 0: see `stack_memory`.
        compiles: use torch.compile; otherwise the same operations run one by one.

    Attributes:
        reads_ahead: whether a thread prepares the rows of the next steps while steps run.

    Raises:
        MamdrError: tf32 on a CPU.
    """

    def __init__(
        self,
        module: nn.Module,
        tables: Sequence[Table],
        frozen: FrozenTables,
        batch_size: int,
        device: torch.device | str = "cpu",
        on_nan: Literal["stop", "skip"] = "stop",
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        group_memory: float = 0.0,
        compiles: bool = True,
        options: StepOptions = FOLLOW_GRADIENT,
    ) -> None:
        super().__init__(module, tables, frozen, batch_size, device, on_nan, options)
        if precision == "tf32" and self.device.type != "cuda":
            raise MamdrError(f"train.precision tf32 needs CUDA, and this rank runs on the {self.device}: use fp32")
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        self._by_name = {table.name: table for table in self.tables}
        self._weights = {table.weight for table in self.tables if table.length and not is_linear(table)}
        self._step = DenseStep(self.flat, precision == "bf16", compiles)
        self._limits = stack_limits(self.flat, self.tables, self.device, group_memory)
        if compiles and not getattr(module, "compiles_in_stacks", True):
            self._limits = replace(self._limits, size=1)
        keep_freed_memory()
        self._threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._lock = threading.Lock()  # guards the counters
        self.reads_ahead = self.device.type == "cuda"  # on a CPU the steps themselves keep all cores busy

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
        """One trajectory; see `EagerEngine.descend`, which runs if a call of the model cannot mix domains."""
        if self._holds_several_domains([visits]):
            if not self.mixes:
                return super().descend(theta, visits, lr, optimizer, state, scope, seed)
            visits = [group_by_domain(visit, self.batch_size) for visit in visits]
        trajectory = Trajectory(0, theta, visits, scope, seed, ())
        try:
            with self.threads_for(visits):
                ((_, (change,)),) = self._run(self._step, [[trajectory]], lr, optimizer, state)
        except NoMemoryError as error:
            raise self._out_of_memory(error) from None
        return change

    def descend_many(
        self,
        thetas: Sequence[Theta],
        visits: Sequence[Sequence[Visit]],
        lr: float,
        optimizer: str,
        scopes: Sequence[Scope],
        seeds: Sequence[int],
    ) -> list[Change]:
        """Independent trajectories from one theta_S, in stacks of similar ones; see `EagerEngine.descend_many`.

        On a CPU every thread runs its own stack, and no operation uses several threads. If memory does not suffice for
        a stack, it and the following ones are run in stacks of half its size.

        Raises:
            MamdrError: memory does not suffice for a single trajectory.
        """
        if self._holds_several_domains(visits):  # a stack cannot contain batches of several domains
            return super().descend_many(thetas, visits, lr, optimizer, scopes, seeds)
        waiting = sort_trajectories(thetas, visits, scopes, seeds, self.batch_size)
        self._measure_row_bytes(visits)
        done: dict[int, Change] = {}
        while waiting:
            try:
                most = min(self._limits.size, -(-len(waiting) // self._threads))
                stacks = list(cut_stacks(waiting, replace(self._limits, size=most)))
                if len(stacks) > 1 and self._threads > 1 and heartbeat.listener is None:  # a profile covers one thread
                    runs = self._run_in_threads(stacks, lr, optimizer)
                else:
                    runs = self._run_alone(stacks, lr, optimizer)
                for stack, changes in runs:
                    done |= {t.place: change for t, change in zip(stack, changes, strict=True)}
            except NoMemoryError as error:
                self._shrink(error)
            waiting = [trajectory for trajectory in waiting if trajectory.place not in done]
        return [done[place] for place in range(len(thetas))]

    def _holds_several_domains(self, visits: Sequence[Sequence[Visit]]) -> bool:
        """Whether the model has tables per domain and a visit has rows of several domains."""
        return self.per_domain and not all(holds_one_domain(visit) for own in visits for visit in own)

    def _measure_row_bytes(self, visits: Sequence[Sequence[Visit]]) -> None:
        if not self._limits.row_bytes:
            numeric = next((visit.columns.numeric.shape[1] for own in visits for visit in own), 0)
            self._limits = replace(self._limits, row_bytes=bytes_per_row(self.flat, self.tables, numeric))

    def _shrink(self, error: NoMemoryError) -> None:
        if error.size == 1:
            raise self._out_of_memory(error) from None
        half = error.size // 2
        self._limits = replace(self._limits, size=half)
        logger.warning("memory does not suffice for %d trajectories at once: using at most %d", error.size, half)

    def _out_of_memory(self, error: NoMemoryError) -> MamdrError:
        return MamdrError(
            f"a single trajectory does not fit in the memory of {self.device} ({error.__cause__}): lower "
            "train.batch_size or the sizes of the model, or raise train.rounds_per_epoch, for fewer rows per round"
        )

    def _run_alone(
        self, stacks: Sequence[Sequence[Trajectory]], lr: float, optimizer: str
    ) -> Iterator[tuple[Sequence[Trajectory], list[Change]]]:
        """Run stacks in this thread; see `_run`."""
        with self.threads_for([visit for stack in stacks for each in stack for visit in each.visits]):
            yield from self._run(self._step, stacks, lr, optimizer, None)

    def _run_in_threads(
        self, stacks: Sequence[Sequence[Trajectory]], lr: float, optimizer: str
    ) -> Iterator[tuple[Sequence[Trajectory], list[Change]]]:
        """Divide stacks among threads; a stack whose steps must be compiled first runs alone. See `_run`."""

        def run(stack: Sequence[Trajectory]) -> list[Change]:
            ((_, changes),) = self._run(self._step.of_thread(), [stack], lr, optimizer, None)
            return changes

        while stacks:
            waited, to_compile = self.waited, []
            for stack, changes in zip(stacks, divide(run, stacks, self._threads, self._step.compiled), strict=True):
                if changes is None:
                    to_compile.append(stack)
                else:
                    yield stack, changes
            self.waited = waited + (self.waited - waited) / self._threads
            with one_thread():  # compile for operations of one thread
                yield from self._run(self._step, to_compile[:1], lr, optimizer, None)
            stacks = to_compile[1:]

    def _run(
        self,
        step: DenseStep,
        stacks: Sequence[Sequence[Trajectory]],
        lr: float,
        optimizer: str,
        state: InnerState | None,
    ) -> Iterator[tuple[Sequence[Trajectory], list[Change]]]:
        """Run stacks one after another; yields the trajectories and changes of each."""
        laid_out = self._prefetch(self._layouts(stacks, optimizer, state))
        for stack, pairs in groupby(laid_out, key=itemgetter(0)):
            with no_memory_for(len(stack.trajectories)):
                changes = self._descend(step, stack, (layout for _, layout in pairs if layout), lr, optimizer, state)
            yield stack.trajectories, changes

    def _layouts(
        self, stacks: Sequence[Sequence[Trajectory]], optimizer: str, state: InnerState | None
    ) -> Iterator[tuple[Stack, Layout | None]]:
        """The layouts of stacks in segments; a stack without steps has None."""
        rule = partial(self.options.rule, optimizer=optimizer)
        for trajectories in stacks:
            with no_memory_for(len(trajectories)):
                stack = open_stack(trajectories, self.tables, self.frozen, self.batch_size, self.device, rule, state)
                layouts = lay_out(stack, self.tables, self.device, self.flat.values_P.dtype)
                layout = next(layouts, None)
            yield stack, layout
            while layout := next(layouts, None):
                yield stack, layout

    def _prefetch(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each created while the previous one is used if `reads_ahead`; measures the waiting time."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, items, None) if self.reads_ahead else None
            while True:
                started = time.perf_counter()
                item = coming.result() if coming else next(items, None)
                with self._lock:
                    self.waited += time.perf_counter() - started
                if item is None:
                    return
                if coming:
                    coming = pool.submit(next, items, None)
                yield item

    def _descend(
        self,
        step: DenseStep,
        stack: Stack,
        layouts: Iterator[Layout],
        lr: float,
        optimizer: str,
        state: InnerState | None,
    ) -> list[Change]:
        """Run all steps of a stack; returns the change of each trajectory."""
        start_GP = stacked_dense([trajectory.theta for trajectory in stack.trajectories])
        moments = (state.dense.first[None], state.dense.second[None]) if state else ()
        dense = DenseState(start_GP.clone(), optimizer == "adam", *moments)
        seeds_G = [trajectory.seed for trajectory in stack.trajectories]
        keys_SG = torch.from_numpy(step_keys(seeds_G, len(stack.steps))).to(self.device)
        before = state.step if state else 0
        own_S = torch.arange(1, len(stack.steps) + 1, device=self.device)
        count_S, own_S = (own_S + before).float(), own_S.float()
        losses: list[Tensor] = []
        for layout in layouts:
            for number in range(len(layout.steps)):
                done = len(losses)
                batch = self._batch(stack, layout, number, keys_SG[done, : len(layout.labels[number])])
                loss_G, gradient_GP, to_fields = step.gradients(dense, batch)
                losses.append(loss_G)
                trained = [pair for pair in zip(stack.tables, layout.touched, strict=True) if pair[0].trains]
                rows = [
                    (tables, touched.distinct[number], tables.row_gradients(touched, number, gradient.flatten(0, 1)))
                    for (tables, touched), gradient in zip(trained, to_fields, strict=True)
                ]
                if self.options.clip_norm:
                    rows = self._clip_each(gradient_GP, rows)
                step.move(dense, gradient_GP, count_S[done], lr, self.options.weight_decay)
                for tables, distinct, gradient_VD in rows:
                    tables.move(distinct, gradient_VD, (own_S if tables.is_fresh else count_S)[done], lr)
        self._check(stack, losses, before)
        if state:
            state.step = before + len(losses)
            for tables in stack.tables:
                tables.write_moments(state)
        changes = [Change(difference_P) for difference_P in dense.values.sub_(start_GP)]
        for tables in stack.tables:
            tables.write_changes(changes)
        return changes

    def _clip_each(
        self, gradient_GP: Tensor, rows: Sequence[tuple[StackedRows, Tensor, Tensor]]
    ) -> list[tuple[StackedRows, Tensor, Tensor]]:
        """Scale the gradient of each trajectory to a norm of at most `options.clip_norm`: dense ones in place.

        Args:
            gradient_GP: gradients of dense parameters.
            rows: tables, the rows of them that the step updates (see `Touched`), and their gradients.

        Returns:
            `rows` with scaled copies of the gradients: the originals may share memory between fields.
        """
        squares_G = gradient_GP.square().sum(1)
        owners = [tables.trajectory_of(distinct) for tables, distinct, _ in rows]
        for owner_V, (_, _, gradient_VD) in zip(owners, rows, strict=True):
            squares_G.index_add_(0, owner_V, gradient_VD.square().sum(1))
        factor_G1 = self.options.clip_factor(squares_G)[:, None]
        gradient_GP.mul_(factor_G1)
        return [
            (tables, distinct, gradient_VD * factor_G1[owner_V])
            for owner_V, (tables, distinct, gradient_VD) in zip(owners, rows, strict=True)
        ]

    def _batch(self, stack: Stack, layout: Layout, number: int, keys_G: Tensor) -> PaddedBatch:
        """The rows of a step, with the current embeddings."""
        shape = layout.labels[number].shape
        embedded: list[Tensor] = []
        names: list[tuple[str, ...]] = []
        constant: Fields = {}
        for tables, touched in zip(stack.tables, layout.touched, strict=True):
            fields = tables.read(touched, number).unflatten(0, (shape[0], -1))
            if tables.trains:
                embedded.append(fields)
                names.append(tables.names)
            else:
                constant |= cut_fields(tables.names, fields)
        for name, ids in layout.looked_up.items():
            table = self._by_name[name]
            if is_linear(table):
                weights = linear_weights(table, layout.several[table.weight][number])
                constant[name] = pooled_rows(stack.lookups[table.source], ids[number], weights)
            else:  # embedding is several times as fast as indexing
                constant[name] = embedding(ids[number], stack.lookups[table.source])
        constant |= {name: layout.several[name][number] for name in self._weights}
        if layout.groups:
            constant |= {name: field[None] for name, field in group_fields(layout.groups[number], self.device).items()}
        if layout.numeric:
            constant["numeric"] = layout.numeric[number]
        if self.statistics:
            constant[ROW_WEIGHT] = layout.weights[number]
        return PaddedBatch(
            embedded, names, constant, layout.labels[number], layout.base[number], layout.weights[number], keys_G
        )

    def _check(self, stack: Stack, losses: list[Tensor], before: int) -> None:
        """Handle losses that are not finite, in the order of the steps."""
        diverged = (~torch.cat(losses).isfinite()).nonzero().flatten().tolist() if losses else []
        if diverged:
            numbered = [(step, batch) for step, own in enumerate(stack.steps.batches, before + 1) for batch in own]
            with self._lock:
                for step, batch in (numbered[place] for place in diverged):
                    self.handle_divergence(batch.visit, batch.number, batch.place, step)
