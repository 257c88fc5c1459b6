"""The K best candidates by blocks against a sort of all pairs; candidates by domain."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from mamdr_core.config import load_config
from mamdr_core.errors import MamdrError
from mamdr_core.serving import recommending
from mamdr_core.serving import scorer as scoring_worker
from mamdr_core.serving.candidates import EVERY, Candidates, sorted_candidates
from mamdr_core.serving.ranking import Piece, choose_best, cut_blocks
from mamdr_core.serving.recommending import Pairing
from mamdr_core.serving.scorer import Scorer, score_batches
from schemas import TABLES
from tests.serving.helpers import SIZES, VECTORS, make_served


def brute_force(logits, candidates, k):
    """Best by logit, then by the order of candidates, NaN last."""
    order = sorted(range(len(candidates)), key=lambda at: (-logits[at] if logits[at] == logits[at] else np.inf, at))[:k]
    return [(int(candidates[at]), logits[at]) for at in order]


@pytest.mark.parametrize("k", [1, 3, 7, 100])
@pytest.mark.parametrize("block_rows", [1, 5, 64, 10_000])
def test_the_best_are_those_of_a_sort_whatever_the_blocks(k, block_rows):
    """With many ties, numbers that are none, domains of different sizes, and one without candidates."""
    random = np.random.default_rng(0)
    table = random.integers(-2, 3, (30, 40)).astype(np.float32)
    table[random.uniform(size=table.shape) < 0.1] = np.nan
    table[3] = -np.inf
    alike = np.arange(40, dtype=np.int32)
    alike[[7, 9, 30]] = 2
    table[:, alike != np.arange(40)] = table[:, 2:3]
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
    for best in choose_best(runs, k, predict, alike, block_rows):
        for row, user in enumerate(best.users):
            assert user not in found
            found[user] = list(zip(best.candidates[row].tolist(), best.logits[row].tolist(), strict=True))
    assert sorted(found) == [user for run in runs for user in run.users if len(run.candidates)]
    for run in runs:
        for user in run.users if len(run.candidates) else ():
            wanted = brute_force(table[user, run.candidates], run.candidates, k)
            assert [place for place, _ in found[user]] == [place for place, _ in wanted]
            np.testing.assert_array_equal([logit for _, logit in found[user]], [logit for _, logit in wanted])
    distinct = sum(len(run.users) * len(set(alike[run.candidates])) for run in runs)
    assert distinct <= sum(calls) <= sum(run.pairs for run in runs)
    assert sum(calls) == distinct or block_rows < 40  # every pair once, unless a user's candidates are cut
    assert max(calls) <= block_rows


def test_a_block_holds_many_small_domains():
    runs = [Piece(range(n, n + 1), np.arange(10)) for n in range(1000)]
    assert [sum(piece.pairs for piece in block) for block in cut_blocks(runs, 4000)] == [4000, 4000, 2000]


def test_candidates_without_a_difference_to_a_model_are_alike():
    columns = {
        "_domain_index": pa.array([0, 0, 1, 1, 1], pa.int32()),
        "item": ["a", "b", "c", "d", "e"],
        "_item_index": pa.array([-1, -1, -1, 4, -1], pa.int32()),
        "price": pa.array([None, 1.0, None, None, 1.0], pa.float32()),
    }
    assert Candidates(sorted_candidates(pa.table(columns))).alike.tolist() == [0, 1, 0, 3, 1]
    several = columns | {"tags": [[1], [1], [1], [], [1]]}
    assert Candidates(sorted_candidates(pa.table(several))).alike.tolist() == [0, 1, 0, 3, 1]
    several["tags"] = [[1], [1], [1, 2], [], [12]]
    assert Candidates(sorted_candidates(pa.table(several))).alike.tolist() == [0, 1, 2, 3, 4]
    twice = pa.table({"_domain_index": pa.array([0, 0], pa.int32()), "item": ["a", "a"], "tags": [[2], [1]]})
    assert Candidates(sorted_candidates(twice)).batch.column("tags").to_pylist() == [[1]]  # whatever came first


def candidates(rows):
    """Candidates of (domain, item, feature)."""
    domain, item, price = zip(*rows, strict=True)
    names = ["_domain_index", "item", "price"]
    return Candidates(sorted_candidates(pa.table([pa.array(domain, pa.int32()), list(item), list(price)], names=names)))


def test_a_domains_candidates_are_its_own_and_those_of_all_each_once_by_id():
    rows = [(3, "b", 1.0), (3, "a", 2.0), (EVERY, "c", 3.0), (EVERY, "a", 4.0), (0, "é", 5.0), (0, "z", 6.0)]
    rows += [(3, "b", 0.5), (3, "b", 0.5), (0, "z", 7.0)]  # repeated: the least of its other columns stays
    for seed in range(3):
        held = candidates([rows[place] for place in np.random.default_rng(seed).permutation(len(rows))])
        item, price = (held.batch.column(name).to_pylist() for name in ("item", "price"))
        by_domain = {domain: [(item[place], price[place]) for place in held.of(domain)] for domain in (0, 1, 3, -1)}
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
        assert held.alike.tolist() == list(range(6))  # no two of the same price
    assert len(candidates([(2, "a", 1.0)]).of(5)) == 0


@pytest.mark.parametrize("method", ["mamdr", "mixed"])
def test_users_get_the_best_of_scoring_all_of_their_pairs(tmp_path, monkeypatch, method):
    """Known and unknown ids and domains, with and without theta_i or w_i, features of either side."""
    served = make_served(tmp_path, method=method)
    random = np.random.default_rng(0)

    def drawn(least, end, rows, kind=np.int32):
        return pa.array(random.integers(least, end, rows).astype(kind))

    item = random.integers(0, 60, 150)
    table = {
        "_domain_index": pa.array(random.choice([EVERY, 0, 1, 2, 5], 150).astype(np.int32)),
        "item": [f"i{n}" for n in item],
        "_item_index": pa.array(np.where(item < SIZES["item"], item, -1).astype(np.int32)),
        "weekday": drawn(-1, 7, 150),
    }
    held = Candidates(sorted_candidates(pa.table(table)))
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
        places = pa.array(held.of(int(domain[row])))
        pairs = {name: held.batch.column(name).take(places) for name in ("item", "_item_index", "weekday")}
        for name in users.schema.names:
            pairs[name] = pa.array([users.column(name)[row].as_py()] * len(places), users.schema.field(name).type)
        plain = score_batches(served, "", method == "mixed", iter([pa.RecordBatch.from_pydict(pairs)]))
        by_item = {each["item"]: each for each in pa.Table.from_batches(plain).to_pylist()}
        wanted = sorted((each["score"] for each in by_item.values()), reverse=True)[:5]
        mine = [each for each in found if each["key"] == str(row)]
        assert [each["rank"] for each in mine] == list(range(1, len(wanted) + 1))
        assert [each["score"] for each in mine] == pytest.approx(wanted, abs=1e-6)
        assert mine == sorted(mine, key=lambda each: (-each["score"], each["item"]))
        for each in mine:
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
        (["score.candidates.path=c"], r"score\.candidates is for score\.top_k"),
        (["score.candidates.most=0"], r"score\.candidates\.most must be >= 1, got 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(MamdrError, match=message):
        load_config(overrides=overrides)
