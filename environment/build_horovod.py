"""Build the patched Horovod wheel once per (Horovod, torch, Python, this script) and install it.

Horovod's last release does not compile against torch >= 2.1: its CMake files ask for C++14 where torch's headers need
C++17. This script unpacks the source release, raises the standards, builds with PyTorch and Gloo, and keeps the wheel
in the cache, so that a second clone installs it in seconds. The build log stays beside the wheel.

Where there is a CUDA toolkit (CUDA_HOME, or nvcc on PATH) of the major version that torch is built for, NCCL is built
in too, with the library that torch brings along, and the wheel is kept under a name of its own.

    .venv/bin/python environment/build_horovod.py CACHE_DIR
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

HOROVOD = "0.28.1"
SOURCE_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
STANDARDS = {  # CMake file -> (setting, standard that torch's headers need)
    "CMakeLists.txt": ("CMAKE_CXX_STANDARD", 17),
    "horovod/torch/CMakeLists.txt": ("CMAKE_CXX_STANDARD", 17),
    "horovod/common/ops/cuda/CMakeLists.txt": ("CMAKE_CUDA_STANDARD", 17),
}
# GCC >= 13 no longer includes these through other headers.
HEADERS = ("string", "cstdint", "memory", "stdexcept", "functional", "limits")
BUILD_SETTINGS = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
    "CXXFLAGS": " ".join(f"-include {header}" for header in HEADERS),
}


class Gpu(NamedTuple):
    """What Horovod is built with for GPUs.

    Attributes:
        toolkit: the CUDA toolkit's folder.
        nccl: the folder of the nvidia-nccl wheel, on which torch depends.
        architectures: compute capabilities as "80,90"; empty: all that the toolkit knows.
    """

    toolkit: Path
    nccl: Path
    architectures: str


def find_gpu(environment: Mapping[str, str], packages: Path) -> Gpu | None:
    """The toolkit that `environment` names and the NCCL in `packages`; None where one is missing or does not fit torch.

    No device need be there: an image is often built on another machine, for whatever cards it will meet.
    """
    named = [str(Path(environment["CUDA_HOME"], "bin"))] if environment.get("CUDA_HOME") else []
    nvcc = shutil.which("nvcc", path=os.pathsep.join([*named, environment.get("PATH", "")]))
    nccl = packages / "nvidia/nccl"
    if not nvcc or not (nccl / "lib/libnccl.so.2").exists():
        return None

    import torch

    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.", told)
    if not release or release[1] != (torch.version.cuda or "").split(".")[0]:
        number = f"CUDA {release[1]}" if release else "no version that it tells"
        print(f"horovod: built without NCCL: {nvcc} is of {number}, torch is built for {torch.version.cuda}")
        return None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    capabilities = sorted({torch.cuda.get_device_capability(device) for device in devices})
    architectures = ",".join(f"{major}{minor}" for major, minor in capabilities)
    return Gpu(Path(nvcc).resolve().parent.parent, nccl, architectures)


def gpu_settings(gpu: Gpu, links: Path) -> dict[str, str]:
    """Horovod's build settings for NCCL; the wheel has no libnccl.so for the linker, so one is made in `links`."""
    (links / "libnccl.so").symlink_to(gpu.nccl / "lib/libnccl.so.2")
    settings = {
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_NCCL_INCLUDE": str(gpu.nccl / "include"),
        "HOROVOD_NCCL_LIB": str(links),
        "HOROVOD_NCCL_LINK": "SHARED",
        "HOROVOD_CUDA_HOME": str(gpu.toolkit),
        "CUDA_HOME": str(gpu.toolkit),  # where torch's own build helpers look
    }
    return settings | ({"HOROVOD_BUILD_CUDA_CC_LIST": gpu.architectures} if gpu.architectures else {})


def wheel_folder(cache: Path, gpu: Gpu | None) -> Path:
    """Where the wheel of this environment lies: its name holds everything that the binary depends on."""
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    variant = f"-nccl-sm{gpu.architectures.replace(',', '_') or '_all'}" if gpu else ""
    return cache / "horovod" / f"{HOROVOD}-torch{version('torch')}-{python}-{platform.machine()}-{script}{variant}"


def download_source(folder: Path) -> Path:
    """Fetch the source release with pip, which knows the user's index and proxy, and check its hash."""
    requirement = folder / "horovod.txt"
    requirement.write_text(f"horovod=={HOROVOD} --hash=sha256:{SOURCE_SHA256}\n")
    run_pip("download", "--require-hashes", "--no-deps", "--no-binary", "horovod", "--no-build-isolation",
            "--dest", str(folder), "--requirement", str(requirement))  # fmt: skip
    return folder / f"horovod-{HOROVOD}.tar.gz"


def run_pip(*arguments: str, **options: Any) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, **options)


def patch_standards(source: Path) -> None:
    """Raise the language standards in place; an unexpected file is an error, not a silent no-op."""
    for name, (setting, standard) in STANDARDS.items():
        path = source / name
        text, count = re.subn(rf"^(\s*set\({setting}) \d+\)", rf"\1 {standard})", path.read_text(), flags=re.M)
        if count != 1:
            raise SystemExit(f"error: expected one 'set({setting} ...)' in Horovod's {name}, found {count}")
        path.write_text(text)


def build_wheel(target: Path, gpu: Gpu | None) -> None:
    """Compile in a scratch folder and move the finished wheel to `target` in one rename."""
    log_path = target / "build.log"
    with tempfile.TemporaryDirectory(prefix="horovod-build-") as scratch:
        archive = download_source(Path(scratch))
        with tarfile.open(archive) as source_release:
            source_release.extractall(scratch)  # its hash was checked, and filters came with Python 3.11.4
        source = Path(scratch) / f"horovod-{HOROVOD}"
        patch_standards(source)
        print(f"horovod: compiling (2 to 5 minutes on two cores, log: {log_path})", flush=True)
        environment = {**os.environ, **BUILD_SETTINGS, "MAKEFLAGS": f"-j{os.cpu_count()}"}
        folders = [str(Path(sys.executable).parent)]  # cmake comes from the lock file, not from the machine
        if gpu:
            environment |= gpu_settings(gpu, Path(scratch))
            folders.append(str(gpu.toolkit / "bin"))
        environment["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])
        with log_path.open("w") as log:
            try:
                run_pip("wheel", "--verbose", "--no-deps", "--no-build-isolation", "--wheel-dir", scratch, str(source),
                        env=environment, stdout=log, stderr=subprocess.STDOUT)  # fmt: skip
            except subprocess.CalledProcessError:
                raise SystemExit(f"error: Horovod did not compile; the compiler's words are in {log_path}") from None
        (wheel,) = Path(scratch).glob("horovod-*.whl")
        part = target / f"{wheel.name}.part"
        shutil.copy(wheel, part)
        part.rename(target / wheel.name)


def main() -> None:
    gpu = find_gpu(os.environ, Path(sysconfig.get_path("purelib")))
    target = wheel_folder(Path(sys.argv[1]), gpu)
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clones being set up at once build one wheel
        if not list(target.glob("*.whl")):
            build_wheel(target, gpu)
    (wheel,) = target.glob("*.whl")
    run_pip("install", "--no-deps", "--force-reinstall", str(wheel))
    print(f"horovod: installed {wheel.name}")


if __name__ == "__main__":
    main()
