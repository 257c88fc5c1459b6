"""Collective operations between ranks, with implementations for a single process and for simulated ranks."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


class PeerLostError(RuntimeError):
    """A collective failed because another rank was lost: a consequence of the failure, not its cause."""


class Collective(Protocol):
    """Operations in which every rank takes part, in the same order."""

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks of tensors of one shape."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors of all ranks in rank order; their first dimensions may differ."""

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Send the first `splits[0]` rows to rank 0, the next to rank 1, ...

        Returns:
            The received rows in rank order, and how many came from each rank.
        """

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor."""


def all_reduce_max(collective: Collective, number: int) -> int:
    """Maximum of a number over ranks."""
    return max(gather_numbers(collective, number))


def gather_numbers(collective: Collective, number: int) -> list[int]:
    """The numbers of all ranks, in rank order."""
    numbers: list[int] = collective.all_gather(torch.tensor([number])).tolist()
    return numbers


def gather_texts(collective: Collective, text: str) -> list[str]:
    """The texts of all ranks, in rank order."""
    own = torch.tensor(bytearray(text, "utf-8"), dtype=torch.uint8)
    sizes = collective.all_gather(torch.tensor([len(own)])).tolist()
    return [part.numpy().tobytes().decode("utf-8") for part in collective.all_gather(own).split(sizes)]


class SingleProcess:
    """A single rank: every operation is the identity."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The tensor itself, and its splits."""
        return tensor, list(splits)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


class _SimulatedRank:
    """A simulated rank: ranks take turns in one process, and only one runs between two collectives."""

    def __init__(self, rank: int, exchange: "_SimulatedExchange") -> None:
        self.rank = rank
        self.size = len(exchange.values)
        self._exchange = exchange

    def all_reduce(self, tensor: Tensor) -> Tensor:
        tensors = self._exchange.exchange(self.rank, tensor)
        assert len({each.dtype for each in tensors}) == 1, "ranks reduce tensors of several types"
        return torch.stack(tensors).sum(0)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.cat(self._exchange.exchange(self.rank, tensor))

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        parts_of_all = self._exchange.exchange(self.rank, tensor.split(list(splits)))
        received = [parts[self.rank] for parts in parts_of_all]
        return torch.cat(received), [len(part) for part in received]

    def broadcast(self, tensor: Tensor) -> Tensor:
        first: Tensor = self._exchange.exchange(self.rank, tensor)[0]
        return first


class _SimulatedExchange:
    """Exchanges values between simulated ranks; ranks run in turns, so that global state is not used concurrently."""

    def __init__(self, ranks: int) -> None:
        self.values: list[object] = [None] * ranks
        self._turn = 0
        self._turns = [threading.Semaphore(int(rank == 0)) for rank in range(ranks)]  # each release wakes one thread
        self._failed = False

    def wait_for_turn(self, rank: int) -> None:
        self._turns[rank].acquire()
        if self._failed:
            raise RuntimeError("another simulated rank failed")

    def pass_turn(self) -> None:
        self._turn = (self._turn + 1) % len(self.values)
        self._turns[self._turn].release()

    def fail(self) -> None:
        self._failed = True
        for turn in self._turns:
            turn.release()

    def exchange(self, rank: int, value: T) -> list[T]:
        self.values[rank] = value
        self.pass_turn()
        self.wait_for_turn(rank)  # all other ranks have written their values
        values = list(self.values)
        self.pass_turn()
        self.wait_for_turn(rank)  # all other ranks have read the values
        return cast("list[T]", values)


def run_simulated(task: Callable[[Collective], T], ranks: int) -> list[T]:
    """Simulate ranks in this process, for tests and benchmarks; only one runs at a time.

    Returns:
        The results of the ranks, in rank order.

    Raises:
        BaseException: the exception of the first rank that failed.
    """
    exchange = _SimulatedExchange(ranks)
    results: list[T | None] = [None] * ranks
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            exchange.wait_for_turn(rank)
            results[rank] = task(_SimulatedRank(rank, exchange))
            exchange.pass_turn()
        except BaseException as error:
            errors.append(error)
            exchange.fail()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return cast("list[T]", results)
