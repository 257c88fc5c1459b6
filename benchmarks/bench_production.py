"""A production epoch of MAMDR: the work of each rank, a sample that is run here, and an estimate from both.

    .venv/bin/python benchmarks/bench_production.py replay --out replay.json
    .venv/bin/python benchmarks/bench_production.py sample --threads 2 --out sample.json
    .venv/bin/python benchmarks/bench_production.py estimate --replay replay.json --sample sample.json

replay: the plan, placement and stacking of conf/production.yaml (MAMDR, k = 5, all other settings by default or --set)
on W ranks, without computing. sample: one run of 691 domains of these sizes, with one epoch of theta_S and one pass of
DR, validations, early stopping, checkpoints and package, with trained embeddings and with fixed vectors, timed by part
and against torch's own matrix products of the same steps; --scale 0.01 is a smoke test. estimate: the replay's counts
at the sample's rates for 128 CPU cores and for 8 H100s, with every term.

The synthetic sizes are those of the configuration's seed; --set synthetic.seed=N draws others.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from machine import machine
from production_bytes import count_bytes
from production_estimate import estimate
from production_replay import replay, targets_of
from production_report import print_estimate, print_replay, print_sample
from production_sample import run_sample
from production_shape import production_config, rows_by_domain, with_fixed_vectors

DOMAINS = 691
RANKS = (1, 8, 32, 64, 128, 400)
"""64: the ranks of two threads of 128 cores."""


def run_replay(options: argparse.Namespace) -> dict:
    config = production_config(options.set, options.domains)
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    train, val = rows_by_domain(config)
    targets = targets_of(config)
    kinds = {"trained": config, "fixed": with_fixed_vectors(config)}
    found = {"ranks": {}, "bytes": {kind: {} for kind in kinds}}
    for ranks in options.ranks:
        found["ranks"][str(ranks)] = counted = replay(config, ranks, targets, options.stack_ranks, options.devices)
        for kind, own in kinds.items():
            found["bytes"][kind][str(ranks)] = count_bytes(own, ranks, targets, counted["dn"]["largest_round"])
    sizes = sorted(train.tolist())
    return found | {
        "shape": {
            "domains": len(train),
            "train": int(train.sum()),
            "val": int(val.sum()),
            "median": sizes[len(sizes) // 2],
            "largest": sizes[-1],
        },
        "k": config.train.dr.k,
        "minutes": config.train.checkpoint.minutes,
        "set": options.set,
        "seconds": time.perf_counter() - started,
    }


def run_one(options: argparse.Namespace) -> dict:
    torch.set_num_threads(options.threads)
    config = production_config(options.set, max(2, round(DOMAINS * options.scale)))
    device = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    return {
        "machine": device,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "set": options.set,
        "kinds": run_sample(config, options.device, options.kinds, not options.no_compile),
    }


def run_estimate(options: argparse.Namespace) -> dict:
    counted = json.loads(options.replay.read_text())
    samples = [json.loads(path.read_text()) for path in options.sample]
    found = {}
    for gpu in (False, True):
        fitting = [sample for sample in samples if (sample["device"] == "cuda") == gpu]
        sample = (fitting or samples)[0]
        ranks = options.gpus if gpu else options.cores // sample["threads"]
        if (not gpu and not fitting) or str(ranks) not in counted["ranks"]:
            raise SystemExit(f"needs a sample on a CPU, and a replay with {ranks} ranks: replay --ranks {ranks}")
        name = f"{ranks} H100s" if gpu else f"{options.cores} cores, {ranks} ranks of {sample['threads']} threads"
        for kind, figures in sample["kinds"].items():
            found[f"{name}, {kind}"] = estimate(
                counted["ranks"][str(ranks)],
                counted["bytes"][kind][str(ranks)],
                figures,
                counted["shape"]["val"],
                counted["minutes"],
                options.gpu_network if gpu else options.network,
                gpu,
                sample["device"] == "cuda",
            )
    print_estimate(found)
    return {name: [vars(term) for term in terms] for name, terms in found.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    replaying, sampling, estimating = (commands.add_parser(name) for name in ("replay", "sample", "estimate"))
    replaying.add_argument("--ranks", nargs="+", type=int, default=RANKS)
    replaying.add_argument("--domains", type=int, default=0, help="fewer, of the same sizes; 0: all")
    replaying.add_argument("--stack-ranks", type=int, default=2, help="ranks whose stacks are cut")
    replaying.add_argument("--devices", nargs="+", default=["cpu", "cuda"], choices=["cpu", "cuda"])
    sampling.add_argument("--scale", type=float, default=1.0, help=f"part of {DOMAINS} domains")
    sampling.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    sampling.add_argument("--kinds", nargs="+", default=["trained", "fixed"], choices=["trained", "fixed"])
    sampling.add_argument("--no-compile", action="store_true", help="steps as they are, for a smoke test")
    estimating.add_argument("--replay", type=Path, required=True)
    estimating.add_argument("--sample", type=Path, nargs="+", required=True, help="on a CPU, and one on an H100 if any")
    estimating.add_argument("--cores", type=int, default=128)
    estimating.add_argument("--gpus", type=int, default=8)
    estimating.add_argument("--network", type=float, default=1e8, help="bytes a second of a CPU rank, assumed")
    estimating.add_argument("--gpu-network", type=float, default=5e10, help="bytes a second of a GPU, assumed")
    for each in (replaying, sampling):
        each.add_argument("--threads", type=int, default=2, help="of a rank on a CPU")
        each.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    for each in (replaying, sampling, estimating):
        each.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    if not options.command:  # make bench
        options = parser.parse_args(["replay"])
    print(f"{machine()}, torch {torch.__version__}", flush=True)
    run = {"replay": run_replay, "sample": run_one, "estimate": run_estimate}[options.command]
    found = run(options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    if options.command != "estimate":
        {"replay": print_replay, "sample": print_sample}[options.command](found)


if __name__ == "__main__":
    main()
