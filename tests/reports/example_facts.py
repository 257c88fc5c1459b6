"""Invented facts of a run and of a lake, whose figures are consistent with each other."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np

from mamdr_core.reports.facts import Facts, ReferenceRun
from mamdr_core.reports.lake_facts import LakeFacts
from schemas import TABLES

DAY = date(2026, 1, 7)
HOSTILE = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    'it\'s "quoted" & <b>bold</b>',
    "домен-域名-🛒",
    "{{ 7 * 7 }}",
    "line\u2028separator\nand newline",
    "long-" * 80,
)


def row_of(table, **values):
    """A row of a declared table, null where no value is given."""
    assert not set(values) - set(TABLES[table].column_names)
    return dict.fromkeys(TABLES[table].column_names) | values


def run_row(run_id="20260107T031500-mamdr-1f0c2a", **values):
    return row_of(
        "training_runs",
        **{
            "run_id": run_id,
            "status": "ok",
            "method": "mamdr",
            "model": "mlp",
            "config": "train:\n  method: mamdr\n",
            "input_versions": {"examples": 12, "users": 3},
            "ds": DAY,
            "ranks": 2,
            "device": "cpu",
            "engine": "fast",
            "epochs": 6,
            "rounds": 96,
            "domains": 300,
            "train_rows": 1_234_567,
            "val_auc": 0.7301,
            "test_auc": 0.7312,
            "weighted_test_auc": 0.7455,
            "test_gauc": 0.6411,
            "test_ndcg": {"5": 0.4123, "10": 0.4567},
            "test_calibration_error": 0.0123,
            "samples_per_second": 61_234.5,
            "skipped_steps": 0,
            "seconds": {"prepare": 31.2, "ranks": 412.7, "read": 6.1, "inner": 351.2, "validate": 22.4, "save": 1.2},
            "started_at": datetime(2026, 1, 7, 3, 15, tzinfo=UTC),
        }
        | values,
    )


def make_facts(domains=300, ids=None, seed=0, **changes):
    """Facts with a value for every attribute; `changes` replaces some."""
    random = np.random.default_rng(seed)
    ids = list(ids or (f"theme-{number}" for number in range(domains)))
    n = len(ids)
    figures = _figures(n, random)
    auc = figures["auc"]
    joint = np.clip(auc - random.normal(0.006, 0.01, n), 0, 1)
    champion = np.clip(auc + random.normal(0.001, 0.008, n), 0, 1)
    run_id, champion_id = run_row()["run_id"], "20260106T031500-mamdr-bbbbbb"
    earlier = run_row(champion_id, ds=DAY - timedelta(1), started_at=datetime(2026, 1, 6, 3, 15, tzinfo=UTC))
    facts = Facts(
        run=run_row(),
        ids=ids,
        figures=figures,
        joint=ReferenceRun(run_row("20260107T050000-joint-aaaaaa", method="joint"), joint, auc, same_rows=False),
        before=ReferenceRun(earlier, champion, auc, same_rows=True),
        days=[
            {"ds": DAY - timedelta(6 - day), "rows": 200_000 + 9_000 * day, "clicks": 9_000 + 500 * day,
             "domains": n, "new_users": 700, "new_domains": 4 if day == 6 else 0}
            for day in range(7)
        ],
        drift=[
            row_of("domain_stats", ds=DAY, domain=ids[place], rows=900, ctr=0.06, ctr_difference=0.02, ctr_z=4.2)
            for place in range(min(3, n))
        ],
        curve=_curve(run_id),
        decision=_decision(run_id, champion_id, n),
        promotions=[],
        judged=_judged(run_id, champion_id, ids, figures, champion),
        conflicts={
            stage: row_of("conflicts", run_id=run_id, stage=stage, domains=min(n, 12), pairs=66, pairs_total=66,
                          mean_cosine=mean, negative_share=share, dn_rounds=16)
            for stage, mean, share in (("before", 0.021, 0.41), ("after", 0.034, 0.35))
        },
        pairs={stage: _pairs(run_id, stage, ids[:12], random) for stage in ("before", "after")},
    )  # fmt: skip
    return replace(facts, **changes)


def _figures(n, random):
    rows = np.floor(random.lognormal(4.5, 1.3, n)) + 4
    ctr = random.beta(3, 40, n)
    clicks = random.binomial(rows.astype(int), ctr).astype(float)
    auc = np.clip(0.5 + random.normal(0.23, 0.03, n) + random.normal(0, 0.25, n) / np.sqrt(clicks + 1), 0, 1)
    auc[(clicks == 0) | (clicks == rows)] = np.nan
    return {
        "train_rows": rows * 3,
        "rows": rows,
        "clicks": clicks,
        "auc": auc,
        "logloss": random.gamma(4, 0.05, n),
        "mean_prediction": ctr * random.lognormal(0.02, 0.15, n),
        "oracle_auc": np.full(n, np.nan),
        "gauc": np.full(n, 0.64),
        "calibration_error": np.full(n, 0.021),
    }


def _curve(run_id):
    validations = [("shared", 8, 0.66, True), ("shared", 16, 0.7, True), ("shared", 24, 0.721, True),
                   ("shared", 32, 0.719, False), ("specific", 0, 0.721, True), ("specific", 1, 0.73, True)]  # fmt: skip
    return [
        row_of("training_curves", run_id=run_id, phase=phase, round=number, epoch=1, rows=100_000 * (place + 1),
               seconds=9.5 * place, val_auc=value, weighted_val_auc=value + 0.012, best=best)
        for place, (phase, number, value, best) in enumerate(validations)
    ]  # fmt: skip


def _decision(run_id, champion_id, n):
    return row_of(
        "gate_decisions", run_id=run_id, champion_run_id=champion_id, passed=False,
        reasons=["weighted AUC of the newest day is .0211 below the champion's (gate.day_drop .01)",
                 "3 of 210 domains are worse"],
        auc=0.7312, champion_auc=0.7325, auc_difference=-0.0013, auc_low=-0.002, auc_high=-0.0006,
        weighted_auc=0.7455, champion_weighted_auc=0.746, calibration=1.04, champion_calibration=0.99,
        domains=n, domains_judged=n // 2, domains_worse=3, unseen_users=0.031, unseen_items=0.004, rows=10_000,
    )  # fmt: skip


def _judged(run_id, champion_id, ids, figures, champion):
    auc = figures["auc"]
    known = np.flatnonzero(~np.isnan(auc))
    order = known[np.argsort((auc - champion)[known])].tolist()
    return [
        row_of(
            "gate_domains", run_id=run_id, champion_run_id=champion_id, domain=place, domain_id=ids[place],
            rows=int(figures["rows"][place]), clicks=int(figures["clicks"][place]), auc=float(auc[place]),
            champion_auc=float(champion[place]), difference=difference,
            low=difference - 0.008, high=difference + 0.008, worse=difference < -0.01,
        )
        for place, difference in ((place, float(auc[place] - champion[place])) for place in order)
    ]  # fmt: skip


def _pairs(run_id, stage, ids, random):
    sides = random.choice([-1, 1], len(ids))
    return [
        row_of(
            "domain_conflicts", run_id=run_id, stage=stage, domain=one, other=other, domain_id=ids[one],
            other_id=ids[other], inner_product=0.0,
            cosine=float(np.clip(sides[one] * sides[other] * 0.3 + random.normal(0, 0.1), -1, 1)),
        )
        for one in range(len(ids))
        for other in range(one + 1, len(ids))
    ]  # fmt: skip


def empty_facts(**values):
    """Facts of a run of which the lake has only the row in training_runs."""
    names = make_facts(1).figures
    return Facts(
        run=run_row(**values),
        ids=[],
        figures={name: np.zeros(0) for name in names},
        joint=None,
        before=None,
        days=[],
        drift=[],
        curve=[],
        decision=None,
        promotions=[],
        judged=[],
        conflicts={},
        pairs={},
    )


def run_of(day, **values):
    return run_row(f"2026010{day}T031500-mixed-00000{day}", ds=DAY - timedelta(days=7 - day), **values)


def lake_facts():
    """Three days; the run of the second was stopped by the gate, and that of the third serves."""
    marks = {"passed": True, "promoted": True, "page": True}
    runs = [
        run_of(3, test_auc=0.731, test_pcoc=1.02) | marks,
        run_of(2, test_auc=0.702, test_pcoc=1.31) | {"passed": False, "promoted": False, "page": True},
        run_of(1, test_auc=0.722, test_pcoc=None, seconds=None) | marks | {"page": False},
        run_row("20260101T000000-joint-0000aa", ds=None, status="failed") | marks | {"passed": None, "promoted": False},
    ]
    days = [
        {"ds": DAY - timedelta(days=2 - number), "rows": 1000 + number, "clicks": 100, "new_users": 7, "domains": 20}
        | {"new_domains": number, "left_domains": 1 if number < 2 else None}
        for number in range(3)
    ]
    champion = row_of(
        "promotions", run_id=runs[0]["run_id"], kind="promote", promoted_at=datetime(2026, 1, 3, tzinfo=UTC)
    )
    drifting = [{"domain": name, "days": 2, "z": 4.25, "ds": DAY} for name in HOSTILE]
    return LakeFacts(days=days, runs=runs, champion=champion, drifting=drifting)
