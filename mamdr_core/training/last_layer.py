"""Refits the last layer to held-out rows, which the network has not memorised.

Shape suffixes: N sampled validation rows, H inputs of the last layer and 1 for its bias.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.metrics import segmented_auc
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.engine.threads import one_thread
from mamdr_core.mixed.newton import Prior, fit_domains, variance_factor
from mamdr_core.parallel.collective import Collective

logger = logging.getLogger(__name__)

MOST_ROWS = 200_000
"""Maximum number of validation rows that are used, over all ranks."""
FOLDS = 5
PRIOR_UPDATES, STEPS = 8, 3
"""Number of updates of the prior's variance, and of Newton steps between two updates."""
START_TAU, LEAST_TAU, MOST_TAU = 0.1, 1e-4, 10.0
"""Standard deviation of the prior at the start, and its bounds."""


@dataclass(frozen=True)
class HeldOut:
    """Validation rows of all ranks, sorted by domain, the same on all ranks.

    Attributes:
        hidden_NH: standardised inputs of the last layer, and 1.
        logits_N: logits of the network with its base logits, float32.
        labels_N: 0. or 1.
        weights_N: sample weights, 1 on average.
        offsets: start of each domain's rows, int64 [n + 1].
        fold_N: fold of the cross-fit.
    """

    hidden_NH: Tensor
    logits_N: Tensor
    labels_N: Tensor
    weights_N: Tensor
    offsets: Tensor
    fold_N: Tensor


def refit_last_layer(engine: EagerEngine, shared: Shared, val: Columns, collective: Collective, seed: int) -> bool:
    """Fit the last layer's weights to validation rows if this improves held-out rows; all ranks must call this.

    The change of the weights is fitted by logistic regression on the layer's inputs, with fixed network logits and a
    Gaussian prior around no change whose variance is learned (empirical Bayes). It is kept if, cross-fitted over five
    folds, it improves both the mean AUC over domains and the logloss.

    Args:
        shared: theta_S, changed in place.
        seed: seed of the sample and the folds.

    Returns:
        Whether the layer was changed; always false for a model without a last layer of one output.
    """
    layer = find_last_layer(engine.flat.module)
    if layer is None:
        return False
    held, mean_H, scale_H = _gather(engine, layer, shared, val, collective, seed)
    if len(torch.unique(held.labels_N)) < 2:
        return False
    with one_thread():
        left_out_N = held.logits_N.clone()
        for fold in range(FOLDS):
            kept_N, here_N = held.fold_N != fold, held.fold_N == fold
            left_out_N[here_N] += held.hidden_NH[here_N] @ _fit(held, kept_N)
        before, after = _figures(held, held.logits_N), _figures(held, left_out_N)
        improves = after[0] > before[0] and after[1] < before[1]
        if collective.rank == 0:
            logger.info(
                "refitted the last layer to %d held-out rows: cross-fitted AUC %.4f (before %.4f), logloss %.4f "
                "(before %.4f): %s",
                len(held.labels_N), after[0], before[0], after[1], before[1], "kept" if improves else "not kept",
            )  # fmt: skip
        if not improves:
            return False
        change_H = _fit(held, torch.ones_like(held.fold_N, dtype=torch.bool))
    weight_H = change_H[:-1] * scale_H
    bias = change_H[-1] - (weight_H * mean_H).sum()
    engine.flat.load(shared.dense, training=False)
    with torch.no_grad():
        layer.weight.add_(weight_H.to(layer.weight))
        layer.bias.add_(bias.to(layer.bias))
    shared.dense.copy_(engine.flat.values_P)
    return True


def find_last_layer(module: nn.Module) -> nn.Linear | None:
    """The last fully connected layer, if it has one output and a bias; otherwise None."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    last = found[-1] if found else None
    return last if last is not None and last.out_features == 1 and last.bias is not None else None


def _gather(
    engine: EagerEngine, layer: nn.Linear, shared: Shared, val: Columns, collective: Collective, seed: int
) -> tuple[HeldOut, Tensor, Tensor]:
    """A sample of the validation rows of all ranks, and the mean and scale of the layer's inputs."""
    total = int(collective.all_reduce(torch.tensor([len(val)], dtype=torch.float64)))
    generator = torch.Generator().manual_seed(derive_seed(seed, 12, collective.rank))
    share = min(1.0, MOST_ROWS / max(1, total))
    rows = (torch.rand(len(val), generator=generator) < share).nonzero().squeeze(1).to(val.labels.device)
    shared.prefetch([Visit(val, rows)])
    domain_N = val.ids["domain"][rows].long() - 1
    # Domain by domain if the engine reorders the rows of a batch, so that the layer's inputs have the order of `rows`.
    parts = rows.split(domain_N.unique_consecutive(return_counts=True)[1].tolist()) if engine.per_domain else (rows,)
    with _inputs_of(layer) as seen:
        logits_N = torch.cat([engine.predict(Theta(shared), Visit(val, own)) for own in parts or (rows,)])
    hidden_NH = torch.cat(seen).float() if seen else torch.zeros(0, layer.in_features)
    fold_N = torch.randint(FOLDS, (len(rows),), generator=generator)
    weights_N = torch.ones(len(rows)) if val.weights is None else val.weights[rows]
    single = (logits_N, val.labels[rows], domain_N, fold_N, weights_N)
    own = [*(column[:, None] for column in single), hidden_NH]
    gathered = collective.all_gather(torch.cat([part.cpu().double() for part in own], 1))
    gathered = gathered[gathered[:, 2].sort(stable=True).indices]
    hidden_NH = gathered[:, 5:]
    mean_H, scale_H = hidden_NH.mean(0), 1 / hidden_NH.std(0).clamp_min(1e-6)
    counts = torch.bincount(gathered[:, 2].long(), minlength=len(val.offsets) - 1)
    standard_NH = torch.cat([(hidden_NH - mean_H) * scale_H, torch.ones(len(gathered), 1, dtype=torch.float64)], 1)
    logits_N, labels_N, weights_N = (gathered[:, place].float() for place in (0, 1, 4))
    if len(gathered) and float(weights_N.sum()):
        weights_N /= weights_N.mean()
    fold_N, offsets = gathered[:, 3].long(), offsets_of(counts)
    return HeldOut(standard_NH.float(), logits_N, labels_N, weights_N, offsets, fold_N), mean_H, scale_H


@contextmanager
def _inputs_of(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Collect the inputs of the layer within the block."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().cpu())):
        yield seen


def _fit(held: HeldOut, chosen_N: Tensor) -> Tensor:
    """The change of the weights [H] fitted to some of the rows, with MacKay's update of the prior's variance."""
    columns = (held.hidden_NH, held.labels_N, held.logits_N, held.weights_N)
    hidden, labels, base, real = (each[chosen_N][None] for each in columns)
    size = hidden.shape[2]
    tau, change_H = START_TAU, torch.zeros(hidden.shape[2])
    for _ in range(PRIOR_UPDATES):
        prior = Prior(torch.zeros(size), torch.full((size,), tau))
        posterior = fit_domains(hidden, labels, base, real, prior, change_H[None] / tau, STEPS)
        change_H = posterior.white_GF[0] * tau
        observed = size - posterior.hessian.posterior()[0].sum()
        factor = float(variance_factor(posterior.white_GF.square().sum(), observed))
        tau = min(max(tau * factor**0.5, LEAST_TAU), MOST_TAU)
    return change_H


def _figures(held: HeldOut, logits_N: Tensor) -> tuple[float, float]:
    """Mean AUC over domains, and logloss."""
    auc_n = segmented_auc(logits_N, held.labels_N, held.offsets)
    logloss = binary_cross_entropy_with_logits(logits_N, held.labels_N, held.weights_N)
    return float(auc_n[~auc_n.isnan()].mean()), float(logloss)
