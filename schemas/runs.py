"""Training runs and what they reached in each domain."""

from schemas.declaration import Column, Rule, Table, one_of
from schemas.examples import SPLITS

STATUSES = ("running", "ok", "failed", "stopped")


TRAINING_RUNS = Table(
    name="training_runs",
    description="A training run.",
    made_by="train_mamdr",
    columns=(
        Column("run_id", "string", "names the run"),
        Column("status", "string", "running, ok, failed, or stopped (by SIGTERM)"),
        Column("method", "string", "train.method"),
        Column("model", "string", "model.name"),
        Column("parent_run_id", "string", "the run that it started from", nullable=True),
        Column("code_version", "string", "git version of the code, with + where files were changed", nullable=True),
        Column("config", "string", "the resolved configuration, YAML"),
        Column(
            "plugins",
            "map<string,string>",
            "the user's own structure and method (module:name) to the SHA-256 of their source; null: none",
            nullable=True,
        ),
        Column("experiment", "string", "the comparison or sweep that made it", nullable=True),
        Column(
            "cell",
            "string",
            "hash of what decides its result: features, model, training and input versions, not paths or devices",
            nullable=True,
        ),
        Column("input_versions", "map<string,bigint>", "table to the Delta version that was read"),
        Column("ds", "date", "the logical day", nullable=True),
        Column("ranks", "int", "number of ranks", nullable=True),
        Column("device", "string", "device of the ranks", nullable=True),
        Column("engine", "string", "engine that ran the steps: eager or fast", nullable=True),
        Column("precision", "string", "of its matrix products: fp32, tf32 or bf16", nullable=True),
        Column("epochs", "int", "epochs begun", nullable=True),
        Column("rounds", "int", "outer updates", nullable=True),
        Column("dr_passes", "int", "passes of DR once theta_S had settled", nullable=True),
        Column("domains", "int", "domains that learned: all with rows, or train.only_domains", nullable=True),
        Column("train_rows", "bigint", "rows of the train split, of these domains", nullable=True),
        Column("val_auc", "double", "mean over domains", nullable=True),
        Column("test_auc", "double", "mean over domains", nullable=True),
        Column("weighted_test_auc", "double", "mean over domains weighted by rows", nullable=True),
        Column("samples_per_second", "double", "rows descended on in inner loops over their wall time", nullable=True),
        Column("data_wait_seconds", "double", "inner loops waited for rows, on the slowest rank", nullable=True),
        Column("skipped_steps", "bigint", "steps passed over since their loss was not finite", nullable=True),
        Column("specific_kind", "string", "specific parameters: none, dense (theta_i of DR) or mixed", nullable=True),
        Column(
            "specific_bytes",
            "bigint",
            "theta_i's dense parameters, the best kept aside included, or the mixed model",
            nullable=True,
        ),
        Column("specific_row_bytes", "bigint", "theta_i's embedding rows with their ids", nullable=True),
        Column(
            "variances",
            "map<string,double>",
            "learned by a mixed model: of an entry of w_i (w.name) or a kind of effect",
            nullable=True,
        ),
        Column("seconds", "map<string,double>", "phase to seconds", nullable=True),
        Column("package", "string", "folder of the model package", nullable=True),
        Column("error", "string", "why it failed", nullable=True),
        Column("attempts", "int", "times that its ranks were started", nullable=True),
        Column("causes", "array<string>", "why ranks were started again, in order", nullable=True),
        Column("started_at", "timestamp", "start (UTC); of a resumed run when it was resumed last"),
        Column("finished_at", "timestamp", "end (UTC)", nullable=True),
    ),
    rules=(Rule("status_known", one_of("status", STATUSES), "the status is one of the four"),),
)

DOMAIN_METRICS = Table(
    name="domain_metrics",
    description="A run's figures in one domain and split.",
    made_by="train_mamdr",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("domain", "int", "index in domains"),
        Column("domain_id", "string", "the domain's id"),
        Column("split", "string", "train, val or test"),
        Column("rows", "bigint", "examples"),
        Column("clicks", "bigint", "examples with label 1"),
        Column("auc", "double", "exact area under the ROC curve; null with one class only", nullable=True),
        Column("logloss", "double", "mean negative log-likelihood", nullable=True),
        Column("mean_prediction", "double", "mean predicted probability; compare with clicks / rows", nullable=True),
        Column("oracle_auc", "double", "AUC of the true probabilities (synthetic logs only)", nullable=True),
    ),
    rules=(
        Rule("split_known", one_of("split", SPLITS), "the split is one of the three"),
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "no more clicks than rows"),
        Rule("auc_in_range", "auc IS NULL OR auc BETWEEN 0 AND 1", "an AUC lies in [0, 1]"),
    ),
)
