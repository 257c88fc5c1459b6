"""Plugin modules that the driver can import can be imported by ranks of both launchers."""

import importlib
import sys

import pytest

from mamdr_core.parallel.launch import run_ranks
from mamdr_core.parallel.shipping import ship_modules

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def shipped(spark, tmp_path_factory):
    """A package and a single module, in a folder that only this process looks into."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sent_package").mkdir()
    (folder / "sent_package/__init__.py").write_text("")
    (folder / "sent_package/deep.py").write_text("from sent_module import number\n\ndef name():\n    return number\n")
    (folder / "sent_module.py").write_text("number = 7\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        for name in ("sent_package.deep", "sent_module"):
            importlib.import_module(name)
        for _ in range(2):
            ship_modules(spark, ["sent_package.deep", "sent_module", "torch", "mamdr_core.runtime.plugins"])
        yield folder
    for name in ("sent_package.deep", "sent_package", "sent_module"):
        sys.modules.pop(name)


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_ranks_import_what_the_driver_does(spark, shipped, launcher):
    def call(collective):
        return collective.rank, importlib.import_module("sent_package.deep").name()

    assert run_ranks(spark, call, 2, 120, launcher) == [(0, 7), (1, 7)]


def test_each_package_is_sent_once(spark, shipped):
    names = [name.rpartition("-")[0] for name in spark.sparkContext._python_includes]  # other tests send others
    assert [names.count(name) for name in ("sent_module", "sent_package", "torch", "mamdr_core")] == [1, 1, 0, 0]
