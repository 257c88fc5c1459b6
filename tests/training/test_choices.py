"""Device, engine and the place of rows: what settings choose, and that all ranks choose the same."""

import threading
from dataclasses import replace

import pytest
import torch

from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.device import cuda_trouble
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training import choices
from mamdr_core.training.choices import (
    FAST_ROWS,
    FAST_STEPS,
    Choices,
    choose_device,
    choose_engine,
    choose_together,
    place_columns,
)
from tests.engine.small_models import random_columns

CPU = torch.device("cpu")
ALONE = SingleProcess()
NO_CARD, NO_COMPILER = "torch finds no CUDA device", "there is no compiler g++"


@pytest.fixture
def run_on(monkeypatch):
    """Run a task as ranks on machines that lack a CUDA device or a compiler, or have so much free GPU memory.

    Returns what each rank's task returned, or the text of its error, after a collective that all ranks must join.
    """

    def run(task, cuda=("",), compiler=("",), memory=(0,)):
        here = threading.local()

        def at_rank(values):
            return values[here.rank % len(values)]

        monkeypatch.setattr(choices, "cuda_trouble", lambda: at_rank(cuda))
        monkeypatch.setattr(choices, "cuda_device", lambda: torch.device("cuda", here.rank))
        monkeypatch.setattr(choices, "compiler_trouble", lambda device: at_rank(compiler))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (at_rank(memory), 1 << 40))

        def task_of_rank(collective):
            here.rank = collective.rank
            try:
                found = task(collective)
            except MamdrError as error:
                found = str(error)
            assert collective.all_gather(torch.tensor([collective.rank])).tolist() == [0, 1, 2]
            return found

        return run_simulated(task_of_rank, 3)

    return run


def choosing(rows=FAST_ROWS, **train):
    return lambda collective: choose_together(replace(TrainSettings(), **train), rows, collective)


def test_auto_compiles_where_the_run_is_long_enough_to_repay_it(caplog):
    caplog.set_level("INFO")
    assert choose_engine("auto", CPU, FAST_ROWS, ALONE) == "fast"
    assert choose_engine("auto", CPU, FAST_ROWS - 1, ALONE) == "eager"
    assert "the eager engine runs: 2,999,999 row-descents at most do not repay compiling" in caplog.text
    assert choose_engine("auto", CPU, FAST_ROWS - 1, ALONE, steps=FAST_STEPS) == "fast"
    assert choose_engine("fast", CPU, 1, ALONE) == "fast"
    assert choose_engine("eager", CPU, 10 * FAST_ROWS, ALONE) == "eager"


def test_without_a_compiler_auto_is_eager_and_fast_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert choose_engine("auto", CPU, 10 * FAST_ROWS, ALONE) == "eager"
    with pytest.raises(MamdrError, match=r"^train.engine is fast, but there is no compiler no-such-compiler: use auto"):
        choose_engine("fast", CPU, 10 * FAST_ROWS, ALONE)


def test_without_cuda_auto_is_the_cpu_and_cuda_an_error(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("INFO"):
        assert choose_device("auto", ALONE) == CPU
    assert f"the CPU is used: {cuda_trouble()}" in caplog.text
    with pytest.raises(MamdrError, match=r"^train.device is cuda, but torch .* CUDA.*: use auto or cpu$"):
        choose_device("cuda", ALONE)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"method": "pcgrad", "precision": "bf16"}, "bf16 needs the fast engine, and the eager one runs"),
        ({"engine": "fast", "precision": "tf32"}, "tf32 needs CUDA, and training runs on the cpu: use fp32"),
    ],
)
def test_a_precision_that_the_device_or_engine_does_not_have_is_an_error(train, message):
    with pytest.raises(MamdrError, match=message):
        choosing(device="cpu", **train)(ALONE)


def test_ranks_with_and_without_a_gpu_all_use_the_cpu_and_rank_0_warns_once(run_on, caplog):
    found = run_on(choosing(), cuda=("", NO_CARD, NO_CARD))
    assert found == [Choices(CPU, "fast")] * 3
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"the CPU is used: {NO_CARD} (ranks 1, 2)"
    ]


def test_ranks_that_all_have_a_gpu_use_their_own(run_on):
    found = run_on(choosing(precision="tf32"))
    assert found == [Choices(torch.device("cuda", rank), "fast") for rank in range(3)]


def test_cuda_that_some_ranks_cannot_use_is_the_same_error_on_all_ranks(run_on):
    found = run_on(choosing(device="cuda"), cuda=(NO_CARD, "", "the driver is too old"))
    message = f"train.device is cuda, but {NO_CARD} (rank 0); the driver is too old (rank 2): use auto or cpu"
    assert found == [message] * 3


def test_tf32_where_a_rank_has_no_gpu_is_the_same_error_on_all_ranks(run_on):
    (message,) = set(run_on(choosing(precision="tf32"), cuda=("", NO_CARD, "")))
    assert "train.precision tf32 needs CUDA, and training runs on the cpu" in message


def test_one_rank_without_a_compiler_decides_the_engine_of_all_ranks(run_on, caplog):
    compiler = ("", "", NO_COMPILER)
    assert run_on(choosing(device="cpu"), compiler=compiler) == [Choices(CPU, "eager")] * 3
    assert f"the eager engine runs: {NO_COMPILER} (rank 2)" in caplog.text
    message = f"train.engine is fast, but {NO_COMPILER} (rank 2): use auto or eager"
    assert run_on(choosing(device="cpu", engine="fast"), compiler=compiler) == [message] * 3


def test_a_message_names_few_of_many_ranks(monkeypatch):
    def task(collective):
        monkeypatch.setattr(choices, "cuda_trouble", lambda: reasons[collective.rank])
        with pytest.raises(MamdrError) as caught:
            choose_device("cuda", collective)
        return str(caught.value)

    reasons = ["", *[NO_CARD] * 10, "a", "b", "c", "d"]
    (message,) = set(run_simulated(task, len(reasons)))
    ranks = "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more"
    assert f"{NO_CARD} ({ranks}); a (rank 11); b (rank 12); and similarly on 2 other ranks" in message


def test_rows_are_on_the_gpu_only_where_those_of_every_rank_fit(run_on, monkeypatch, caplog):
    columns = random_columns([40, 3])
    monkeypatch.setattr(type(columns), "to", lambda own, device: f"on {device}")

    def task(collective):
        return place_columns({"train": columns}, torch.device("cuda", collective.rank), collective)["train"]

    enough = 2 * columns.nbytes
    assert run_on(task, memory=(enough,)) == ["on cuda:0", "on cuda:1", "on cuda:2"]
    caplog.set_level("WARNING")
    assert all(found is columns for found in run_on(task, memory=(enough, enough - 1, enough)))
    assert "rows stay in host memory and are copied to the device in each round: rows take" in caplog.text
    assert "are free (rank 1)" in caplog.text


def test_a_model_that_cannot_be_stacked_uses_the_eager_engine_and_logs_why(caplog):
    train, trouble = TrainSettings(method="dn", device="cpu"), "mine:Model runs one trajectory at a time: it branches"
    with caplog.at_level("INFO"):
        assert choose_together(train, FAST_ROWS, ALONE, trouble).engine == "eager"
    assert f"the eager engine runs: {trouble}" in caplog.text
    with pytest.raises(MamdrError, match=f"train.engine is fast, but {trouble}: use auto or eager"):
        choose_together(replace(train, engine="fast"), FAST_ROWS, ALONE, trouble)
