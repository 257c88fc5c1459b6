"""Reading a rank's share: only its row groups, each row once, in an order that does not depend on files."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mamdr_core.config.features import Feature
from mamdr_core.config.training import ReaderName
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards import arrays, reading
from mamdr_core.shards.loading import Share

COUNTS = [7, 25, 3, 0, 40, 12, 1, 12]  # 100 rows in row groups of 10; domain 4 has rows 35 to 74


SEVERAL = (
    Feature(name="tags", kind="bag", length=3, weights="w"),
    Feature(name="seen", kind="sequence", length=4, table="item"),
)


def with_lists(rows, seed=0):
    """Add a bag and a sequence to rows, with empty lists, nulls, and lists longer than the features."""
    random = np.random.default_rng(seed)
    tags = [random.integers(0, 9, count).tolist() if count else None for count in random.integers(0, 6, len(rows))]
    weights = [None if each is None else random.random(len(each)).astype(np.float32).tolist() for each in tags]
    seen = [random.integers(0, 20, count).tolist() for count in random.integers(0, 8, len(rows))]
    return rows.assign(tags=tags, tags_weights=weights, seen=seen)


def padded(lists, length, newest, add=1):
    kept = [(each or [])[-length:] if newest else (each or [])[:length] for each in lists]
    return [[*(value + add for value in each), *[0] * (length - len(each))] for each in kept]


def owning(*domains, of=8):
    return np.isin(np.arange(of), domains)


def path_of(pinned, number=0):
    return Path(unquote(pinned.files[number].url.removeprefix("file:")))


def assert_holds(columns, rows, pinned):
    """The columns equal the rows sorted by domain and key and encoded by pandas."""
    rows = rows.sort_values(["domain", "key"])
    for name in ("user", "item", "domain", "weekday"):
        assert columns.ids[name].dtype == torch.int32
        assert columns.ids[name].tolist() == (rows[name] + 1).tolist()
    assert columns.labels.tolist() == rows["label"].tolist()
    mean, deviation = pinned.numeric["hour"]
    hours = ((rows["hour"].astype(float) - mean) / deviation).fillna(0.0).astype(np.float32)
    assert columns.numeric[:, 0].tolist() == hours.tolist()
    assert columns.counts.tolist() == np.bincount(rows["domain"], minlength=len(pinned.domain_ids)).tolist()
    if "tags" in columns.ids:
        assert (columns.ids["tags"].dtype, columns.bag_weights["tags"].dtype) == (torch.int32, torch.float32)
        assert columns.ids["tags"].tolist() == padded(rows["tags"], 3, newest=False)
        assert columns.bag_weights["tags"].tolist() == padded(rows["tags_weights"], 3, newest=False, add=0)
        assert columns.ids["seen"].tolist() == padded(rows["seen"], 4, newest=True)
    if columns.true_probability is not None:
        assert columns.true_probability.tolist() == rows["true_probability"].tolist()


def test_only_the_row_groups_of_the_ranks_domains_are_read(make_rows, make_pinned, features):
    """The bytes of all other row groups are overwritten, which causes no error."""
    rows = make_rows(COUNTS)
    pinned = make_pinned([rows], len(COUNTS))
    share = Share(pinned, features, owning(1, 6))  # rows 7 to 31 and 87
    metadata = pq.read_metadata(path_of(pinned))
    sizes = [
        sum(group.column(place).total_compressed_size for place in range(group.num_columns))
        for group in map(metadata.row_group, range(metadata.num_row_groups))
    ]
    content = bytearray(path_of(pinned).read_bytes())
    for number in (4, 5, 6, 7, 9):
        group = metadata.row_group(number)
        first = min(
            group.column(place).dictionary_page_offset or group.column(place).data_page_offset
            for place in range(group.num_columns)
        )
        content[first : first + sizes[number]] = bytes(sizes[number])
    path_of(pinned).write_bytes(content)
    assert_holds(share.columns("train"), rows[rows["domain"].isin([1, 6])], pinned)
    figures = share.figures
    assert (figures.row_groups, figures.file_row_groups, figures.rows) == (5, 10, 50)
    assert figures.read_bytes == sum(sizes[number] for number in (0, 1, 2, 3, 8))
    assert figures.file_bytes == sum(sizes)
    with pytest.raises(MamdrError, match=r"part 0\.parquet cannot be read"):
        Share(pinned, features, owning(4)).columns("train")


def test_one_domain_is_read_from_a_row_group_of_several(make_rows, make_pinned, features):
    rows = make_rows(COUNTS)
    pinned = make_pinned([rows], len(COUNTS), row_group=1000)
    assert_holds(Share(pinned, features, owning(2)).columns("train"), rows[rows["domain"] == 2], pinned)


def test_sample_weights_are_read_and_domains_of_weight_zero_logged(make_rows, make_pinned, features, caplog):
    """A null weight is 1."""
    rows = make_rows(COUNTS)
    weights = np.random.default_rng(0).random(len(rows)).astype(np.float32)
    weights[rows["domain"].isin([2, 6])] = 0
    rows["sample_weight"] = np.where(np.arange(len(rows)) % 5 == 0, np.nan, weights).astype(np.float32)
    rows.loc[rows["domain"] == 2, "sample_weight"] = 0
    pinned = replace(make_pinned([rows[::2], rows[1::2]], len(COUNTS)), has_weights=True)
    share = Share(pinned, features, owning(1, 2, 5))
    columns = share.columns("train")
    own = rows[rows["domain"].isin([1, 2, 5])]
    assert_holds(columns, own, pinned)
    assert columns.weights.tolist() == own["sample_weight"].fillna(1).tolist()
    assert share.needed_bytes() == Share(
        replace(pinned, has_weights=False), features, owning(1, 2, 5)
    ).needed_bytes() + (4 * len(own))
    assert "of 1 domains, such as d2, all have weight 0" in caplog.text


def test_all_row_groups_of_a_file_without_statistics_are_read(make_rows, make_pinned, features):
    rows = make_rows(COUNTS)
    pinned = make_pinned([rows], len(COUNTS))
    pq.write_table(pq.read_table(path_of(pinned)), path_of(pinned), row_group_size=10, write_statistics=False)
    share = Share(pinned, features, owning(2))
    assert_holds(share.columns("train"), rows[rows["domain"] == 2], pinned)
    assert share.figures.row_groups == 10


def test_a_large_domain_of_several_files_is_sorted_by_key(make_rows, make_pinned, features):
    rows = make_rows([5, 90, 5])
    parts = [rows[rows["key"] % 3 == part] for part in range(3)]
    pinned = make_pinned(parts, 3, row_group=8)
    assert_holds(Share(pinned, features, owning(0, 1, 2, of=3)).columns("train"), rows, pinned)


def test_a_rank_without_domains_reads_nothing(make_rows, make_pinned, features):
    share = Share(make_pinned([make_rows(COUNTS)], len(COUNTS)), features, owning())
    columns = share.columns("train")
    assert len(columns) == share.figures.read_bytes == share.figures.file_bytes == 0
    assert columns.offsets.tolist() == [0] * (len(COUNTS) + 1)
    assert columns.true_probability is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    files=st.integers(1, 4),
    row_group=st.integers(1, 50),
    ranks=st.integers(1, 3),
    shuffled=st.booleans(),
    batch=st.sampled_from([7, reading.BATCH_ROWS]),
    reader=st.sampled_from(ReaderName.__args__),
    seed=st.integers(0, 9),
)
def test_ranks_read_every_row_once_in_an_order_that_does_not_depend_on_files(
    make_rows, make_pinned, features, monkeypatch, counts, files, row_group, ranks, shuffled, batch, reader, seed
):
    """Also from files that are not sorted, and in several batches a file."""
    monkeypatch.setattr(reading, "BATCH_ROWS", batch)
    random = np.random.default_rng(seed)
    rows = with_lists(make_rows(counts, seed), seed)
    written = rows.sample(frac=1, random_state=seed) if shuffled else rows
    part = random.integers(0, files, len(rows))
    frames = [written[part == number] for number in np.unique(part)]
    pinned = make_pinned(frames, len(counts), row_group)
    owner = random.integers(0, ranks, len(counts))
    for rank in range(ranks):
        share = Share(pinned, (*features, *SEVERAL), owner == rank, reader=reader)
        assert_holds(share.columns("train"), rows[owner[rows["domain"]] == rank], pinned)


@pytest.mark.parametrize("reader", ReaderName.__args__)
def test_few_threads_read_many_files_completely(make_rows, make_pinned, features, monkeypatch, reader):
    monkeypatch.setattr(pa, "cpu_count", lambda: 3)
    rows = make_rows([40] * 10)
    pinned = make_pinned([rows[rows["key"] % 25 == part] for part in range(25)], 10, row_group=3)
    share = Share(pinned, features, owning(*range(10), of=10), reader=reader)
    assert_holds(share.columns("train"), rows, pinned)
    assert share.figures.rows == 400


@pytest.mark.parametrize("days", [(-5, 3), (1, 3), (3, 3)])
def test_only_rows_of_the_days_of_the_window_are_read(make_rows, make_pinned, features, days):
    rows = make_rows(COUNTS)
    day = np.random.default_rng(0).integers(0, 4, len(rows))
    inside = (day >= days[0]) & (day <= days[1])
    whole = make_pinned([rows.assign(ds=pd.to_datetime(day, unit="D").date)], len(COUNTS))
    pinned = make_pinned([rows[inside]], len(COUNTS), name="selected")
    chosen = replace(pinned.files[0], url=whole.files[0].url, days=days)
    share = Share(replace(pinned, files=(chosen,)), features, owning(*range(len(COUNTS))))
    assert_holds(share.columns("train"), rows[inside], pinned)


def test_true_probabilities_are_kept_if_all_rows_of_the_rank_have_one(make_rows, make_pinned, features):
    rows = make_rows(COUNTS)
    rows.loc[rows["domain"] == 5, "true_probability"] = np.nan
    pinned = make_pinned([rows], len(COUNTS))
    known = Share(pinned, features, owning(0, 1, 2, 4, 6, 7)).columns("train")
    assert_holds(known, rows[rows["domain"] != 5], pinned)
    assert known.true_probability is not None
    assert Share(pinned, features, owning(4, 5)).columns("train").true_probability is None


def test_memory_mapped_columns_equal_those_in_memory(make_rows, make_pinned, features, tmp_path):
    rows, features = with_lists(make_rows(COUNTS)), (*features, *SEVERAL)
    parts = [rows[rows["key"] % 2 == part] for part in range(2)]
    pinned = make_pinned(parts, len(COUNTS))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shares = [Share(pinned, features, owning(1, 2, 4), bound, str(scratch)) for bound in (0.0, 1e-9)]
    assert [share.arrays.mapped for share in shares] == [False, True]
    for share in shares:
        assert_holds(share.columns("train"), rows[rows["domain"].isin([1, 2, 4])], pinned)
    vectors = [share.vectors()["taste"] for share in shares]
    assert torch.equal(*vectors)
    assert vectors[0][[4, 1, 50]].all()
    assert vectors[0].count_nonzero() == 9
    assert not list(scratch.iterdir())


def test_a_share_within_the_bound_stays_in_memory(make_rows, make_pinned, features):
    pinned = make_pinned([make_rows(COUNTS)], len(COUNTS))
    needed = Share(pinned, features, owning(1, 2)).needed_bytes()
    assert needed == 28 * (4 * 4 + 4 + 28) + 51 * 3 * 4
    assert Share(pinned, (*features, *SEVERAL), owning(1, 2)).needed_bytes() == needed + 28 * 4 * (3 + 3 + 4)
    assert not Share(pinned, features, owning(1, 2), needed / 1e9).arrays.mapped
    assert Share(pinned, features, owning(1, 2), (needed - 1) / 1e9).arrays.mapped


def test_a_missing_scratch_folder_is_an_error_that_names_it(make_rows, make_pinned, features):
    pinned = make_pinned([make_rows(COUNTS)], len(COUNTS))
    with pytest.raises(MamdrError, match=r"train\.scratch: cannot allocate .* GB in /nowhere/at/all"):
        Share(pinned, features, owning(1), 1e-9, "/nowhere/at/all").columns("train")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm on this system")
def test_a_scratch_folder_in_memory_is_warned_about(make_rows, make_pinned, features, tmp_path, monkeypatch, caplog):
    pinned = make_pinned([make_rows(COUNTS)], len(COUNTS))
    for bound in (0.0, 1e-9):
        Share(pinned, features, owning(1), bound, "/dev/shm")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "train.scratch: /dev/shm is in memory (tmpfs), so train.host_memory has no effect: choose a folder on a disk"
    ]
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\ntmpfs /a\\040b tmpfs rw 0 0\ndisk /a\\040b/c xfs rw 0 0\n")
    monkeypatch.setattr(arrays, "MOUNTS", mounts)
    assert [arrays.file_system(folder) for folder in ("/a b/x", "/a b/c/y", "/a")] == ["tmpfs", "xfs", "ext4"]


def test_errors_name_missing_truncated_and_changed_files(make_rows, make_pinned, features):
    rows = make_rows(COUNTS)
    pinned = make_pinned([with_lists(rows)], len(COUNTS))
    everything = owning(*range(len(COUNTS)))
    for change in (-1, 1):
        counts = {**pinned.counts, "train": pinned.counts["train"] + change * owning(4)}
        with pytest.raises(MamdrError, match=rf"read 100 train rows of examples version 3, expected {100 + change}"):
            Share(replace(pinned, counts=counts), features, everything).columns("train")
    for name, size in (("item", 19), ("domain", 7), ("tags", 8), ("seen", 5)):
        sizes = {**pinned.sizes, name: size}
        with pytest.raises(MamdrError, match=rf"an index of {name} beyond its vocabulary of {size} values"):
            Share(replace(pinned, sizes=sizes), (*features, *SEVERAL), everything).columns("train")
    content = path_of(pinned).read_bytes()
    path_of(pinned).write_bytes(content[: len(content) // 2])
    with pytest.raises(MamdrError, match=r"part 0\.parquet cannot be read"):
        Share(pinned, features, everything).columns("train")
    path_of(pinned).unlink()
    with pytest.raises(MamdrError, match=r"part 0\.parquet of the pinned version does not exist"):
        Share(pinned, features, everything).columns("train")


def test_vectors_of_another_length_are_an_error(make_rows, make_pinned, features):
    pinned = make_pinned([make_rows(COUNTS)], len(COUNTS))
    longer = (*features[:2], replace(features[2], size=4))
    with pytest.raises(MamdrError, match="user_features holds no vectors taste of length 4"):
        Share(pinned, longer, owning(1)).vectors()
