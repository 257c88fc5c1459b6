"""Who serves: what the gate decided about each run, and which run served from when."""

from schemas.declaration import Column, Rule, Table, one_of
from schemas.experiments import in_range

KINDS = ("promote", "rollback")

PROMOTIONS = Table(
    name="promotions",
    description=(
        "A change of the champion, the run that serves; rows are added and never changed. The champion is the run of "
        "the row with the greatest number; a run served from its row's promoted_at to the next row's."
    ),
    made_by="promote",
    columns=(
        Column("number", "bigint", "counts the changes from 1"),
        Column("run_id", "string", "the run that serves from then on, in training_runs"),
        Column("replaced_run_id", "string", "the champion until then; null: there was none", nullable=True),
        Column("kind", "string", "promote, or rollback to a run that had served before"),
        Column("ds", "date", "the run's logical day", nullable=True),
        Column("forced", "boolean", "whether promote.force passed over the gate's decision and the order of days"),
        Column("promoted_at", "timestamp", "when (UTC)"),
    ),
    rules=(
        Rule("number_from_one", "number >= 1", "changes count from 1"),
        Rule("kind_known", one_of("kind", KINDS), "the kind is one of the two"),
        Rule("another_run", "replaced_run_id IS NULL OR replaced_run_id <> run_id", "no run replaces itself"),
    ),
)

GATE_DECISIONS = Table(
    name="gate_decisions",
    description=(
        "What the gate decided about a run, the challenger. Figures are of the test split of its examples, "
        "the same rows for both models; null where nothing was measured. Intervals have gate.confidence."
    ),
    made_by="gate",
    columns=(
        Column("run_id", "string", "the challenger, in training_runs"),
        Column("champion_run_id", "string", "the champion then; null: there was none", nullable=True),
        Column("ds", "date", "the challenger's logical day", nullable=True),
        Column("passed", "boolean", "whether it may be promoted"),
        Column("reasons", "array<string>", "why it was stopped or, where it passed, what speaks for it"),
        Column("auc", "double", "mean over domains", nullable=True),
        Column("champion_auc", "double", "the champion's", nullable=True),
        Column("auc_difference", "double", "auc - champion_auc, over domains where both are known", nullable=True),
        Column("auc_low", "double", "lower end of the difference's interval", nullable=True),
        Column("auc_high", "double", "upper end of it", nullable=True),
        Column("weighted_auc", "double", "mean over domains weighted by rows", nullable=True),
        Column("champion_weighted_auc", "double", "the champion's", nullable=True),
        Column("calibration", "double", "sum of predicted probabilities over clicks (PCOC)", nullable=True),
        Column("champion_calibration", "double", "the champion's", nullable=True),
        Column("calibration_error", "double", "expected calibration error of all rows", nullable=True),
        Column("champion_calibration_error", "double", "the champion's", nullable=True),
        Column("gauc", "double", "AUC by (domain, user), weighted by rows", nullable=True),
        Column("champion_gauc", "double", "the champion's", nullable=True),
        Column("gauc_difference", "double", "gauc - champion_gauc", nullable=True),
        Column("gauc_low", "double", "lower end of the difference's interval", nullable=True),
        Column("gauc_high", "double", "upper end of it", nullable=True),
        Column("day", "date", "the newest day among the rows", nullable=True),
        Column("day_auc", "double", "mean over domains weighted by rows, of that day's rows", nullable=True),
        Column("earlier_auc", "double", "likewise, of earlier days' rows in the same domains", nullable=True),
        Column("champion_day_auc", "double", "the champion's day_auc", nullable=True),
        Column("champion_earlier_auc", "double", "the champion's earlier_auc", nullable=True),
        Column("domains", "int", "domains with an AUC", nullable=True),
        Column("domains_judged", "int", "of them, those with enough rows to be judged one by one", nullable=True),
        Column("domains_worse", "int", "of those, how many are worse than the champion", nullable=True),
        Column(
            "unseen_users",
            "double",
            "share of the day's rows whose user the champion (without one: it) lacks",
            nullable=True,
        ),
        Column("unseen_items", "double", "likewise of items", nullable=True),
        Column("rows", "bigint", "rows measured", nullable=True),
        Column("examples_version", "bigint", "Delta version of examples", nullable=True),
        Column("decided_at", "timestamp", "when (UTC)"),
    ),
    rules=(
        Rule("reasons_given", "size(reasons) > 0", "every decision has a reason"),
        *(in_range(name) for name in ("auc", "champion_auc", "weighted_auc", "champion_weighted_auc")),
        Rule(
            "domains_counted",
            "domains IS NULL OR (domains_worse <= domains_judged AND domains_judged <= domains)",
            "worse domains are among those judged, and those among all",
        ),
    ),
)

GATE_DOMAINS = Table(
    name="gate_domains",
    description="A challenger in one domain beside the champion, on the same rows of the test split.",
    made_by="gate",
    columns=(
        Column("run_id", "string", "the challenger, in gate_decisions"),
        Column("champion_run_id", "string", "the champion that it was compared with; null: with none", nullable=True),
        Column("domain", "int", "index in domains"),
        Column("domain_id", "string", "the domain's id"),
        Column("rows", "bigint", "rows measured"),
        Column("clicks", "bigint", "of them, with label 1"),
        Column("auc", "double", "the challenger's; null with one class only", nullable=True),
        Column("champion_auc", "double", "the champion's", nullable=True),
        Column("difference", "double", "auc - champion_auc", nullable=True),
        Column("low", "double", "lower end of DeLong's interval of the difference", nullable=True),
        Column("high", "double", "upper end of it; null below two clicks or two rows without", nullable=True),
        Column(
            "worse", "boolean", "difference < -gate.domain_drop and high < 0, with gate.domain_clicks of each class"
        ),
    ),
    rules=(
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "no more clicks than rows"),
        Rule("interval_in_order", "low IS NULL OR low <= high", "an interval's lower end is its lesser"),
        in_range("auc"),
        in_range("champion_auc"),
    ),
)
