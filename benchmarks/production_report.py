"""The tables of bench_production.py, in Markdown."""

from production_estimate import Term
from production_shape import gb, print_table

PARTS = ("dn", "dr", "exchange", "deal", "validate", "checkpoint", "checkpoint, waited for at the end")
"""Of training; none is inside another."""
INSIDE = ("theta_i, read", "theta_i, write", "theta_i, validation", "keeping the best", "theta_i, read for checkpoints",
          "checkpoint, written in the background", "checkpoint, hashed in the background")  # fmt: skip


def print_replay(found: dict) -> None:
    """Print the replay's tables."""
    shape, each = found["shape"], found["ranks"].values()
    print(
        f"{shape['domains']:,} domains, {shape['train']:,} training rows ({shape['train'] / shape['domains']:,.0f} on "
        f"average, median {shape['median']:,}, largest {shape['largest']:,}), k = {found['k']}; set: "
        f"{' '.join(found['set']) or 'nothing'}; took {found['seconds']:.0f} s"
    )
    first = next(iter(each))["dn"]
    print(
        f"\nDN: {first['visits']:,} visits in {first['rounds']} rounds, {first['rows'] / first['visits']:.0f} rows "
        f"each, median {first['median_visit']:.0f}; {first['below_500']:.1%} of them below 500 rows, with "
        f"{first['rows_below_500']:.0%} of the rows; {first['rows'] / first['steps']:.0f} rows a step. Imbalance is "
        "the largest of all ranks over the mean."
    )
    print_table(
        "W | visits a round and rank | rows a round and rank | imbalance of a round: rows | steps | of an epoch: rows "
        "| steps | of a round without lending: rows | steps | rows lent an epoch | of all | received by a rank at most "
        "| steps of the slowest ranks, all rounds | planning a round",
        [_dn(own) for own in each],
    )
    some = next(iter(each))["dr"]
    print(
        f"\nDR, a pass: {some['targets']:,} targets, {some['rows']:,} row-descents ({some['support_rows']:,} on "
        f"support rows), {some['rows'] / some['steps']:.1f} rows a step without padding, "
        f"{some['steps'] / some['targets']:.0f} steps a target, {some['longest_target']:,} of the longest, one after "
        "another. All ranks:"
    )
    print_table(
        "W | targets a rank, mean | most | imbalance: row-descents | steps | targets",
        [[own["ranks"], f"{own['dr']['targets'] / own['ranks']:,.0f}", f"{own['dr']['slowest_targets']:,.0f}",
          *(f"{own['dr']['imbalance'][of]:.2f}" for of in ("rows", "steps", "targets"))] for own in each],
    )  # fmt: skip
    print(
        "\nStacks, on some ranks alone: the rank with most row-descents, and ranks evenly below it, down to the "
        "median. Where one of k trajectories was cut, counts are times k. A GPU's stacks may take 40 GB."
    )
    print_table(
        "W | rank | device | trajectories cut | trajectories a stack | seen by a row | padded over real rows "
        "| steps of stacks | rows a step",
        [
            _stacks(own, device, rank)
            for own in each
            for device in own["stacks"]
            for rank in range(len(own["stack_ranks"]))
        ],
    )
    _print_bytes(found)


def _dn(own: dict) -> list[object]:
    dn, ranks = own["dn"], own["ranks"]
    return [
        ranks,
        f"{dn['visits'] / dn['rounds'] / ranks:,.0f}",
        f"{dn['rows'] / dn['rounds'] / ranks:,.0f}",
        *(f"{dn[f'{of}_imbalance'][what]:.2f}" for of in ("round", "epoch") for what in ("rows", "steps")),
        *(f"{dn['owned']['round_imbalance'][what]:.2f}" for what in ("rows", "steps")),
        f"{dn['lent']['rows']:,} ({dn['lent']['bytes'] / 1e6:,.0f} MB)",
        f"{dn['lent']['rows'] / dn['rows']:.1%}",
        f"{dn['lent']['most_received'] / 1e6:,.1f} MB",
        f"{dn['slowest_steps']:,.0f}",
        f"{1e3 * dn['planning_seconds']:.0f} ms",
    ]


def _stacks(own: dict, device: str, place: int) -> list[object]:
    count = own["stacks"][device][place]
    return [
        own["ranks"],
        own["stack_ranks"][place],
        device,
        "all" if count["counted_for"] == 1 else f"1 of {count['counted_for']}",
        f"{count['trajectories'] / count['stacks']:.1f}",
        f"{count['grouped'] / count['rows']:.1f}",
        f"{count['padded'] / count['rows']:.3f}",
        f"{count['steps']:,}",
        f"{count['padded'] / count['steps']:,.0f}",
    ]


def _print_bytes(found: dict) -> None:
    print(
        "\nBytes: theta_S with its best copy and the moments, of a rank; checkpoint: of all ranks, after a pass, with "
        "theta_i and its best; local rows: of sharded tables, that a round reads, at most (every row another user and "
        "item); fixed: without the vectors themselves. Support rows: the positions that a rank holds, and what the "
        "rank that draws most receives in a pass, each draw counted."
    )
    rows = [
        [ranks, kind, gb(own["theta_i"]), gb(own["theta_i_rank"]), gb(own["replicated"]["rank"]),
         gb(own["sharded"]["rank"]), gb(own["local_rows"]), gb(own["support_held"]), gb(own["support_received"]),
         gb(own["replicated"]["checkpoint"]), gb(own["sharded"]["checkpoint"])]
        for kind, each in found["bytes"].items() for ranks, own in each.items()
    ]  # fmt: skip
    print_table(
        "W | fields | theta_i | of a rank, most | replicated, a rank | sharded, a rank | local rows, at most "
        "| support positions | support received | checkpoint, replicated | sharded",
        rows,
    )


def print_sample(found: dict) -> None:
    """Print the sample's tables."""
    print(f"{found['machine']}, {found['threads']} threads; set: {' '.join(found['set']) or 'nothing'}")
    for kind, own in found["kinds"].items():
        rows, seconds, rates = own["rows"], own["seconds"], own["product_rates"]
        print(
            f"\n{kind}: {own['domains']} domains with {rows['train']:,} training rows (largest {own['largest']:,}) "
            f"and {rows['val']:,} validation rows; a run of few domains, which compiles, took "
            f"{own['warm_up']:.0f} s before; products of full batches at {rates[0]:,.0f} rows/s before and "
            f"{rates[1]:,.0f} after; validation AUC {', '.join(f'{auc:.4f}' for auc in own['aucs'] if auc is not None)}"
        )
        print_table("part | s | share of training", _parts(own))
        print("\nWithout the seconds of compiling:")
        print_table(
            "update | row-descents | steps | rows a step, padded | µs a row | laying out rows, share "
            "| share of the products of its steps | of products of full batches",
            [_update(own, name) for name in ("dn", "dr")] + [_whole(own)],
        )
        moved = own["theta_i_moved"]
        print(
            f"\ntheta_i: {gb(moved['read'])} read, {gb(moved['write'])} written; {own['checkpoints']} checkpoints, the "
            f"last {gb(own['checkpoint_bytes'])}; package {gb(own['package_bytes'])} in {seconds['package']:.1f} s"
        )


def _parts(own: dict) -> list[list[object]]:
    seconds, total = own["seconds"], own["trained"]
    lines = [(name, seconds.get(name, 0.0)) for name in PARTS]
    lines.insert(1, ("of dn: outer update", seconds["outer update"]))
    lines.insert(2, ("of dn: compiling new shapes", own["compiled"]["dn"]))
    lines.insert(4, ("of dr: compiling new shapes", own["compiled"]["dr"]))
    lines.insert(5, ("of dr: drawing supports", seconds["drawing supports"]))
    lines.insert(6, ("of dr: waiting for theta_i", seconds["theta_i, DR"]))
    lines.append(("other", total - sum(seconds.get(name, 0.0) for name in PARTS)))
    lines.append(("training", total))
    lines += [(f"inside or alongside these: {name}", seconds.get(name, 0.0)) for name in INSIDE]
    return [[name, f"{each:.2f}", f"{each / total:.1%}"] for name, each in lines]


def _update(own: dict, name: str) -> list[object]:
    rows, steps = own["rows"][name], own["steps"][name]
    seconds = own["seconds"][name] - own["compiled"][name]
    full = sum(own["product_rates"]) / 2
    return [
        name,
        f"{rows:,}",
        f"{steps:,}",
        f"{own['padded'][name] / steps:,.0f}",
        f"{1e6 * seconds / rows:.2f}",
        f"{own['waited'][name] / seconds:.1%}",
        f"{own['products'][name] / seconds:.2f}",
        f"{rows / full / seconds:.2f}",
    ]


def _whole(own: dict) -> list[object]:
    """Training as a whole, over the products of DN's and DR's steps alone."""
    rows, full = own["rows"]["dn"] + own["rows"]["dr"], sum(own["product_rates"]) / 2
    steps, total = sum(own["steps"].values()), own["trained"] - sum(own["compiled"].values())
    return [
        "training", f"{rows:,}", f"{steps:,}",
         f"{sum(own['padded'].values()) / steps:,.0f}", f"{1e6 * total / rows:.2f}",
        f"{sum(own['waited'].values()) / total:.1%}", f"{sum(own['products'].values()) / total:.2f}",
        f"{rows / full / total:.2f}",
    ]  # fmt: skip


def print_estimate(found: dict[str, list[Term]]) -> None:
    """Print the terms of every estimate, and what they add up to."""
    for name, terms in found.items():
        print(f"\n**{name}**: an estimate, of sharded tables; ranks wait for the slowest in every round")
        rows: list[list[object]] = [[t.part, t.name, t.amount, t.rate, f"{t.seconds:,.1f}"] for t in terms]
        for part in ("DN", "DR", "other"):
            rows.append([part, "**all**", "", "", f"**{sum(t.seconds for t in terms if t.part == part):,.0f}**"])
        total = sum(term.seconds for term in terms)
        rows.append(["", "**an epoch of DN and a pass of DR**", "", "", f"**{total:,.0f} ({total / 60:,.0f} min)**"])
        print_table("part | term | the slowest rank's amount (replay) | rate (sample) | s", rows)
