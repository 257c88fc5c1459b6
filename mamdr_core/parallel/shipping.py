"""Sends modules of plugins to the Python processes of Spark: tasks, and ranks that launchers start from them."""

import atexit
import hashlib
import logging
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

_INSTALLED = {"site-packages", "dist-packages"}
_EPOCH = (1980, 1, 1, 0, 0, 0)


def ship_modules(spark: "SparkSession", modules: Iterable[str]) -> None:
    """Send the packages of imported modules to all Python processes of a session.

    Files of spark-submit --py-files are already there, and installed packages are assumed to be installed on executors.
    Other packages, such as those on the PYTHONPATH of the driver, are sent as a zip file of their Python files.

    Args:
        spark: the session.
        modules: names of the modules; other packages that they import are not sent.
    """
    shipped = spark.sparkContext._python_includes or []
    for package in sorted({name.partition(".")[0] for name in modules}):
        places = _places_of(package)
        archives = [part for place in places for part in place.parents if part.is_file()]
        if not places or any(archive.name in shipped for archive in archives):
            continue
        if package == "mamdr_core" or any(_INSTALLED & {*place.parts} for place in places):
            continue
        if archives:
            spark.sparkContext.addPyFile(str(archives[0]))
            continue
        content = _zipped(package, places)
        name = f"{package}-{hashlib.sha256(content).hexdigest()[:12]}.zip"
        if name in shipped:
            continue
        folder = mkdtemp(prefix="mamdr-code-")
        # Executors that start later fetch it as well, as long as the session lives.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (Path(folder) / name).write_bytes(content)
        spark.sparkContext.addPyFile(str(Path(folder) / name))
        logger.info("sent package %s to the Python processes of Spark (%d bytes)", package, len(content))


def _places_of(package: str) -> list[Path]:
    """Paths of an imported package: its folders, or the file of a single module."""
    module = sys.modules[package]
    if hasattr(module, "__path__"):
        return [Path(folder) for folder in module.__path__]
    return [Path(module.__file__)] if module.__file__ else []


def _zipped(package: str, places: Iterable[Path]) -> bytes:
    """A reproducible zip file of the Python files."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(_files_of(package, places)):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), file.read_bytes())
    return content.getvalue()


def _files_of(package: str, places: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Names in the zip file and paths of the Python files."""
    for place in places:
        if place.is_file():
            yield place.name, place
        for file in place.rglob("*.py") if place.is_dir() else ():
            yield f"{package}/{file.relative_to(place).as_posix()}", file
