"""How training runs went: one row a validation."""

from schemas.declaration import Column, Rule, Table, one_of

PHASES = ("shared", "specific")

TRAINING_CURVES = Table(
    name="training_curves",
    description="A validation of a run that ended well, in the order of `rows`.",
    made_by="train_mamdr",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("phase", "string", "shared: rounds of theta_S; specific: passes of DR once theta_S has settled"),
        Column("round", "int", "rounds of the phase before it, or passes"),
        Column("epoch", "int", "begun of the phase, from 1; 0 before the first round"),
        Column("rows", "bigint", "rows that all ranks have descended on, in inner loops and DR"),
        Column("seconds", "double", "since rank 0 began, without the time between two attempts"),
        Column("val_auc", "double", "mean over domains of the val split", nullable=True),
        Column("weighted_val_auc", "double", "the same weighted by rows", nullable=True),
        Column("best", "boolean", "whether it was the best of its phase so far, so that its parameters were kept"),
    ),
    rules=(
        Rule("phase_known", one_of("phase", PHASES), "the phase is one of the two"),
        Rule("auc_in_range", "val_auc IS NULL OR val_auc BETWEEN 0 AND 1", "an AUC lies in [0, 1]"),
    ),
)
