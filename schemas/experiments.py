"""Results of experiments with many runs: comparisons of methods and models, and sweeps over settings."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of


def in_range(column: str) -> Rule:
    """The rule that an AUC is null or in [0, 1]."""
    condition = f"{column} IS NULL OR {column} BETWEEN 0 AND 1"
    return Rule(f"{column}_in_range", condition, f"{column} is in [0, 1]")


COMPARISONS = DeclaredTable(
    name="comparisons",
    description=(
        "Results of models and methods in a comparison. Metrics are those of the test split, averaged over successful "
        "seeds. Domains without an AUC (one class only) in some of the compared runs are left out of means, ranks and "
        "the significance test."
    ),
    made_by="compare_methods",
    columns=(
        Column("comparison", "string", "name of the comparison"),
        Column("model", "string", "model.name"),
        Column("method", "string", "train.method"),
        Column("baseline", "string", "model/method with which it is compared"),
        Column("seeds", "int", "number of successful seeds"),
        Column("failed", "int", "number of failed seeds"),
        Column("domains", "int", "number of measured domains"),
        Column("domains_left_out", "int", "number of domains with test rows that were left out"),
        Column("test_auc", "double", "mean AUC over domains", nullable=True),
        Column("test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("weighted_test_auc", "double", "mean AUC over domains weighted by test rows", nullable=True),
        Column("weighted_test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_gauc", "double", "AUC by (domain, user), weighted by rows, of all domains", nullable=True),
        Column("test_gauc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_ndcg", "map<string,double>", "k to NDCG@k, mean over (domain, user)", nullable=True),
        Column("test_hit_rate", "map<string,double>", "k to hit rate@k, mean over (domain, user)", nullable=True),
        Column("test_pcoc", "double", "sum of predictions over clicks, of all rows", nullable=True),
        Column("test_calibration_error", "double", "expected calibration error of all rows", nullable=True),
        Column("val_auc", "double", "mean validation AUC over domains", nullable=True),
        Column("rank", "double", "mean over domains and seeds of the rank by AUC; 1 is best", nullable=True),
        Column("wins", "int", "domains with a higher AUC than the baseline's", nullable=True),
        Column("ties", "int", "domains with an equal AUC", nullable=True),
        Column("losses", "int", "domains with a lower AUC", nullable=True),
        Column("difference", "double", "mean over domains of the AUC minus the baseline's", nullable=True),
        Column("p_value", "double", "of Wilcoxon's signed-rank test over domains, two-sided", nullable=True),
        Column("oracle_test_auc", "double", "mean AUC of the true probabilities (synthetic logs only)", nullable=True),
        Column("smallest_third_test_auc", "double", "mean AUC of the third of domains with fewest rows", nullable=True),
        Column("seconds", "double", "mean duration of a run; concurrent runs slow each other down", nullable=True),
        Column("runs", "array<string>", "the runs, in training_runs"),
        Column("examples_version", "bigint", "Delta version of examples"),
        Column("made_at", "timestamp", "time of writing (UTC)"),
    ),
    rules=(
        Rule("runs_are_seeds", "size(runs) = seeds", "there is a run for each successful seed"),
        Rule("seeds_counted", "seeds >= 0 AND failed >= 0", "counts are not negative"),
        Rule(
            "domains_decided",
            "wins IS NULL OR wins + ties + losses = domains",
            "every domain is a win, a loss or a tie",
        ),
        Rule("rank_from_one", "rank IS NULL OR rank >= 1", "the best rank is 1"),
        Rule("p_value_in_range", "p_value IS NULL OR p_value BETWEEN 0 AND 1", "it is a probability"),
        *(in_range(name) for name in ("test_auc", "weighted_test_auc", "val_auc", "smallest_third_test_auc")),
    ),
)

SWEEPS = DeclaredTable(
    name="sweeps",
    description=(
        "Trials of a sweep: settings with which a method was trained. Metrics are means over domains, averaged over "
        "successful seeds. The best trial is chosen by val_auc."
    ),
    made_by="sweep",
    columns=(
        Column("sweep", "string", "name of the sweep"),
        Column("model", "string", "model.name"),
        Column("method", "string", "train.method"),
        Column("point", "int", "number of the trial for its method, from 0, in the order in which they were drawn"),
        Column("settings", "map<string,string>", "config key to its value, YAML"),
        Column("status", "string", "ok, or failed if a seed failed"),
        Column("chosen", "boolean", "whether it has the best val_auc among the successful trials of its method"),
        Column("seeds", "int", "number of successful seeds"),
        Column("val_auc", "double", "mean validation AUC", nullable=True),
        Column("val_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_auc", "double", "mean test AUC", nullable=True),
        Column("test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("error", "string", "error of the first failed seed", nullable=True),
        Column("runs", "array<string>", "the runs, in training_runs"),
        Column("examples_version", "bigint", "Delta version of examples"),
        Column("made_at", "timestamp", "time of writing (UTC)"),
    ),
    rules=(
        Rule("status_known", one_of("status", ("ok", "failed")), "the status is ok or failed"),
        Rule("chosen_is_ok", "NOT chosen OR status = 'ok'", "failed trials are not chosen"),
        Rule("runs_are_seeds", "size(runs) = seeds", "there is a run for each successful seed"),
        *(in_range(name) for name in ("val_auc", "test_auc")),
    ),
)
