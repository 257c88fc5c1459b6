"""The K best candidates, chosen in blocks, equal those of a sort of all pairs; candidates by domain."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from mamdr_core.config.job_config import load_config
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving import recommending
from mamdr_core.serving import scorer as scoring_worker
from mamdr_core.serving.candidates import ALL_DOMAINS, Candidates, sort_candidates
from mamdr_core.serving.ranking import Piece, choose_best, cut_blocks
from mamdr_core.serving.recommending import Pairing
from mamdr_core.serving.scorer import Scorer, score_batches
from schemas import TABLES
from tests.serving.saved_run import SIZES, VECTORS, make_served


def brute_force(logits, candidates, k):
    """The best by logit, then by the order of candidates, NaN last."""
    order = sorted(range(len(candidates)), key=lambda i: (-logits[i] if logits[i] == logits[i] else np.inf, i))[:k]
    return [(int(candidates[i]), logits[i]) for i in order]


@pytest.mark.parametrize("k", [1, 3, 7, 100])
@pytest.mark.parametrize("block_rows", [1, 5, 64, 10_000])
def test_best_candidates_equal_a_full_sort_for_any_block_size(k, block_rows):
    """With many ties, NaN, domains of different sizes, and a domain without candidates."""
    random = np.random.default_rng(0)
    table = random.integers(-2, 3, (30, 40)).astype(np.float32)
    table[random.uniform(size=table.shape) < 0.1] = np.nan
    table[3] = -np.inf
    representatives = np.arange(40, dtype=np.int32)
    representatives[[7, 9, 30]] = 2
    table[:, representatives != np.arange(40)] = table[:, 2:3]
    sizes, users = [40, 1, 0, 7, 13], [10, 3, 2, 11, 4]
    runs, first = [], 0
    for size, count in zip(sizes, users, strict=True):
        runs.append(Piece(range(first, first + count), np.sort(random.permutation(40)[:size])))
        first += count
    calls = []

    def predict(user, candidate):
        calls.append(len(user))
        return torch.from_numpy(table[user, candidate])

    found = {}
    for best in choose_best(runs, k, predict, representatives, block_rows):
        for row, user in enumerate(best.users):
            assert user not in found
            found[user] = list(zip(best.candidates[row].tolist(), best.logits[row].tolist(), strict=True))
    assert sorted(found) == [user for run in runs for user in run.users if len(run.candidates)]
    for run in runs:
        for user in run.users if len(run.candidates) else ():
            expected = brute_force(table[user, run.candidates], run.candidates, k)
            assert [position for position, _ in found[user]] == [position for position, _ in expected]
            np.testing.assert_array_equal([logit for _, logit in found[user]], [logit for _, logit in expected])
    distinct = sum(len(run.users) * len(set(representatives[run.candidates])) for run in runs)
    assert distinct <= sum(calls) <= sum(run.pairs for run in runs)
    assert sum(calls) == distinct or block_rows < 40  # every pair once, unless a user has several pieces
    assert max(calls) <= block_rows


def test_a_block_contains_several_small_domains():
    runs = [Piece(range(n, n + 1), np.arange(10)) for n in range(1000)]
    assert [sum(piece.pairs for piece in block) for block in cut_blocks(runs, 4000)] == [4000, 4000, 2000]


def test_candidates_with_equal_encoded_values_have_one_representative():
    columns = {
        "_domain_index": pa.array([0, 0, 1, 1, 1], pa.int32()),
        "item": ["a", "b", "c", "d", "e"],
        "_item_index": pa.array([-1, -1, -1, 4, -1], pa.int32()),
        "price": pa.array([None, 1.0, None, None, 1.0], pa.float32()),
    }
    assert Candidates(sort_candidates(pa.table(columns))).representatives.tolist() == [0, 1, 0, 3, 1]
    several = columns | {"tags": [[1], [1], [1], [], [1]]}
    assert Candidates(sort_candidates(pa.table(several))).representatives.tolist() == [0, 1, 0, 3, 1]
    several["tags"] = [[1], [1], [1, 2], [], [12]]
    assert Candidates(sort_candidates(pa.table(several))).representatives.tolist() == [0, 1, 2, 3, 4]
    twice = pa.table({"_domain_index": pa.array([0, 0], pa.int32()), "item": ["a", "a"], "tags": [[2], [1]]})
    assert Candidates(sort_candidates(twice)).batch.column("tags").to_pylist() == [[1]]  # in any order of rows


def candidates(rows):
    """Candidates of (domain, item, feature)."""
    domain, item, price = zip(*rows, strict=True)
    names = ["_domain_index", "item", "price"]
    return Candidates(sort_candidates(pa.table([pa.array(domain, pa.int32()), list(item), list(price)], names=names)))


def test_candidates_of_a_domain_and_of_all_domains_are_merged():
    rows = [
        (3, "b", 1.0),
        (3, "a", 2.0),
        (ALL_DOMAINS, "c", 3.0),
        (ALL_DOMAINS, "a", 4.0),
        (0, "é", 5.0),
        (0, "z", 6.0),
    ]
    rows += [(3, "b", 0.5), (3, "b", 0.5), (0, "z", 7.0)]  # duplicates: the one with the smallest other columns is kept
    for seed in range(3):
        held = candidates([rows[i] for i in np.random.default_rng(seed).permutation(len(rows))])
        item, price = (held.batch.column(name).to_pylist() for name in ("item", "price"))
        by_domain = {domain: [(item[i], price[i]) for i in held.positions(domain)] for domain in (0, 1, 3, -1)}
        assert by_domain == {
            0: [("a", 4.0), ("c", 3.0), ("z", 6.0), ("é", 5.0)],
            1: [("a", 4.0), ("c", 3.0)],
            3: [("a", 2.0), ("b", 0.5), ("c", 3.0)],
            -1: [],
        }
        assert {domain: held.count(domain) for domain in by_domain} == {
            domain: len(found) for domain, found in by_domain.items()
        }
        assert len(held) == 6
        assert held.representatives.tolist() == list(range(6))  # no two have the same price
    assert len(candidates([(2, "a", 1.0)]).positions(5)) == 0


@pytest.mark.parametrize("method", ["mamdr", "mixed"])
def test_recommendations_equal_the_best_scores_of_all_pairs(tmp_path, monkeypatch, method):
    """With known and unknown ids and domains, with and without theta_i or w_i, and features of users and of items."""
    served = make_served(tmp_path, method=method)
    random = np.random.default_rng(0)

    def drawn(least, end, rows, kind=np.int32):
        return pa.array(random.integers(least, end, rows).astype(kind))

    item = random.integers(0, 60, 150)
    table = {
        "_domain_index": pa.array(random.choice([ALL_DOMAINS, 0, 1, 2, 5], 150).astype(np.int32)),
        "item": [f"i{n}" for n in item],
        "_item_index": pa.array(np.where(item < SIZES["item"], item, -1).astype(np.int32)),
        "weekday": drawn(-1, 7, 150),
    }
    held = Candidates(sort_candidates(pa.table(table)))
    domain = np.sort(random.choice([-1, 0, 1, 3, 5], 30)).astype(np.int32)
    named = {"key": map(str, range(30)), "user": (f"u{n}" for n in range(30)), "domain": (f"d{n}" for n in domain)}
    users = pa.RecordBatch.from_pydict(
        {
            **{name: pa.array(list(values)) for name, values in named.items()},
            "_user_index": drawn(-1, SIZES["user"], 30),
            "_domain_index": pa.array(domain),
            "hour": drawn(0, 24, 30, np.float32),
        }
    )
    scorer = Scorer(served, VECTORS)
    monkeypatch.setattr(recommending, "OUT_ROWS", 40)
    batches = list(Pairing(served, scorer, held, method == "mixed").recommend(users, 5))
    found = pa.Table.from_batches(batches).to_pylist()
    assert len(batches) > 1
    assert ["run_id", "batch", *batches[0].schema.names] == list(TABLES["scores"].column_names)
    monkeypatch.setattr(scoring_worker, "open_scorer", lambda served, vectors: scorer)
    assert sorted({int(each["key"]) for each in found}) == np.flatnonzero(domain >= 0).tolist()
    for row in np.flatnonzero(domain >= 0).tolist():
        positions = pa.array(held.positions(int(domain[row])))
        pairs = {name: held.batch.column(name).take(positions) for name in ("item", "_item_index", "weekday")}
        for name in users.schema.names:
            pairs[name] = pa.array([users.column(name)[row].as_py()] * len(positions), users.schema.field(name).type)
        plain = score_batches(served, "", method == "mixed", iter([pa.RecordBatch.from_pydict(pairs)]))
        by_item = {each["item"]: each for each in pa.Table.from_batches(plain).to_pylist()}
        expected = sorted((each["score"] for each in by_item.values()), reverse=True)[:5]
        recommended = [each for each in found if each["key"] == str(row)]
        assert [each["rank"] for each in recommended] == list(range(1, len(expected) + 1))
        assert [each["score"] for each in recommended] == pytest.approx(expected, abs=1e-6)
        assert recommended == sorted(recommended, key=lambda each: (-each["score"], each["item"]))
        for each in recommended:
            other = by_item[each["item"]]
            assert each["score"] == pytest.approx(other["score"], abs=1e-6)
            same = ("user", "domain", "user_known", "item_known", "domain_known", "specific")
            assert [each[name] for name in same] == [other[name] for name in same]
            deviation = pytest.approx(other["logit_deviation"], rel=1e-5) if method == "mixed" else None
            assert each["logit_deviation"] == deviation


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["score.top_k=5"], r"score\.top_k is 5: set score\.input\.path \(rows of users and domains\) too"),
        (["score.top_k=5", "score.input.path=u"], r"score\.top_k is 5: set score\.candidates\.path \(items\) too"),
        (["score.top_k=-1"], r"score\.top_k must be >= 0, got -1"),
        (["score.candidates.path=c"], r"score\.candidates needs score\.top_k"),
        (["score.candidates.most=0"], r"score\.candidates\.most must be >= 1, got 0"),
    ],
)
def test_inconsistent_settings_are_rejected(overrides, message):
    with pytest.raises(MamdrError, match=message):
        load_config(overrides=overrides)
