"""Conflicts between the gradients of domains at theta_S of a run."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of

STAGES = ("before", "after")
_STAGE_KNOWN = Rule("stage_known", one_of("stage", STAGES), "the stage is before or after")

CONFLICTS = DeclaredTable(
    name="conflicts",
    description=(
        "Agreement between domains' gradients of the mean training loss with respect to dense parameters, at theta_S "
        "of a run (before) and after some rounds of DN from it (after)."
    ),
    made_by="conflict",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("stage", "string", "before or after"),
        Column("domains", "int", "domains in the measured pairs"),
        Column("pairs", "bigint", "pairs measured"),
        Column("pairs_total", "bigint", "pairs of domains that have training rows"),
        Column("pairs_left_out", "bigint", "sampled pairs that were left out because a gradient is zero"),
        Column("mean_cosine", "double", "mean cosine of two domains' gradients"),
        Column("std_error", "double", "its standard error due to sampling; 0 if all pairs were measured"),
        Column("negative_share", "double", "share of pairs in conflict, with a cosine below 0"),
        Column("negative_share_std_error", "double", "its standard error due to sampling"),
        Column("mean_inner_product", "double", "mean inner product of two domains' gradients"),
        Column("cosine_quantiles", "map<string,double>", "0.05, 0.25, 0.5, 0.75 and 0.95 to that quantile"),
        Column("rows", "int", "largest number of a domain's rows in its gradient"),
        Column("dn_rounds", "int", "rounds of DN between the stages"),
        Column("lr", "double", "inner learning rate of these rounds"),
        Column("beta", "double", "outer learning rate of these rounds"),
        Column("seed", "int", "seed of the choice of rows, pairs and rounds"),
        Column("made_at", "timestamp", "time of writing (UTC)"),
    ),
    rules=(
        _STAGE_KNOWN,
        Rule("pairs_counted", "pairs + pairs_left_out <= pairs_total", "no pair is measured twice"),
        Rule("cosine_in_range", "mean_cosine BETWEEN -1.000001 AND 1.000001", "it is a mean of cosines"),
        Rule("share_in_range", "negative_share BETWEEN 0 AND 1", "it is a share"),
    ),
)

DOMAIN_CONFLICTS = DeclaredTable(
    name="domain_conflicts",
    description="Pairs of domains that the job conflict measured: all pairs, or a random sample for many domains.",
    made_by="conflict",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("stage", "string", "before or after"),
        Column("domain", "int", "index in domains"),
        Column("other", "int", "index of the other domain, which is greater"),
        Column("domain_id", "string", "the domain's id"),
        Column("other_id", "string", "the other domain's id"),
        Column("cosine", "double", "cosine of their gradients"),
        Column("inner_product", "double", "inner product of their gradients"),
    ),
    rules=(
        _STAGE_KNOWN,
        Rule("pair_once", "domain < other", "every pair has one row"),
        Rule("cosine_in_range", "cosine BETWEEN -1.000001 AND 1.000001", "it is a cosine, up to rounding"),
    ),
)
