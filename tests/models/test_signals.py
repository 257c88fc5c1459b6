"""Every structure learns the signal that it is meant for, where one without its part cannot."""

import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import AutoIntSettings, CGCSettings, ModelSettings, PLESettings, SharedBottomSettings
from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.parameters import Scope, Shared, Theta
from mamdr_core.models.structures import build_model, declare_inputs
from tests.models.small_structures import MULTI_DOMAIN

pytestmark = pytest.mark.slow  # minutes of training
USERS = ITEMS = 20
NUMBERS = (Feature(name="a", kind="numeric"), Feature(name="b", kind="numeric"))
NARROW = {"shared_experts": 1, "specific_experts": 2, "expert_hidden": (8,), "gate": (), "tower": (8,)}


def settings(name, hidden=(), **changes):
    """Without hidden layers an MLP is linear, so that what is learnt beyond that is the structure's."""
    sizes = {
        "autoint": AutoIntSettings(heads=2, layers=1, width=8),
        "shared_bottom": SharedBottomSettings(hidden=(8,), tower=(8,)),
        "cgc": CGCSettings(**NARROW),
        "ple": PLESettings(**NARROW, levels=2),
    }
    return ModelSettings(name=name, embedding_dim=8, hidden=hidden, dropout=0.0, **sizes, **changes)


def rows_of(domains, numeric, label):
    """Random users and items in rows of two domains; `label(user, item, domain, numeric)` in 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    rows = 2 * domains
    user, item = (torch.randint(1, 21, (rows,), generator=generator) for _ in range(2))
    domain = torch.arange(2).repeat_interleave(domains)
    numbers = torch.randn(rows, numeric, generator=generator)
    ids = {"user": user.int(), "item": item.int(), "domain": (domain + 1).int()}
    return Columns(
        ids, numbers, label(user, item, domain, numbers).float(), offsets_of(torch.tensor([domains, domains]))
    )


def auc_after(settings, columns, features=(), steps=150, blank=(), only=None, lr=0.03):
    """AUC on the third of the rows, or of the (user, item) pairs, that training has not seen.

    Args:
        blank: tables that are zero at the start.
        only: tables that may learn; None: all.
    """
    inputs = declare_inputs(settings, features, {"user": USERS, "item": ITEMS, "domain": 2})
    module = build_model(settings, inputs, seed=1)
    engine = EagerEngine(module, inputs.tables, {}, batch_size=128)
    shared = initial_shared(module, inputs.tables, seed=2)
    shared = Shared(shared.dense, {t: v * 0 if t in blank else v * 10 for t, v in shared.tables.items()})
    unseen = (columns.ids["user"] + columns.ids["item"]) % 3 == 0
    train = (~unseen).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(3)
    mixed = train[torch.randint(len(train), (128 * steps,), generator=generator)]
    scope = Scope(None if only is None else frozenset(only))
    change = engine.descend(Theta(shared), [Visit(columns, mixed)], lr, scope=scope)
    rows = unseen.nonzero()[:, 0]
    logits = engine.predict(Theta(shared, change), Visit(columns, rows))
    return float(domain_metrics(logits, columns.labels[rows], torch.tensor([0, len(rows)]), None).auc[0])


def interaction():
    """A click where user and item have the same taste of two: no sum over ids knows it."""
    return rows_of(600, 0, lambda user, item, domain, numbers: user % 2 == item % 2)


@pytest.mark.parametrize("name", ["deepfm", "neurfm", "autoint", "dcnv2", "masknet"])
def test_unseen_pairs_of_users_and_items_are_predicted_by_their_product(name):
    assert auc_after(settings(name), interaction()) > 0.95


@pytest.mark.parametrize("name", ["mlp", "wdl"])
def test_a_linear_model_of_the_same_inputs_cannot_predict_them(name):
    assert auc_after(settings(name), interaction()) < 0.6


def opposite():
    """A number that draws clicks in one domain and repels them in the other."""
    return rows_of(300, 2, lambda user, item, domain, numbers: numbers[:, 0] * (1 - 2 * domain) > 0)


def without_domain_embedding(name, hidden):
    own = settings(name, hidden)
    inputs = declare_inputs(own, NUMBERS, {"user": USERS, "item": ITEMS, "domain": 2})
    learn = {table.name for table in inputs.tables if table.name not in ("domain", "first_order.domain")}
    return auc_after(own, opposite(), NUMBERS, blank=("domain",), only=learn)


@pytest.mark.parametrize("name", [*MULTI_DOMAIN, "hamur", "m3oe"])
def test_weights_of_its_own_let_a_domain_read_a_number_the_other_way_round(name):
    assert without_domain_embedding(name, (8,)) > 0.95


@pytest.mark.parametrize("name", ["mlp", "raw"])
def test_shared_weights_cannot_where_the_domain_is_not_an_input(name):
    assert without_domain_embedding(name, (32, 32)) < 0.6


@pytest.mark.parametrize(("name", "least", "most"), [("wdl", 0.95, 1.0), ("mlp", 0.0, 0.6)])
def test_the_wide_part_memorises_users_whose_embeddings_say_nothing(name, least, most):
    columns = rows_of(600, 0, lambda user, item, domain, numbers: (user * 11 % 7) < 3)
    ids = ("user", "item", "domain")
    auc = auc_after(settings(name, (16,)), columns, blank=ids, only={"first_order.user"})
    assert least <= auc <= most


@pytest.mark.parametrize(
    ("name", "least", "most"), [("raw", 0.93, 1.0), ("pepnet", 0.93, 1.0), ("adasparse", 0.93, 1.0), ("wdl", 0.0, 0.9)]
)
def test_a_gate_opens_features_by_domain(name, least, most):
    """One number counts in each domain, the other is noise; the layers after the gate are linear."""
    columns = rows_of(600, 2, lambda user, item, domain, numbers: numbers[torch.arange(1200), domain] > 0)
    assert least <= auc_after(settings(name), columns, NUMBERS, steps=300) <= most
