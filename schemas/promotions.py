"""Promotions: the decisions of the promotion gate, and the history of the champion."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of
from schemas.experiments import in_range

KINDS = ("promote", "rollback")

PROMOTIONS = DeclaredTable(
    name="promotions",
    description=(
        "Changes of the champion, the run in production; append-only. The champion is the run of the row with the "
        "largest number. A run served from its row's promoted_at to that of the next row."
    ),
    made_by="promote",
    columns=(
        Column("number", "bigint", "number of the change, from 1"),
        Column("run_id", "string", "the new champion, in training_runs"),
        Column("replaced_run_id", "string", "the previous champion; null: there was none", nullable=True),
        Column("kind", "string", "promote, or rollback to an earlier champion"),
        Column("ds", "date", "the run's logical date", nullable=True),
        Column("forced", "boolean", "whether promote.force overrode the gate's decision or the order of days"),
        Column("promoted_at", "timestamp", "time of the change (UTC)"),
    ),
    rules=(
        Rule("number_from_one", "number >= 1", "numbers start at 1"),
        Rule("kind_known", one_of("kind", KINDS), "the kind is promote or rollback"),
        Rule("another_run", "replaced_run_id IS NULL OR replaced_run_id <> run_id", "no run replaces itself"),
    ),
)

GATE_DECISIONS = DeclaredTable(
    name="gate_decisions",
    description=(
        "Decisions of the promotion gate about a run, the challenger. Metrics are those of the test split of its "
        "examples, with the same rows for both models; null if they were not measured. Intervals have the level "
        "gate.confidence."
    ),
    made_by="gate",
    skip_by=("run_id",),
    columns=(
        Column("run_id", "string", "the challenger, in training_runs"),
        Column("champion_run_id", "string", "the champion at that time; null: there was none", nullable=True),
        Column("ds", "date", "the challenger's logical date", nullable=True),
        Column("passed", "boolean", "whether it may be promoted"),
        Column("reasons", "array<string>", "reasons of the decision"),
        Column("auc", "double", "mean AUC over domains", nullable=True),
        Column("champion_auc", "double", "the champion's auc", nullable=True),
        Column("auc_difference", "double", "auc - champion_auc, over domains where both are known", nullable=True),
        Column("auc_low", "double", "lower end of the interval of auc_difference", nullable=True),
        Column("auc_high", "double", "upper end of the interval", nullable=True),
        Column("weighted_auc", "double", "mean AUC over domains weighted by rows", nullable=True),
        Column("champion_weighted_auc", "double", "the champion's weighted_auc", nullable=True),
        Column("calibration", "double", "sum of predicted probabilities over clicks (PCOC)", nullable=True),
        Column("champion_calibration", "double", "the champion's calibration", nullable=True),
        Column("calibration_error", "double", "expected calibration error of all rows", nullable=True),
        Column("champion_calibration_error", "double", "the champion's calibration_error", nullable=True),
        Column("gauc", "double", "AUC by (domain, user), weighted by rows", nullable=True),
        Column("champion_gauc", "double", "the champion's gauc", nullable=True),
        Column("gauc_difference", "double", "gauc - champion_gauc", nullable=True),
        Column("gauc_low", "double", "lower end of the interval of gauc_difference", nullable=True),
        Column("gauc_high", "double", "upper end of the interval", nullable=True),
        Column("day", "date", "the newest day of the rows", nullable=True),
        Column("day_auc", "double", "mean AUC over domains weighted by rows, on that day's rows", nullable=True),
        Column("earlier_auc", "double", "the same on earlier days' rows in the same domains", nullable=True),
        Column("champion_day_auc", "double", "the champion's day_auc", nullable=True),
        Column("champion_earlier_auc", "double", "the champion's earlier_auc", nullable=True),
        Column("domains", "int", "number of domains with an AUC", nullable=True),
        Column("domains_judged", "int", "number of domains with enough rows for a separate decision", nullable=True),
        Column("domains_worse", "int", "number of judged domains that are worse than the champion", nullable=True),
        Column(
            "unseen_users",
            "double",
            "share of the day's rows with a user that is unknown to the champion (or, without one, to the challenger)",
            nullable=True,
        ),
        Column("unseen_items", "double", "the same for items", nullable=True),
        Column("rows", "bigint", "number of measured rows", nullable=True),
        Column("examples_version", "bigint", "Delta version of examples", nullable=True),
        Column("decided_at", "timestamp", "time of the decision (UTC)"),
    ),
    rules=(
        Rule("reasons_given", "size(reasons) > 0", "every decision has a reason"),
        *(in_range(name) for name in ("auc", "champion_auc", "weighted_auc", "champion_weighted_auc")),
        Rule(
            "domains_counted",
            "domains IS NULL OR (domains_worse <= domains_judged AND domains_judged <= domains)",
            "worse domains are a subset of the judged ones, which are a subset of all",
        ),
    ),
)

GATE_DOMAINS = DeclaredTable(
    name="gate_domains",
    description="The challenger and the champion in each domain, on the same rows of the test split.",
    made_by="gate",
    skip_by=("run_id",),
    columns=(
        Column("run_id", "string", "the challenger, in gate_decisions"),
        Column("champion_run_id", "string", "the champion at that time; null: there was none", nullable=True),
        Column("domain", "int", "index in domains"),
        Column("domain_id", "string", "the domain's id"),
        Column("rows", "bigint", "number of measured rows"),
        Column("clicks", "bigint", "number of measured rows with label 1"),
        Column("auc", "double", "the challenger's AUC; null with one class only", nullable=True),
        Column("champion_auc", "double", "the champion's AUC", nullable=True),
        Column("difference", "double", "auc - champion_auc", nullable=True),
        Column("low", "double", "lower end of DeLong's interval of the difference", nullable=True),
        Column("high", "double", "upper end of it; null with fewer than two clicks or two other rows", nullable=True),
        Column(
            "worse", "boolean", "difference < -gate.domain_drop and high < 0, with gate.domain_clicks of each class"
        ),
    ),
    rules=(
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "there are no more clicks than rows"),
        Rule("interval_in_order", "low IS NULL OR low <= high", "the lower end is not above the upper end"),
        in_range("auc"),
        in_range("champion_auc"),
    ),
)
