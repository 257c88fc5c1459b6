"""Checks whether the cluster, the lake's store and the tracker respond.

Each check returns what was found and what to do about it, which is empty if nothing is wrong.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 3
"""Time limit of a response."""
Found = tuple[str, str]
_READ = """
import json, sys
from mamdr_core.config.job_config import load_config
from mamdr_core.runtime.errors import MamdrError
try:
    config = load_config(sys.argv[1])
    print(json.dumps({"lake": config.lake.root, "tracker": config.tracking.mlflow}))
except MamdrError as error:
    sys.exit(str(error))
"""


def read_config(path: str) -> tuple[dict[str, str], str]:
    """The lake's root and the tracker that a config names; or why it cannot be read."""
    command = [sys.executable, "-c", _READ, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout), ""
    return {}, (done.stderr.strip().splitlines() or ["no reason is printed"])[-1]


def check_cluster(master: str) -> Found:
    """Whether a Spark master responds."""
    if master.startswith("local"):
        return f"{master}, this machine", ""
    if master == "yarn":
        folder = os.environ.get("HADOOP_CONF_DIR") or os.environ.get("YARN_CONF_DIR") or ""
        there = folder and (Path(folder) / "yarn-site.xml").is_file()
        return (
            f"yarn, described in {folder or 'no folder'}",
            "" if there else "set HADOOP_CONF_DIR to its yarn-site.xml",
        )
    address = master.removeprefix("k8s://")
    if not master.startswith(("spark://", "k8s://")):
        return master, "expected local[N], spark://HOST:PORT, k8s://HOST:PORT or yarn"
    # A standalone cluster may name several masters, one of which leads.
    closed = [why for each in address.split(",") if (why := closed_port(each, 443 if "k8s" in master else 7077))]
    if len(closed) == len(address.split(",")):
        return f"{master} does not respond ({closed[0]})", "start it, or correct the address or the firewall"
    return f"{master} responds", ""


def check_lake(root: str, settings: Path) -> Found:
    """Whether a lake's root can be written, or its store responds.

    Args:
        root: lake.root.
        settings: spark-defaults.conf, which may name the store's endpoint.
    """
    if root.startswith("s3a://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or _endpoint(settings) or "https://s3.amazonaws.com"
        why = closed_port(endpoint if "://" in endpoint else f"https://{endpoint}", 443)
        found = f"{root} at {endpoint} {f'does not respond ({why})' if why else 'responds'}"
        return found, "correct AWS_ENDPOINT_URL or spark.hadoop.fs.s3a.endpoint, or the firewall" if why else ""
    if "://" in root:
        return f"{root}, which only Spark can reach", ""
    existing = next(path for path in (Path(root).absolute(), *Path(root).absolute().parents) if path.exists())
    return str(Path(root).absolute()), "" if os.access(existing, os.W_OK) else f"{existing} cannot be written"


def check_tracker(uri: str) -> Found:
    """Whether an MLflow server responds; runs do not require it."""
    if not uri.startswith("http"):
        return uri or "none (tracking.mlflow)", ""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS):
            return f"{uri} responds", ""
    except urllib.error.HTTPError as error:
        return f"{uri} responds with {error.code}", "" if error.code in (401, 403) else "is it an MLflow server?"
    except OSError as error:
        return f"{uri} does not respond ({error})", "start it, or leave tracking.mlflow empty: runs do not require it"


def check_gpu(probe: Callable[[str], tuple[bool, str]]) -> Found:
    """Whether torch can use the GPUs of the driver, and ranks can average on them.

    Args:
        probe: runs Python; whether it works and its last line.
    """
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return "none, training runs on the CPU", ""
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU")]
    if listed.returncode or not gpus:
        return "none, training runs on the CPU", ""
    code = "import torch, horovod.torch as hvd; print(torch.cuda.is_available(), hvd.nccl_built() > 0)"
    works, printed = probe(code)
    usable, nccl = printed.split() if works else ("False", "False")
    found = f"{len(gpus)}, the first {gpus[0].partition(': ')[2].partition(' (')[0]}"
    if usable != "True":
        return f"{found}, which torch cannot use", "see the line for torch; its CUDA may be newer than the driver"
    if nccl != "True":
        return (
            f"{found}, Horovod without NCCL",
            "install torch's CUDA toolkit, then run make -B setup (only several ranks need it)",
        )
    return f"{found}, Horovod with NCCL", ""


def closed_port(address: str, port: int) -> str:
    """Why an address, a URL or HOST:PORT, accepts no connection; empty if it does."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        default = 80 if parts.scheme == "http" else port
        with socket.create_connection((parts.hostname or "", parts.port or default), timeout=SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return str(error)


def _endpoint(settings: Path) -> str:
    lines = settings.read_text().splitlines() if settings.is_file() else []
    pairs = [line.split(None, 1) for line in lines if line.startswith("spark.hadoop.fs.s3a.endpoint ")]
    return pairs[-1][1].strip() if pairs else ""
