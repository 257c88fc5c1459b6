"""Rows drawn from a mixed model, and mixed models of such rows."""

import torch

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.parallel.collective import SingleProcess

USERS, ITEMS = 250, 150


def draw_columns(counts, mean, tau, user=0.0, item=0.0, pair=0.0, users=USERS, seed=0):
    """Draw rows with w_i ~ N(mean, tau^2) over [1, numeric features] and normal effects.

    Args:
        counts: rows by domain.
        mean, tau: of the prior of w_i.
        user, item, pair: standard deviations of the effects of users, items, and users within a domain.
        users: number of users that have rows.
        seed: seed of the generator.

    Returns:
        The columns, and w_i by domain [n, F].
    """
    generator = torch.Generator().manual_seed(seed)
    rows, domains, features = sum(counts), len(counts), len(mean)
    domain_N = torch.repeat_interleave(torch.arange(domains), torch.tensor(counts))
    user_N = torch.randint(1, users + 1, (rows,), generator=generator)
    item_N = torch.randint(1, ITEMS + 1, (rows,), generator=generator)
    numeric_NK = torch.randn(rows, features - 1, generator=generator)
    weights_nF = torch.tensor(mean) + torch.tensor(tau) * torch.randn(domains, features, generator=generator)
    logits_N = (torch.cat([torch.ones(rows, 1), numeric_NK], 1) * weights_nF[domain_N]).sum(1)
    logits_N += user * torch.randn(USERS + 1, generator=generator)[user_N]
    logits_N += item * torch.randn(ITEMS + 1, generator=generator)[item_N]
    logits_N += pair * torch.randn(domains, USERS + 1, generator=generator)[domain_N, user_N]
    columns = Columns(
        ids={"user": user_N.int(), "item": item_N.int(), "domain": (domain_N + 1).int()},
        numeric=numeric_NK,
        labels=(torch.rand(rows, generator=generator) < logits_N.sigmoid()).float(),
        offsets=offsets_of(torch.tensor(counts)),
    )
    return columns, weights_nF


def make_model(columns, collective=None, sizes=None, **settings):
    """A mixed model of the domains with rows, over the numeric features only."""
    domains, numeric = columns.occupied.tolist(), columns.numeric.shape[1]
    sizes = sizes or {"user": USERS, "item": ITEMS, "domain": len(columns.counts)}
    return MixedModel(MixedSettings(**settings), (), {}, numeric, sizes, domains, collective or SingleProcess())


def fitted(columns, **settings):
    """A mixed model, fitted in one process."""
    model = make_model(columns, **settings)
    model.fit(columns)
    return model


def of_rank(columns, owner_n, rank):
    """The rows of a rank's domains."""
    own_N = owner_n[columns.ids["domain"].long() - 1] == rank
    return columns.take(own_N.nonzero().squeeze(1))
