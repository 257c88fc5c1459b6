"""Horovod's build script: the patch that lets the release compile, and the name its wheel is kept under."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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


def test_the_wheel_is_kept_by_what_its_binary_depends_on(build_horovod: ModuleType, tmp_path: Path) -> None:
    name = build_horovod.wheel_folder(tmp_path).name
    assert name.startswith("0.28.1-torch2.9.1-py3.11-")
