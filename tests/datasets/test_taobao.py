"""convert_taobao: files in the public format become a log and vectors for the lake; rejected rows are counted."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.datasets import paper_tables
from mamdr_core.datasets.paper_tables import PaperSet
from mamdr_core.datasets.taobao import choose_themes, convert_taobao, group_clicks, read_clicks
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples

pytestmark = pytest.mark.slow

HEADERS = {
    "theme_click_log": "user_id,theme_id,item_id,leaf_cate_id,cate_level1_id,clk_cnt,reach_time",
    "theme_item_pool": "theme_id,item_id",
    "user_embedding": "user_id,emb",
    "item_embedding": "item_id,emb",
    "user_item_purchase_log": "user_id,item_id,paytime",
}
DAY = "20181207"


def embedding(number: int, size: int = 128) -> str:
    """An embedding as the files hold it; its first number is `number`."""
    return " ".join(str(value / 8) for value in (number * 8, *range(1, size)))


def click(user: Any, theme: Any, item: Any, time: str = f"{DAY}120000") -> str:
    return f"{user},{theme},{item},50008898,1625,1,{time}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """The five files with these lines of clicks; users and items 1 to 4 have embeddings unless lines are given."""

    def make(clicks: Iterable[str], **lines: Iterable[str]) -> Path:
        folder = tmp_path / "download"
        folder.mkdir(exist_ok=True)
        known = [f"{number},{embedding(number)}" for number in range(1, 5)]
        tables = {"theme_click_log": clicks, "user_embedding": known, "item_embedding": known, **lines}
        for name, header in HEADERS.items():
            (folder / f"{name}.csv").write_text("".join(f"{line}\n" for line in (header, *tables.get(name, ()))))
        return folder

    return make


@pytest.fixture
def make_config(tmp_path: Path, lake_root: str) -> Callable[..., Config]:
    """A configuration from download/ to log/, with the vectors that the job writes."""

    def make(themes: int = 0, **sections: Any) -> Config:
        log = str(tmp_path / "log")
        vectors = [
            {"name": f"{of}_vector", "kind": "vector", "of": of, "size": 128, "path": f"{log}_vectors/{of}s"}
            for of in ("user", "item")
        ]
        return parse_config(
            {
                "lake": {"root": lake_root},
                "convert": {"path": str(tmp_path / "download"), "themes": themes},
                "input": {"path": log, "columns": {"event_time": "event_time"}},
                "features": vectors,
                **sections,
            }
        )

    return make


def test_every_line_is_a_click_a_repetition_of_another_theme_or_rejected(spark, make_config, write):
    write(
        [
            click(1, 900, 1, f"{DAY}000002"),
            click(1, 900, 1, f"{DAY}000001"),
            click(2, 800, 2, "2018-12-08 10:00:00"),
            click(3, 700, 1),
            click(9, 900, 1),
            click(1, 900, 9),
            click("", 900, 1),
            click(1, "", 1),
            click(1, 900, ""),
            click(1, 900, 2, "noon"),
            click(4, 800, 2),
            "4,800",
        ],
        theme_item_pool=["900,1", "800,1"],
    )
    figures = convert_taobao(spark, make_config(themes=2))
    assert figures["rows_in"] == 12
    assert (figures["clicks"], figures["repeated"], figures["rejected"], figures["other_themes"]) == (3, 1, 7, 1)
    assert figures["rejected_by_fault"] == {
        "no_item": 2,
        "no_item_embedding": 1,
        "no_theme": 1,
        "no_time": 1,
        "no_user": 1,
        "no_user_embedding": 1,
    }
    assert figures["themes"] == {"D1": "900", "D2": "800"}
    assert figures["clicks_outside_pool"] == 2
    rows = spark.read.parquet(figures["path"]).selectExpr("user", "item", "domain", "string(event_time)", "theme")
    assert {tuple(row) for row in rows.collect()} == {
        ("1", "1", "D1", "2018-12-07 00:00:01", "900"),
        ("2", "2", "D2", "2018-12-08 10:00:00", "800"),
        ("4", "2", "D2", "2018-12-07 12:00:00", "800"),
    }


def test_malformed_and_repeated_embeddings_are_counted(spark, make_config, write):
    users = [
        f"1,{embedding(1)}",
        f"1,{embedding(1)}",
        f"2,{embedding(2, size=64)}",
        f"3,{embedding(3, size=127)} x",
        f"4,{embedding(4, size=127)} nan",
        f"5,{embedding(5, size=127)} Infinity",
        "6,",
        f",{embedding(7)}",
        f"8,{embedding(8)}",
    ]
    write([click(user, 900, 1) for user in range(1, 9)], user_embedding=users)
    figures = convert_taobao(spark, make_config())
    assert figures["user_vectors"] == {"rows_in": 9, "malformed": 6, "repeated": 1, "written": 2}
    assert figures["item_vectors"] == {"rows_in": 4, "malformed": 0, "repeated": 0, "written": 1}
    assert (figures["clicks"], figures["rejected_by_fault"]) == (2, {"no_user_embedding": 6})
    vectors = spark.read.parquet(f"{figures['path']}_vectors/users").orderBy("id").collect()
    assert [row["id"] for row in vectors] == ["1", "8"]
    assert vectors[1]["vector"] == [8.0, *(number / 8 for number in range(1, 128))]


def test_themes_are_numbered_in_the_order_of_the_file(spark, write):
    # Theme 500 is met first but keeps no click: its user has no embedding.
    order = random.Random(1).sample(range(100, 400), 40)
    folder = write([click(9, 500, 1), *(click(1 + number % 4, theme, 1) for number, theme in enumerate(order * 3))])
    known = spark.createDataFrame([(str(number), True) for number in range(1, 5)], "id string, valid boolean")
    for largest_part in ("128m", "500"):
        spark.conf.set("spark.sql.files.maxPartitionBytes", largest_part)
        try:
            themes = choose_themes(group_clicks(read_clicks(spark, Files(spark, str(folder))), known, known), 30)
        finally:
            spark.conf.unset("spark.sql.files.maxPartitionBytes")
        assert themes == {f"D{number}": str(theme) for number, theme in enumerate(order[:30], start=1)}


def test_a_set_of_the_paper_matches_it_and_becomes_examples_with_vectors(spark, make_config, write, monkeypatch):
    draw = random.Random(0)
    clicks = [(draw.randrange(1, 43), draw.choice((70, 80)), draw.randrange(1, 43)) for _ in range(160)]
    known = [f"{number},{embedding(number)}" for number in range(1, 41)]
    write([click(*triple) for triple in clicks], user_embedding=known, item_embedding=known)
    paper = released_preparation([triple for triple in clicks if triple[0] <= 40 and triple[2] <= 40], (0.5, 0.25))
    monkeypatch.setattr(paper_tables, "PAPER_SETS", (paper,))
    ratios = {name: ratio for name, (_, ratio) in paper.domains.items()}
    config = make_config(examples={"negatives": {"kind": "in_domain", "ctr_ratio": ratios}})

    converted = convert_taobao(spark, config)
    assert (converted["paper_set"], converted["matches_paper"], converted["differences"]) == ("tiny", True, {})
    ingested = ingest_clicks(spark, config)
    assert (ingested["clicks"], ingested["rejected"]) == (converted["clicks"], 0)
    built = build_examples(spark, config)
    by_domain = converted["by_domain"]
    assert built["positives"] == converted["clicks"]
    assert built["negatives"] == 2 * by_domain["D1"]["clicks"] + 4 * by_domain["D2"]["clicks"]
    assert (built["users"], built["items"], built["domains"]) == (converted["users"], converted["items"], 2)
    lake = Lake(spark, config.lake.root)
    for of in ("user", "item"):
        vectors = lake.read(f"{of}_features").join(lake.read(f"{of}s").select("index", "id"), "index")
        assert vectors.count() == converted[f"{of}s"]
        assert vectors.where("size(vector) != 128 OR vector[0] != float(id)").count() == 0
    pinned = pin_examples(spark, config.lake.root, config.features)
    share = Share(pinned, config.features, np.ones(2, dtype=np.bool_))
    rows, tables = share.columns("train"), share.vectors()
    for of in ("user", "item"):
        ids = {row["index"] + 1: float(row["id"]) for row in lake.read(f"{of}s").collect()}
        wanted = [ids[index] for index in rows.ids[of].tolist()]
        assert tables[f"{of}_vector"][rows.ids[of].long()][:, 0].tolist() == wanted


def released_preparation(clicks: list[tuple[int, int, int]], ratios: tuple[float, ...]) -> PaperSet:
    """What the released reference code makes of (user, theme, item), themes in the order of `clicks`."""
    domains = {}
    for number, (theme, ratio) in enumerate(zip(dict.fromkeys(of for _, of, _ in clicks), ratios, strict=True), 1):
        pairs = {(user, item) for user, of, item in clicks if of == theme}
        items = {item for _, item in pairs}
        by_user = [{item for user, item in pairs if user == one} for one in {user for user, _ in pairs}]
        negatives = sum(min(int(len(mine) / ratio), len(items - mine)) for mine in by_user)
        domains[f"D{number}"] = (len(pairs) + negatives, ratio)
    total = sum(samples for samples, _ in domains.values())
    users, items = {user for user, _, _ in clicks}, {item for _, _, item in clicks}
    return PaperSet("tiny", len(users), len(items), total, domains)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "item_embedding.csv").unlink(), r"download lacks item_embedding\.csv; download it"),
        (
            lambda folder: (folder / "theme_click_log.csv").write_text("1,900,3,20181207000001\n"),
            r"theme_click_log\.csv has no column user_id, .*, reach_time; its header is 1, 900, 3",
        ),
        (
            lambda folder: (folder / "user_embedding.csv").write_text(f"user_id,emb\n1,{embedding(1, size=64)}\n"),
            r"user_embedding\.csv holds no embedding of 128 numbers .* its first has 64",
        ),
        (
            lambda folder: (folder / "item_embedding.csv").write_text("item_id,emb\n"),
            r"item_embedding\.csv holds no embedding of 128 numbers .* its first has 0",
        ),
    ],
)
def test_missing_inputs_are_named(spark, make_config, write, tmp_path: Path, change, message):
    change(write([click(1, 900, 1)]))
    with pytest.raises(MamdrError, match=message):
        convert_taobao(spark, make_config())
    assert not (tmp_path / "log").exists()


def test_too_few_themes_are_an_error_and_earlier_output_is_kept(spark, make_config, write, tmp_path: Path):
    folder = write([click(1, 900, 1), click(9, 800, 1)])
    (folder / "theme_item_pool.csv").unlink()
    assert convert_taobao(spark, make_config(themes=1))["clicks_outside_pool"] is None
    with pytest.raises(
        MamdrError, match=r"convert\.themes is 2, but theme_click_log\.csv has 1 themes .*embedding': 1"
    ):
        convert_taobao(spark, make_config(themes=2))
    assert spark.read.parquet(str(tmp_path / "log")).count() == 1
    (tmp_path / "log_vectors" / "users" / "_convert_taobao.json").unlink()
    with pytest.raises(MamdrError, match=r"log_vectors/users holds something that convert_taobao did not write"):
        convert_taobao(spark, make_config(themes=1))
