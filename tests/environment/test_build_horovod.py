"""Horovod's build script: the patch that lets the release compile, GPU support, and its wheel's name."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build_horovod() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_horovod", ROOT / "environment/build_horovod.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path: Path, build_horovod: ModuleType) -> Path:
    """A tree with Horovod's three CMake files as they are released."""
    for name, (setting, _) in build_horovod.STANDARDS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"project(horovod)\n  set({setting} 14)\nset(OTHER 14)\n")
    return tmp_path


def test_patching_raises_the_standards_and_nothing_else(build_horovod: ModuleType, source: Path) -> None:
    build_horovod.patch_standards(source)
    assert (source / "CMakeLists.txt").read_text() == "project(horovod)\n  set(CMAKE_CXX_STANDARD 17)\nset(OTHER 14)\n"
    assert "set(CMAKE_CUDA_STANDARD 17)" in (source / "horovod/common/ops/cuda/CMakeLists.txt").read_text()


def test_a_file_without_the_setting_is_an_error_that_names_it(build_horovod: ModuleType, source: Path) -> None:
    (source / "horovod/torch/CMakeLists.txt").write_text("project(horovod)\n")
    with pytest.raises(SystemExit, match=r"set\(CMAKE_CXX_STANDARD .*horovod/torch/CMakeLists.txt, found 0"):
        build_horovod.patch_standards(source)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of packages with the nvidia-nccl wheel, as pip leaves it."""
    for name in ("include/nccl.h", "lib/libnccl.so.2"):
        path = tmp_path / "packages/nvidia/nccl" / name
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path / "packages"


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA toolkit of the version that torch is built for, on a machine without a GPU."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return write_toolkit(tmp_path / "cuda", "12.4")


def write_toolkit(folder: Path, release: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin/nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.99'\n")
    nvcc.chmod(0o755)
    return folder


def test_nccl_is_built_in_with_the_toolkit_of_cuda_home_or_of_the_path(
    build_horovod: ModuleType, toolkit: Path, packages: Path
) -> None:
    expected = (toolkit, packages / "nvidia/nccl", "")
    assert build_horovod.find_gpu({"CUDA_HOME": str(toolkit), "PATH": ""}, packages) == expected
    assert build_horovod.find_gpu({"PATH": f"/nowhere:{toolkit}/bin"}, packages) == expected
    assert build_horovod.find_gpu({"CUDA_HOME": "/nowhere", "PATH": f"{toolkit}/bin"}, packages) == expected


def test_without_a_toolkit_or_without_torchs_nccl_horovod_is_built_for_the_cpu(
    build_horovod: ModuleType, toolkit: Path, packages: Path, tmp_path: Path
) -> None:
    assert build_horovod.find_gpu({"PATH": "/nowhere"}, packages) is None
    assert build_horovod.find_gpu({"CUDA_HOME": str(toolkit)}, tmp_path / "empty") is None


@pytest.mark.usefixtures("toolkit")
def test_a_toolkit_of_another_major_version_than_torchs_is_ignored_with_a_note(
    build_horovod: ModuleType, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = write_toolkit(tmp_path / "older", "11.8")
    assert build_horovod.find_gpu({"CUDA_HOME": str(older)}, packages) is None
    assert "built without NCCL" in capsys.readouterr().out


def test_the_cards_of_the_machine_are_what_it_is_built_for(
    build_horovod: ModuleType, toolkit: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(12, 0), (8, 0), (12, 0)][index])
    assert build_horovod.find_gpu({"CUDA_HOME": str(toolkit)}, packages).architectures == "80,120"


def test_nccl_settings_point_to_torchs_library_by_the_linkers_name(
    build_horovod: ModuleType, toolkit: Path, packages: Path, tmp_path: Path
) -> None:
    nccl, links = packages / "nvidia/nccl", tmp_path / "links"
    links.mkdir()
    settings = build_horovod.gpu_settings(build_horovod.Gpu(toolkit, nccl, "80,120"), links)
    assert (links / "libnccl.so").resolve() == nccl / "lib/libnccl.so.2"
    assert settings == {
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_NCCL_INCLUDE": f"{nccl}/include",
        "HOROVOD_NCCL_LIB": str(links),
        "HOROVOD_NCCL_LINK": "SHARED",
        "HOROVOD_CUDA_HOME": str(toolkit),
        "CUDA_HOME": str(toolkit),
        "HOROVOD_BUILD_CUDA_CC_LIST": "80,120",
    }


def test_the_wheel_is_kept_by_what_its_binary_depends_on(build_horovod: ModuleType, tmp_path: Path) -> None:
    name = build_horovod.wheel_folder(tmp_path, None).name
    assert name.startswith("0.28.1-torch2.9.1-py3.11-")
    variants = [build_horovod.Gpu(tmp_path, tmp_path, architectures) for architectures in ("80,120", "")]
    names = [build_horovod.wheel_folder(tmp_path, gpu).name for gpu in variants]
    assert names == [f"{name}-nccl-sm80_120", f"{name}-nccl-sm_all"]
