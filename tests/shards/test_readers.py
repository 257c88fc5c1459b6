"""Both readers return the same batches, and the arrow reader works without Petastorm."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mamdr_core
from mamdr_core.config.training import ReaderName
from mamdr_core.shards.reading import RowGroupRun, read_batches
from schemas import TABLES

COUNTS = [7, 25, 3, 0, 40]  # 75 rows in row groups of 10
WITHOUT_PETASTORM = """
import pickle, sys
sys.modules["petastorm"] = None  # imports fail as if it were not installed
import numpy as np
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share

with open(sys.argv[1], "rb") as file:
    pinned, features = pickle.load(file)
share = Share(pinned, features, np.ones(len(pinned.domain_ids), dtype=bool), reader="arrow")
print(share.columns("train").ids["user"].sum().item(), share.vectors()["taste"].count_nonzero().item())
try:
    Share(pinned, features, np.ones(len(pinned.domain_ids), dtype=bool)).columns("train")
except MamdrError as error:
    print(error)
"""


@pytest.mark.parametrize("reader", ReaderName.__args__)
def test_row_groups_are_read_in_order_and_those_of_a_run_share_a_batch(make_rows, make_pinned, reader):
    rows = make_rows(COUNTS)
    pinned = make_pinned([rows[:50], rows[50:]], len(COUNTS))
    runs = [RowGroupRun(pinned.files[file].url, numbers) for file, numbers in ((1, (2,)), (0, (3, 0)), (1, (1,)))]
    read = list(read_batches(runs, TABLES["examples"], ["user", "domain", "key"], reader))
    assert [url for url, _ in read] == [pinned.files[file].url for file in (1, 0, 1)]
    for (_, batch), positions in zip(
        read, ([*range(70, 75)], [*range(30, 40), *range(10)], [*range(60, 70)]), strict=True
    ):
        expected = rows.iloc[positions][["user", "domain", "key"]].reset_index(drop=True)
        assert batch.to_pandas().equals(expected)


def test_the_arrow_reader_works_without_petastorm(make_rows, make_pinned, features, tmp_path):
    rows = make_rows(COUNTS)
    task = tmp_path / "task.pickle"
    task.write_bytes(pickle.dumps((make_pinned([rows], len(COUNTS)), features)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PETASTORM, str(task)], capture_output=True, text=True, check=True
    )
    read, error = done.stdout.splitlines()
    assert read == f"{int((rows['user'].astype(np.int64) + 1).sum())} 9"
    assert error.startswith("train.reader is petastorm, and Petastorm cannot be imported")
    assert "set train.reader: arrow" in error


def test_only_one_module_imports_petastorm():
    package = Path(mamdr_core.__file__).parent

    def imports(path: Path) -> set[str]:
        found = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in found]
        return {name.partition(".")[0] for name in names}

    importers = [path.name for path in package.rglob("*.py") if "petastorm" in imports(path)]
    assert importers == ["petastorm_reader.py"]
