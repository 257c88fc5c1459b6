"""`train.host_memory` bounds the memory of a rank while it reads and afterwards."""

import json
import pickle
import subprocess
import sys

import numpy as np

PROGRAM = """
import json, pickle, sys, threading
import numpy as np
import mamdr_core.shards.petastorm_reader  # before the measurement, which must not include the import's memory
from mamdr_core.shards.loading import Share

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1e3

with open(sys.argv[1], "rb") as file:
    pinned, features, bound, scratch = pickle.load(file)
before, peak, done = anonymous(), [0.0], threading.Event()
def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=watch)
thread.start()
columns = Share(pinned, features, np.ones(len(pinned.domain_ids), dtype=bool), bound, scratch).columns("train")
done.set()
thread.join()
peak[0] = max(peak[0], anonymous())
print(json.dumps({"peak": peak[0] - before, "sum": columns.ids["user"].sum().item()}))
"""


def measure(tmp_path, *task):
    """Peak megabytes of anonymous memory while a separate process reads a share."""
    path = tmp_path / "task.pickle"
    path.write_bytes(pickle.dumps(task))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_memory_mapped_share_needs_a_part_of_its_size(make_rows, make_pinned, features, tmp_path):
    rows = make_rows([120_000] * 10)
    spread = rows["key"] % 2 == 0
    pinned = make_pinned([rows[spread], rows[~spread]], 10, row_group=30_000)
    in_memory = measure(tmp_path, pinned, features, 0.0, str(tmp_path))
    mapped = measure(tmp_path, pinned, features, 0.01, str(tmp_path))
    assert in_memory["sum"] == mapped["sum"] == int((rows["user"].astype(np.int64) + 1).sum())
    share = 1_200_000 * (4 * 4 + 4 + 4 + 8 + 8) / 1e6
    assert in_memory["peak"] > share
    assert mapped["peak"] < 0.6 * share
