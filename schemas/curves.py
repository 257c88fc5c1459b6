"""Training curves: one row for each validation of a run."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of

PHASES = ("shared", "specific")

TRAINING_CURVES = DeclaredTable(
    name="training_curves",
    description="Validations of successful runs, in the order of `rows`.",
    made_by="train_mamdr",
    skip_by=("run_id",),
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("phase", "string", "shared: rounds of theta_S; specific: passes of DR once theta_S has settled"),
        Column("round", "int", "completed rounds, or passes, of the phase"),
        Column("epoch", "int", "number of the phase's current epoch, from 1; 0 before the first round"),
        Column("rows", "bigint", "rows in the inner steps of all ranks so far, including those of DR"),
        Column("seconds", "double", "time since the start of rank 0, without the time between two attempts"),
        Column("val_auc", "double", "mean AUC over domains of the val split", nullable=True),
        Column("weighted_val_auc", "double", "mean AUC weighted by rows", nullable=True),
        Column("best", "boolean", "whether it was the best of its phase so far, so that its parameters were kept"),
    ),
    rules=(
        Rule("phase_known", one_of("phase", PHASES), "the phase is shared or specific"),
        Rule("auc_in_range", "val_auc IS NULL OR val_auc BETWEEN 0 AND 1", "an AUC is in [0, 1]"),
    ),
)
