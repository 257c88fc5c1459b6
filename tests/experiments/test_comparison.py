"""A comparison's rows and its text, from planted AUCs by domain."""

import numpy as np
import pytest

from mamdr_core.experiments.comparison import Entry, compare
from mamdr_core.experiments.measured import ComparedRuns, RunFigures
from mamdr_core.experiments.report import escape_latex, latex, markdown, sheets_of

TRAIN_ROWS = np.array([100, 10, 50, 30])
TEST_ROWS = np.array([30, 10, 0, 20])
NAN = float("nan")


def measured(**aucs):
    """Runs by name with their AUCs in the four domains; the third has no test rows."""
    runs = {
        name: RunFigures(
            name, "v", np.array(auc), NAN, NAN, 0.6, 2.0 + number,
            {"test_gauc": 0.6 + number / 10, "test_ndcg": {"5": 0.4, str(10 + number % 2): 0.5}, "test_pcoc": None},
        )
        for number, (name, auc) in enumerate(aucs.items())
    }  # fmt: skip
    return ComparedRuns(runs, TEST_ROWS, np.array([0.9, 0.8, NAN, 0.7]))


@pytest.fixture
def comparison():
    """Joint and MAMDR with two seeds each."""
    found = measured(
        joint0=[0.6, 0.5, NAN, 0.7], joint1=[0.6, 0.7, NAN, 0.7],
        mamdr0=[0.7, 0.6, NAN, 0.6], mamdr1=[0.7, 0.8, NAN, 0.6],
    )  # fmt: skip
    entries = [
        Entry(("mlp", "joint"), {0: "joint0", 1: "joint1"}, 0),
        Entry(("mlp", "mamdr"), {0: "mamdr0", 1: "mamdr1"}, 1),
    ]
    return compare(entries, found, TRAIN_ROWS, "joint")


def test_means_are_over_domains_then_seeds(comparison):
    joint, mamdr = comparison.rows
    assert comparison.domains.tolist() == [0, 1, 3]
    assert joint["test_auc"] == pytest.approx((1.8 / 3 + 2.0 / 3) / 2, abs=1e-12)
    assert joint["test_auc_std"] == pytest.approx((0.2 / 3) / 2**0.5, abs=1e-12)
    # Seed 0: (30 * .7 + 10 * .6 + 20 * .6) / 60; seed 1 has .8 for .6 in the domain of ten rows.
    assert mamdr["weighted_test_auc"] == pytest.approx((39 / 60 + 41 / 60) / 2, abs=1e-12)
    assert mamdr["smallest_third_test_auc"] == pytest.approx(0.7, abs=1e-12)  # domain 1, of ten training rows
    assert mamdr["oracle_test_auc"] == pytest.approx(0.8, abs=1e-12)
    assert (joint["seconds"], mamdr["seconds"]) == (2.5, 4.5)
    assert (joint["test_gauc"], joint["test_gauc_std"]) == (pytest.approx(0.65), pytest.approx(0.1 / 2**0.5))
    assert (joint["test_ndcg"], "test_pcoc" in joint) == ({"5": pytest.approx(0.4)}, False)
    assert (mamdr["seeds"], mamdr["failed"], mamdr["domains"], mamdr["domains_left_out"]) == (2, 1, 3, 0)


def test_rank_and_test_are_against_the_baseline(comparison):
    joint, mamdr = comparison.rows
    assert (joint["rank"], mamdr["rank"]) == (pytest.approx(5 / 3), pytest.approx(4 / 3))
    assert "wins" not in joint
    assert (mamdr["wins"], mamdr["ties"], mamdr["losses"]) == (2, 0, 1)
    assert mamdr["difference"] == pytest.approx(0.1 / 3, abs=1e-12)
    assert mamdr["runs"] == ["mamdr0", "mamdr1"]


def test_a_domain_without_an_auc_in_one_run_is_left_out_of_all_and_counted():
    found = measured(joint0=[0.6, NAN, NAN, 0.7], mamdr0=[0.7, 0.6, NAN, 0.6])
    entries = [Entry(("mlp", "joint"), {0: "joint0"}, 0), Entry(("mlp", "mamdr"), {0: "mamdr0"}, 0)]
    rows = compare(entries, found, TRAIN_ROWS, "mlp/joint").rows
    assert [row["domains"] for row in rows] == [2, 2]
    assert [row["domains_left_out"] for row in rows] == [1, 1]
    assert rows[1]["test_auc"] == pytest.approx(0.65, abs=1e-12)
    assert rows[1]["test_auc_std"] is None


def test_the_test_pairs_the_seeds_that_both_have():
    found = measured(joint0=[0.6, 0.6, NAN, 0.6], joint1=[0.9, 0.9, NAN, 0.9], mamdr0=[0.7, 0.7, NAN, 0.7])
    entries = [
        Entry(("mlp", "joint"), {0: "joint0", 1: "joint1"}, 0),
        Entry(("mlp", "mamdr"), {0: "mamdr0"}, 1),
        Entry(("mlp", "dn"), {}, 2),
    ]
    joint, mamdr, dn = compare(entries, found, TRAIN_ROWS, "joint").rows
    assert mamdr["difference"] == pytest.approx(0.1, abs=1e-12)
    assert (joint["rank"], mamdr["rank"], dn["rank"]) == (2.0, 1.0, None)  # by the seed that those with runs share
    assert dn["seeds"] == 0
    assert "test_auc" not in dn


def test_the_text_shows_the_best_in_bold_and_the_largest_domains(comparison):
    sheets = sheets_of(comparison, ("a|b", "c_1", "d", "e"), TRAIN_ROWS, 2)
    text = markdown("demo", sheets)
    lines = text.splitlines()
    assert "3 domains; against mlp/joint" in lines
    assert lines[4].startswith("| Method | AUC | weighted AUC | val AUC | RANK | W/T/L |")
    assert lines[7].startswith(
        "| mlp + mamdr | **0.6667 ± 0.0471** | 0.6667 ± 0.0236 | 0.6000 | 1.33 | 2/0/1 | +0.0333 |"
    )
    assert "2 (1 failed)" in lines[7]
    assert "| Method | a\\|b | e |" in lines
    assert "| mlp + mamdr | **0.7000** | 0.6000 |" in lines
    tex = latex("demo_1", sheets)
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\end{table}") == 2
    assert r"\caption{demo\_1: 3 domains; against mlp/joint}" in tex
    assert r"mlp + mamdr & \textbf{0.6667 $\pm$ 0.0471} & 0.6667 $\pm$ 0.0236 &" in tex
    assert escape_latex("50% of a_b & {c}\\") == r"50\% of a\_b \& \{c\}\textbackslash{}"


def test_models_by_methods_are_laid_out_as_in_the_papers_table_3():
    found = measured(a=[0.6] * 4, b=[0.7] * 4, c=[0.8] * 4, d=[0.75] * 4)
    pairs = [("mlp", "joint"), ("mlp", "mamdr"), ("wdl", "joint"), ("wdl", "mamdr")]
    entries = [Entry(pair, {0: run}, 0) for pair, run in zip(pairs, "abcd", strict=True)]
    comparison = compare(entries, found, TRAIN_ROWS, "joint")
    lines = markdown("t", sheets_of(comparison, tuple("wxyz"), TRAIN_ROWS, 0)).splitlines()
    assert lines[4:8] == [
        "| Model | joint | mamdr |",
        "| --- | ---: | ---: |",
        "| mlp | 0.6000 | **0.7000** |",
        "| wdl | **0.8000** | 0.7500 |",
    ]
    assert [row["baseline"] for row in comparison.rows] == ["mlp/joint", "mlp/joint", "wdl/joint", "wdl/joint"]
    assert comparison.rows[3]["difference"] == pytest.approx(-0.05, abs=1e-12)
