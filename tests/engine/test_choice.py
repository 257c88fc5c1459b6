"""Which engine `auto` takes."""

import pytest
import torch

from mamdr_core.engine.choice import FAST_ROWS, choose_engine
from mamdr_core.errors import MamdrError

CPU = torch.device("cpu")


def test_auto_compiles_where_the_run_is_long_enough_to_repay_it(caplog):
    caplog.set_level("INFO")
    assert choose_engine("auto", CPU, FAST_ROWS) == "fast"
    assert choose_engine("auto", CPU, FAST_ROWS - 1) == "eager"
    assert "the eager engine runs: 2,999,999 row-descents at most do not repay compiling" in caplog.text
    assert choose_engine("fast", CPU, 1) == "fast"
    assert choose_engine("eager", CPU, 10 * FAST_ROWS) == "eager"


def test_without_a_compiler_auto_is_eager_and_fast_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert choose_engine("auto", CPU, 10 * FAST_ROWS) == "eager"
    with pytest.raises(MamdrError, match=r"train.engine is fast, but there is no compiler no-such-compiler"):
        choose_engine("fast", CPU, 10 * FAST_ROWS)
