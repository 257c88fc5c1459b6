"""Writes the real logs with a column `fold` that assigns each row to a split, for the sets SET_given.

    .venv/bin/python benchmarks/given_splits.py --folder /scratch/recipe

A user's first rows by time are train, then about 20 % val and 20 % test. A user's rows of one time are in one split,
and those of a user with a single time are train. Histories therefore contain no click of a later split.
"""

import argparse
from glob import glob
from pathlib import Path

import pandas as pd
from recipe_sets import CONF, GIVEN_LOG, ROOT

from mamdr_core.config.job_config import load_config

KEYS = {"amazon5": ("reviewerID", "unixReviewTime"), "ciao": ("uid", "ts")}
"""Columns of the user and the time, by file in conf/."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of lakes and logs, as of bench_options.py")
    options = parser.parse_args()
    for conf, (user, time) in KEYS.items():
        given = load_config(str(CONF / f"{conf}.yaml")).input
        folder = options.folder / GIVEN_LOG.format(conf)
        folder.mkdir(parents=True, exist_ok=True)
        is_csv = given.format == "csv"
        logs = {
            Path(path).name: pd.read_csv(path) if is_csv else pd.read_json(path, lines=True, convert_dates=False)
            for path in sorted(glob(str(ROOT / given.path)))
        }
        rows = pd.concat(logs, names=["file"])
        fold = folds(rows[user], rows[time])
        for name, log in logs.items():
            own = log.assign(fold=fold.loc[name])
            if is_csv:
                own.to_csv(folder / name, index=False)
            else:
                own.to_json(folder / name, orient="records", lines=True)


def folds(user: "pd.Series[int]", time: "pd.Series[int]") -> "pd.Series[str]":
    """The split of each row by its relative rank in time among the user's rows, 0 for the first."""
    of_user = time.groupby(user)
    place = (of_user.rank(method="min") - 1) / (of_user.transform("size") - 1).clip(lower=1)
    # A hair below, as .6 of a rank need not be exact.
    return pd.cut(place, [-1, 0.6 - 1e-9, 0.8 - 1e-9, 1], labels=["train", "val", "test"]).astype(str)


if __name__ == "__main__":
    main()
