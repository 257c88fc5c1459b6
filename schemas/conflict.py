"""How much the gradients of domains conflict at theta_S of a run."""

from schemas.declaration import Column, Rule, Table, one_of

STAGES = ("before", "after")
_STAGE_KNOWN = Rule("stage_known", one_of("stage", STAGES), "the stage is one of the two")

CONFLICTS = Table(
    name="conflicts",
    description=(
        "Agreement of domains' gradients of the mean training loss, over dense parameters, at theta_S of a run "
        "(before) and after some rounds of DN from there (after)."
    ),
    made_by="conflict",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("stage", "string", "before or after"),
        Column("domains", "int", "domains in the measured pairs"),
        Column("pairs", "bigint", "pairs measured"),
        Column("pairs_total", "bigint", "pairs of domains that have training rows"),
        Column("pairs_left_out", "bigint", "pairs drawn, but left out since a gradient is zero"),
        Column("mean_cosine", "double", "mean cosine of two domains' gradients"),
        Column("std_error", "double", "its standard error from drawing pairs; 0 where all were measured"),
        Column("negative_share", "double", "share of pairs with a cosine below 0: in conflict"),
        Column("negative_share_std_error", "double", "its standard error, likewise"),
        Column("mean_inner_product", "double", "mean inner product of two domains' gradients"),
        Column("cosine_quantiles", "map<string,double>", "0.05, 0.25, 0.5, 0.75 and 0.95 to that quantile"),
        Column("rows", "int", "rows of a domain that gradients are of, at most"),
        Column("dn_rounds", "int", "rounds of DN between the stages"),
        Column("lr", "double", "their inner learning rate"),
        Column("beta", "double", "their outer learning rate"),
        Column("seed", "int", "decides rows, pairs and rounds"),
        Column("made_at", "timestamp", "when it was written (UTC)"),
    ),
    rules=(
        _STAGE_KNOWN,
        Rule("pairs_counted", "pairs + pairs_left_out <= pairs_total", "no pair is measured twice"),
        Rule("cosine_in_range", "mean_cosine BETWEEN -1.000001 AND 1.000001", "a mean of cosines"),
        Rule("share_in_range", "negative_share BETWEEN 0 AND 1", "a share"),
    ),
)

DOMAIN_CONFLICTS = Table(
    name="domain_conflicts",
    description="A pair of domains that conflict has measured; of many domains a random sample of pairs.",
    made_by="conflict",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("stage", "string", "before or after"),
        Column("domain", "int", "index in domains"),
        Column("other", "int", "index of the other, which is greater"),
        Column("domain_id", "string", "the domain's id"),
        Column("other_id", "string", "the other's id"),
        Column("cosine", "double", "of their gradients"),
        Column("inner_product", "double", "of their gradients"),
    ),
    rules=(
        _STAGE_KNOWN,
        Rule("pair_once", "domain < other", "a pair stands here once"),
        Rule("cosine_in_range", "cosine BETWEEN -1.000001 AND 1.000001", "a cosine, but for rounding"),
    ),
)
