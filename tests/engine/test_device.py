"""Which CUDA device is a rank's own, and whether torch can use it."""

import pytest
import torch

from mamdr_core.engine.device import cuda_device, cuda_trouble, use_cuda

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120"]


@pytest.fixture
def devices(monkeypatch):
    """Make torch find CUDA devices of the given compute capabilities; none, as here, by default."""

    def find(*capabilities, built=WHEEL):
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    find()
    return find


@pytest.mark.parametrize(("local_rank", "index"), [(None, 0), ("0", 0), ("1", 1), ("5", 2)])
def test_ranks_of_one_machine_use_its_devices_in_turn(devices, monkeypatch, local_rank, index):
    devices((9, 0), (9, 0), (9, 0))
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert not cuda_trouble()
    assert cuda_device() == torch.device("cuda", index)
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    use_cuda()
    assert used == [cuda_device()]


def test_without_a_device_none_is_used(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pytest.fail("there is none"))
    use_cuda()
    assert cuda_trouble().startswith("torch finds no CUDA device here")


def test_torch_without_cuda_is_reported(devices, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda_trouble() == f"torch {torch.__version__} is built without CUDA"


def test_a_device_that_torch_is_not_built_for_is_reported(devices):
    devices((6, 1))
    assert cuda_trouble().startswith("CUDA device 0 (Card 0, sm_61) is not among those that this torch is built for")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 9), ["sm_80"], True),  # code for 8.0 runs on 8.9
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # PTX is compiled for later cards
        ((7, 5), ["sm_80", "compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_90", "sm_120"], True),
        ((10, 3), ["sm_100", "sm_120"], True),
    ],
)
def test_a_device_runs_code_of_its_major_version_and_earlier_ptx(devices, capability, built, runs):
    devices(capability, built=built)
    assert (not cuda_trouble()) == runs
