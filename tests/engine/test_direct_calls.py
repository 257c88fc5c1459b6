"""Compiled functions are called without torch's checks for shapes that they have been called with.

The functions are matrix products, for which torch generates Python alone, so that no C++ compiler runs.
"""

import pytest
import torch

from mamdr_core.engine.direct_calls import DirectCalls


class Counted:
    """A compiled function, and how often it was called with torch's checks."""

    def __init__(self, function, **options):
        self._compiled = torch.compile(function, dynamic=True, **options)
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        return self._compiled(*arguments)


@pytest.fixture(autouse=True)
def forgotten():
    """Torch forgets what a test compiled."""
    yield
    torch._dynamo.reset()


def squares(*sizes):
    """Pairs of random matrices of these sizes."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(2)] for size in sizes]


def products(x, y, twice):
    """Two matrices, of which the first depends on an argument that is no tensor."""
    return (x @ y @ y if twice else x @ y), y @ x


def test_a_function_is_called_without_checks_for_shapes_and_keys_that_it_was_called_with():
    function = Counted(products)
    direct = DirectCalls(function)
    for (x, y), twice, calls in zip(squares(3, 3, 4, 3, 4, 3), [False] * 5 + [True], [1, 1, 2, 2, 2, 3], strict=True):
        found = direct(twice, (x, y), x, y, twice)
        for own, expected in zip(found, products(x, y, twice), strict=True):
            torch.testing.assert_close(own, expected)
        assert function.calls == calls


def test_other_strides_are_checked():
    function = Counted(products)
    direct = DirectCalls(function)
    for (x, y), transposes, calls in zip(squares(3, 3, 3, 3), [False, True, False, True], [1, 2, 2, 2], strict=True):
        x = x.t() if transposes else x
        torch.testing.assert_close(direct("", (x, y), x, y, False)[0], x @ y)
        assert function.calls == calls


def test_the_same_tensor_may_be_given_twice():
    function = Counted(products)
    direct = DirectCalls(function)
    for x, y in squares(3, 3):
        torch.testing.assert_close(direct("", (x, x, y), x, y, False)[0], x @ y)
    assert function.calls == 1


def test_different_tensors_are_not_taken_for_one_that_was_given_twice():
    function = Counted(products)
    direct = DirectCalls(function)
    (x, y), (other, _) = squares(3, 3)
    for left, right, calls in ((x, x, 1), (x, y, 2), (other, other, 2), (other, y, 2)):
        torch.testing.assert_close(direct("", (left, right), left, right, False)[0], left @ right)
        assert function.calls == calls


def interrupted(x, y):
    product = x @ y
    torch._dynamo.graph_break()
    return (product @ y,)


def test_a_function_of_several_graphs_is_always_called_with_checks():
    function = Counted(interrupted)
    direct = DirectCalls(function)
    for calls, (x, y) in enumerate(squares(3, 3, 3), 1):
        torch.testing.assert_close(direct("", (x, y), x, y)[0], x @ y @ y)
        assert function.calls == calls


def test_a_function_that_reads_other_tensors_is_always_called_with_checks():
    other = {}
    function = Counted(lambda x: (x @ other["tensor"],))
    direct = DirectCalls(function)
    for calls, (x, y) in enumerate(squares(3, 3, 3), 1):
        other["tensor"] = y
        torch.testing.assert_close(direct("", (x,), x)[0], x @ y)
        assert function.calls == calls


def test_a_function_that_returns_a_view_of_an_input_is_always_called_with_checks():
    function = Counted(lambda x, y: (x @ y, x.t()))
    direct = DirectCalls(function)
    for calls, (x, y) in enumerate(squares(3, 3, 3), 1):
        product, view = direct("", (x, y), x, y)
        torch.testing.assert_close(product, x @ y)
        assert view.data_ptr() == x.data_ptr()
        assert torch.equal(view, x.t())
        assert function.calls == calls


def test_without_generated_code_a_function_is_always_called_with_checks():
    function = Counted(products, backend="eager")
    direct = DirectCalls(function)
    for calls, (x, y) in enumerate(squares(3, 3, 3), 1):
        torch.testing.assert_close(direct("", (x, y), x, y, False)[0], x @ y)
        assert function.calls == calls
