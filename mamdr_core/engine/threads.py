"""Torch's threads: small operations on several of them wait for one another, so work is divided, not operations."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch

SPANNING_FLOPS = 5e8
"""Of a step's products, from which they use all threads: five milliseconds of a core or more. In smaller steps
threads wait for one another longer than they compute when other processes use the cores too."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_to_compile_alone(error: Exception) -> bool:
    """Whether a step would have to be compiled where `divide` allows no compilation."""
    return "stance is 'fail_on_recompile'" in str(error)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations on one thread: for small ones little is lost, and on a busy machine much is gained."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def threads_for(flops: float) -> AbstractContextManager[None]:
    """Run steps on one thread if their products are small, else on all of torch's.

    Args:
        flops: of the products of a step.
    """
    return one_thread() if flops < SPANNING_FLOPS else nullcontext()


def divide(
    task: Callable[[Item], Result], items: Sequence[Item], threads: int, compiled: bool
) -> Iterator[Result | None]:
    """What a task returns for each item, in their order; every thread takes an item at a time and runs it alone.

    Args:
        task: runs torch's operations and what torch.compile has compiled.
        items: what it is called with.
        threads: number of threads.
        compiled: the task calls compiled functions. Where one would have to be compiled, which torch cannot do while
            other threads run compiled ones, the result is None: to be run again by a single thread.
    """
    has_grad = torch.is_grad_enabled()  # each thread has its own

    def run(item: Item) -> Result | None:
        with torch.set_grad_enabled(has_grad):
            try:
                return task(item)
            except RuntimeError as error:
                if compiled and is_to_compile_alone(error):
                    return None
                raise

    with ExitStack() as stack:
        stack.enter_context(one_thread())
        if compiled:
            stack.enter_context(torch.compiler.set_stance("fail_on_recompile"))
        pool = stack.enter_context(ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)))
        yield from pool.map(run, items)
