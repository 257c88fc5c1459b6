"""Threads of torch: small operations do not gain from several threads, so tasks are divided among threads instead."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch

SPANNING_FLOPS = 5e8
"""Operations of the matrix products of a step from which they use all threads: about five milliseconds of a core. In
smaller steps threads wait longer for one another than they compute if other processes use the cores as well."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_to_compile_alone(error: Exception) -> bool:
    """Whether an error reports that `divide` called a function that must first be compiled."""
    return "stance is 'fail_on_recompile'" in str(error)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run operations of torch on one thread, which is faster for small operations on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def threads_for(flops: float) -> AbstractContextManager[None]:
    """Run steps on one thread if their matrix products are small, otherwise on all threads.

    Args:
        flops: operations of the matrix products of a step.
    """
    return one_thread() if flops < SPANNING_FLOPS else nullcontext()


def divide(
    task: Callable[[Item], Result], items: Sequence[Item], threads: int, compiled: bool
) -> Iterator[Result | None]:
    """Results of a task for each item, in order; every thread runs one item at a time.

    Args:
        task: calls operations of torch and compiled functions.
        items: arguments of the task.
        threads: number of threads.
        compiled: whether the task calls compiled functions. torch cannot compile while other threads run compiled
            functions: the result of an item that needs it is None, and the caller runs it again on a single thread.
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
