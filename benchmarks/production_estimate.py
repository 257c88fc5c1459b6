"""The production epoch on many devices, term by term: the replay's counts at the sample's rates."""

from dataclasses import dataclass

STEP_H100, ROWS_H100 = 1024 / 5.5e6, 70e6
"""Where no sample ran on a GPU: seconds of a captured step, and rows a second of compiled stacks of 256, on one H100.
They were measured before the engine that is replayed here, and its steps are not captured: a bound from below."""


@dataclass(frozen=True)
class Term:
    """Seconds of the slowest rank.

    Attributes:
        part: DN, DR or other.
        name: of the term.
        amount: what the replay counted.
        rate: what the sample measured, or what is assumed.
        seconds: their product.
    """

    part: str
    name: str
    amount: str
    rate: str
    seconds: float

    @classmethod
    def of(
        cls, part: str, name: str, amount: float, unit: str, seconds_each: float, source: str = "measured"
    ) -> "Term":
        return cls(
            part, name, f"{amount:,.0f} {unit}", f"{_seconds(seconds_each)} each, {source}", amount * seconds_each
        )


def estimate(
    counted: dict, bytes_: dict, sample: dict, val_rows: int, minutes: float, network: float, gpu: bool, on_gpu: bool
) -> list[Term]:
    """The terms of an epoch of DN and a pass of DR.

    Args:
        counted: the replay's, of as many ranks.
        bytes_: the replay's of them, of the sample's kind of fields.
        sample: of one kind of fields.
        val_rows: of production.
        minutes: between two checkpoints.
        network: bytes a second of each rank.
        gpu: whether ranks are GPUs.
        on_gpu: whether the sample ran on one.
    """
    dn, dr = counted["dn"], counted["dr"]
    steps = _gpu_steps(counted, sample, on_gpu) if gpu else _cpu_steps(dn, dr, sample)
    source = "measured" if gpu == on_gpu else "measured on the sample's CPU"
    host = _host(dn, dr, sample, counted["ranks"], val_rows, source)
    terms = [*steps, *host, *_network(dn, bytes_, sample, network)]
    passed = sum(term.seconds for term in terms)
    return [*terms, *_files(bytes_, sample, passed, minutes, source)]


def _cpu_steps(dn: dict, dr: dict, sample: dict) -> list[Term]:
    rows = sample["rows"]
    of_dn, of_dr = _steps_seconds(sample)
    return [
        Term.of("DN", "steps, rows laid out", dn["slowest_rows"], "rows", of_dn / rows["dn"]),
        Term.of("DR", "steps, rows laid out", dr["slowest_rows"], "row-descents", of_dr / rows["dr"]),
    ]


def _steps_seconds(sample: dict) -> tuple[float, float]:
    """Of DN's and DR's steps and the laying out of their rows: without compiling and what has a term of its own."""
    seconds, compiled = sample["seconds"], sample["compiled"]
    of_dn = seconds["dn"] - compiled["dn"] - seconds["outer update"]
    return of_dn, seconds["dr"] - compiled["dr"] - seconds["theta_i, DR"] - seconds["drawing supports"]


def _gpu_steps(counted: dict, sample: dict, on_gpu: bool) -> list[Term]:
    """By steps, of which a GPU does few rows in the time of many; the slowest of the ranks whose stacks were cut."""
    rows, waited = sample["rows"], sample["waited"]
    dn, dr = counted["dn"], counted["dr"]
    slowest = max(counted["stacks"]["cuda"], key=lambda stacks: stacks["steps"])
    if on_gpu:
        of_dn, of_dr = (
            each / sample["steps"][of] for each, of in zip(_steps_seconds(sample), ("dn", "dr"), strict=True)
        )
        return [
            Term.of("DN", "steps, waiting for rows", dn["slowest_steps"], "steps", of_dn),
            Term.of("DR", "steps, waiting for rows", slowest["steps"], "steps of stacks", of_dr),
        ]
    host = "measured on this CPU; a GPU lays out rows itself, at another rate"
    return [
        Term.of("DN", "steps", dn["slowest_steps"], "steps", STEP_H100, "assumed"),
        Term.of("DN", "rows laid out", dn["slowest_rows"], "rows", waited["dn"] / rows["dn"], host),
        Term.of("DR", "steps", slowest["steps"], "steps of stacks", STEP_H100, "assumed"),
        Term.of("DR", "products beyond that", _beyond(slowest), "padded rows", 1 / ROWS_H100, "assumed"),
        Term.of("DR", "rows laid out", dr["slowest_rows"], "row-descents", waited["dr"] / rows["dr"], host),
    ]


def _seconds(each: float) -> str:
    return f"{1e3 * each:.3g} ms" if each >= 1e-3 else f"{1e6 * each:.3g} µs"


def _beyond(stacks: dict) -> float:
    """Padded rows that the steps' least time does not suffice for."""
    return max(0.0, stacks["padded"] - stacks["steps"] * STEP_H100 * ROWS_H100)


def _host(dn: dict, dr: dict, sample: dict, ranks: int, val_rows: int, source: str) -> list[Term]:
    seconds, rows = sample["seconds"], sample["rows"]
    # The sample deals rows for an epoch and for a pass, and the slowest rank has `imbalance` of the mean rows.
    own, imbalance = dn["rows"] / ranks * dn["owned"]["epoch_imbalance"]["rows"], dn["owned"]["epoch_imbalance"]["rows"]
    deal = seconds["deal"] / (2 * rows["train"])
    measured = sum(sample["validations"].values())
    validate = seconds["validate"] / (measured * rows["val"])
    targets = dr["slowest_targets"]
    return [
        Term.of("DN", "outer update", dn["slowest_rows"], "rows", seconds["outer update"] / rows["dn"], source),
        Term.of("DN", "the plan", dn["rounds"], "rounds", dn["planning_seconds"], "measured by the replay"),
        Term.of("DN", "dealing rows", own, "rows", deal, source),
        Term.of("DR", "dealing rows", own, "rows", deal, source),
        Term.of("DR", "drawing supports", targets, "targets", seconds["drawing supports"] / sample["domains"], source),
        Term.of(
            "DR", "theta_i read and written", targets, "targets", seconds["theta_i, DR"] / sample["domains"], source
        ),
        Term.of("DR", "sampling support rows", own, "rows", seconds["exchange"] / rows["train"], source),
        Term.of("other", f"{measured} validations", measured * imbalance * val_rows / ranks, "rows", validate, source),
    ]


def _network(dn: dict, bytes_: dict, sample: dict, network: float) -> list[Term]:
    """Volumes alone: no latency, and every rank sends at the full rate."""
    dense = 2 * 4 * sample["parameters"] * dn["rounds"]
    rows = bytes_["exchanged_rows"] * dn["rounds"]
    return [
        Term.of(part, name, amount / 1e6, "MB", 1e6 / network, "assumed")
        for part, name, amount in (
            ("DN", "averaging dense parameters", dense),
            ("DN", "embedding rows fetched and averaged, at most", rows),
            ("DN", "rows borrowed", dn["lent"]["most_received"]),
            ("DR", "support rows received", bytes_["support_received"]),
        )
    ]


def _files(bytes_: dict, sample: dict, passed: float, minutes: float, source: str) -> list[Term]:
    """Checkpoints as often as the setting has them, of sharded tables; their writing is not waited for."""
    seconds = sample["seconds"]
    size = bytes_["sharded"]["checkpoint_rank"] / 1e6
    copied = seconds["checkpoint"] / max(1, sample["checkpoints"]) / (sample["checkpoint_bytes"] / 1e6)
    written = seconds["package"] / (sample["package_bytes"] / 1e6)
    package = (bytes_["sharded"]["theta_S"] + bytes_["theta_i_rank"]) / 1e6
    times = int(passed / 60 / minutes) if minutes else 0
    return [
        Term.of("other", f"{times} checkpoints, what rounds wait for", times * size, "MB", copied, source),
        Term.of("other", "the package", package, "MB", written, source),
    ]
