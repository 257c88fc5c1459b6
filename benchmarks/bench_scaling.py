"""Weak scaling: inner loops and outer updates at 1, 2 and 4 ranks on the same core, and a model for many workers.

    .venv/bin/python benchmarks/bench_scaling.py --repeats 3

Every rank descends on the same number of rows per round, with one thread. All ranks are pinned to one core, so that W
ranks have W times the work on the same hardware: without loss a round takes W times as long. Efficiency is that ratio,
in wall time and in CPU time (which is less affected by other load). The launches of 1, 2 and 4 ranks alternate.

A second measurement simulates a network: before every collective a rank sleeps as long as its messages would take in a
ring of W machines. The model adds the network's time for W machines of one rank each to the measured seconds of a
round.
"""

import argparse
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from bench_engine import draw_columns, paper_engine
from machine import machine
from pyspark.sql import SparkSession
from torch import Tensor

from mamdr_core.config.engine import OuterSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState, OuterOptimizer
from mamdr_core.engine.parameters import Theta
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.launch import run_ranks

RANKS = (1, 2, 4)
SMALL_GATHERS = 3
"""Of a round: ids and values of the domains' rows, and whether a checkpoint is due."""
COSTS = ("wall", "cpu", "exchange", "exchange_cpu")
WORKERS = (8, 32, 100, 400)
DOMAINS, USERS, ITEMS = 50, 200_000, 40_000
RATES = {"one core here": 0.0, "one H100, captured (5.5 M rows/s)": 5.5e6}
"""Rows a second of an inner loop; 0: as measured."""


@dataclass(frozen=True)
class Network:
    """A simulated network: seconds of latency, bytes a second."""

    latency: float
    bandwidth: float

    def reduce(self, ranks: int, sent: int) -> float:
        """Seconds of a ring all-reduce of `sent` bytes."""
        return 2 * (ranks - 1) * (self.latency + sent / ranks / self.bandwidth)

    def gather(self, ranks: int, sent: int) -> float:
        """Seconds of a ring all-gather of `sent` bytes from each."""
        return (ranks - 1) * (self.latency + sent / self.bandwidth)

    def round(self, ranks: int, parameters: int, tree: bool) -> float:
        """Seconds of a round's outer update, and of the agreement on checkpoints.

        Args:
            ranks: W, each on a machine of its own.
            parameters: dense ones, all-reduced; the embedding rows of the domains alone are few bytes.
            tree: latencies of trees, 2 log W and log W, in place of the rings'.
        """
        seconds = self.reduce(ranks, parameters * 4) + SMALL_GATHERS * self.gather(ranks, 0)
        hops, tree_hops = ((2 + SMALL_GATHERS) * count for count in (ranks - 1, math.ceil(math.log2(ranks))))
        return seconds - (hops - tree_hops) * self.latency if tree else seconds


class Delayed:
    """A Collective whose operations take as long as the network would, besides."""

    def __init__(self, collective: Collective, network: Network) -> None:
        self.rank, self.size = collective.rank, collective.size
        self._collective, self._network = collective, network

    def all_reduce(self, tensor: Tensor) -> Tensor:
        time.sleep(self._network.reduce(self.size, tensor.nbytes))
        return self._collective.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        time.sleep(self._network.gather(self.size, tensor.nbytes))
        return self._collective.all_gather(tensor)

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        time.sleep(self._network.gather(self.size, tensor.nbytes // self.size))
        return self._collective.all_to_all(tensor, splits)

    def broadcast(self, tensor: Tensor) -> Tensor:
        time.sleep(self._network.gather(self.size, tensor.nbytes // self.size))
        return self._collective.broadcast(tensor)


@dataclass(frozen=True)
class Measured:
    """Means over rounds on one rank: wall and CPU seconds of a round and of its exchange, and parameters P."""

    wall: float
    cpu: float
    exchange: float
    exchange_cpu: float
    parameters: int


def rank(rows: int, rounds: int, core: int, network: Network, collective: Collective) -> list[Measured]:
    """What every rank does: rounds of DN on rows of its own, without the network and then with it."""
    affinity, threads = os.sched_getaffinity(0), torch.get_num_threads()
    pin({core}, threads=1)
    columns = draw_columns(DOMAINS, rows // DOMAINS, USERS, ITEMS)
    visits = [Visit(columns, torch.arange(a, b)) for a, b in pairwise(columns.offsets.tolist())]
    engine, shared = paper_engine(
        FastEngine, USERS, ITEMS, DOMAINS, False, argparse.Namespace(device="cpu", precision="fp32")
    )
    state, outer = InnerState.zeros_like(shared), OuterOptimizer(OuterSettings())

    def do_round(number: int, speaking: Collective) -> tuple[float, float]:
        """Wall and CPU seconds of its exchange."""
        change = engine.descend(Theta(shared), visits, 1e-3, "adam", state, seed=number)
        wall, cpu = time.perf_counter(), time.process_time()
        outer.step(shared, mean_change(speaking, change, float(rows)))
        return time.perf_counter() - wall, time.process_time() - cpu

    do_round(0, collective)  # compiles
    found = []
    for speaking in (collective, Delayed(collective, network)):
        collective.all_reduce(torch.zeros(1))
        started, cpu = time.perf_counter(), time.process_time()
        exchanges = [do_round(number, speaking) for number in range(rounds)]
        collective.all_reduce(torch.zeros(1))
        wall, used = time.perf_counter() - started, time.process_time() - cpu
        exchange, exchange_cpu = (sum(each) / rounds for each in zip(*exchanges, strict=True))
        found.append(Measured(wall / rounds, used / rounds, exchange, exchange_cpu, len(shared.dense)))
    pin(affinity, threads)  # one rank alone runs in the driver
    return found


def pin(cores: set[int], threads: int) -> None:
    """Put all threads of this process, the collectives' included, on some cores."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cores)
    torch.set_num_threads(threads)


def measure(spark: SparkSession, options: argparse.Namespace, network: Network) -> list[dict[int, list[Measured]]]:
    """Without the network and with it: by number of ranks, of each repeat the mean over ranks."""
    found: list[dict[int, list[Measured]]] = [{ranks: [] for ranks in RANKS} for _ in range(2)]
    for _ in range(options.repeats):
        for ranks in RANKS:
            task = partial(rank, options.rows, options.rounds, options.core, network)
            results = run_ranks(spark, task, ranks, 120, options.launcher)
            for kind, own in zip(found, zip(*results, strict=True), strict=True):
                means = [statistics.mean(getattr(one, name) for one in own) for name in COSTS]
                kind[ranks].append(Measured(*means, own[0].parameters))
    return found


def report(found: dict[int, list[Measured]], title: str) -> None:
    alone = found[1]
    columns = ("ranks", "round, s", "efficiency, wall (spread)", "efficiency, CPU", "exchange, s a round", "its CPU, s")
    print(f"\n{title}\n\n| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for ranks, measured in found.items():
        pairs = list(zip(alone, measured, strict=True))
        wall = [ranks * one.wall / own.wall for one, own in pairs]
        cpu = [one.cpu / own.cpu for one, own in pairs]
        spread = f"{statistics.median(wall):.3f} ({min(wall):.3f} to {max(wall):.3f})"
        seconds, _, exchange, own_cpu = (statistics.median(getattr(own, name) for own in measured) for name in COSTS)
        print(f"| {ranks} | {seconds:.3f} | {spread} | {statistics.median(cpu):.3f} | {exchange:.4f} | {own_cpu:.4f} |")


def model(found: dict[int, list[Measured]], rows: int, network: Network) -> None:
    """Efficiency of W machines: a round's compute over it with the exchange's own CPU seconds and the network's."""
    alone = found[1]
    one = statistics.median(each.cpu for each in alone)
    own = statistics.median(each.exchange_cpu for each in found[max(RANKS)])
    sent = alone[0].parameters * 4
    print(f"\nModel: {sent / 1e6:.2f} MB all-reduced a round, {own * 1e3:.1f} ms of CPU of the exchange.\n")
    print("| workers | " + " | ".join(f"{name}: {kind}" for name in RATES for kind in ("ring", "tree")) + " |")
    print("|---" * (1 + 2 * len(RATES)) + "|")
    for workers in WORKERS:
        cells = []
        for rate in RATES.values():
            compute = rows / rate if rate else one
            for tree in (False, True):
                lost = own + network.round(workers, alone[0].parameters, tree)
                cells.append(f"{compute / (compute + lost):.3f}")
        print(f"| {workers} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=51_200, help="of a rank and round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--core", type=int, default=0, help="that all ranks are pinned to")
    parser.add_argument("--latency", type=float, default=100.0, help="of the simulated network, microseconds")
    parser.add_argument("--gigabits", type=float, default=10.0, help="a second, of the simulated network")
    parser.add_argument("--launcher", choices=("horovod", "torch"), default="horovod")
    options = parser.parse_args()
    network = Network(options.latency * 1e-6, options.gigabits * 1e9 / 8)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    # Ranks import this folder's modules.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    spark = SparkSession.builder.master(f"local[{max(RANKS)}]").config("spark.ui.enabled", "false").getOrCreate()
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}, {options.launcher}, {options.rows:,} rows a rank and round")
    plain, delayed = measure(spark, options, network)
    report(plain, "Without a network")
    report(delayed, f"With {options.latency:.0f} us and {options.gigabits:.0f} Gbit/s simulated")
    model(plain, options.rows, network)
    spark.stop()


if __name__ == "__main__":
    main()
