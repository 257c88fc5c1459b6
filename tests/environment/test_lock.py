"""The locked environment: the pins that were verified together, hashes on everything, no index named."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = {
    "pyspark": "4.0.5",
    "delta-spark": "4.0.1",
    "petastorm": "0.13.1",
    "pyarrow": "14.0.2",
    "numpy": "1.26.4",
    "torch": "2.9.1",
    "horovod": "0.28.1",
}


@pytest.mark.parametrize(("name", "pin"), PINS.items())
def test_the_environment_has_the_pins_that_were_verified_together(name: str, pin: str) -> None:
    assert version(name) == pin


def test_looser_pins_hold() -> None:
    assert version("pandas").startswith("2.3.")
    assert version("pydantic").startswith("2.")
    assert int(version("setuptools").split(".")[0]) < 70


def test_installed_packages_agree_with_each_other() -> None:
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", ["bootstrap", "requirements", "airflow"])
def test_every_locked_package_has_a_hash_and_no_index_is_named(name: str) -> None:
    text = (ROOT / f"environment/{name}.lock").read_text()
    entries = re.split(r"^(?=\S+==)", text, flags=re.M)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "index-url" not in text
