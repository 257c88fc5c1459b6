"""An MLP and a DeepFM in plain PyTorch, as a team without this package would write them; for bench_peers.py.

Settings are those that FuxiCTR publishes in its model zoo (reczoo/FuxiCTR, model_zoo/DeepFM/DeepFM_torch: the template
`DeepFM_default` of config/model_config.yaml, and the defaults of src/DeepFM.py); the code is ours. Training stops as
there: the AUC of all validation rows is computed after every epoch, the rate is divided by ten when it falls, and
training ends after two such epochs. A third setting is that of this package's runs, so that only the programs differ.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

PATIENCE = 2


@dataclass(frozen=True)
class Rows:
    """Rows of a split: what a program reads of an export.

    Attributes:
        ids: one column for each field, int64 [N, F].
        dense: numeric features and fixed vectors, float32 [N, K].
        labels: [N].
    """

    ids: Tensor
    dense: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Settings:
    """What a peer trains with.

    Attributes:
        std: standard deviation of initial embeddings.
        validations: in an epoch.
        patience: validations below the best after which training ends.
        decay: factor of the rate at each of them.
    """

    embedding_dim: int
    hidden: tuple[int, ...]
    batch_size: int
    learning_rate: float = 1e-3
    epochs: int = 100
    dropout: float = 0.0
    std: float = 1e-4
    validations: int = 1
    patience: int = PATIENCE
    decay: float = 0.1


SETTINGS: dict[str, Settings] = {
    "template": Settings(40, (300, 300, 300), 10_000),
    "defaults": Settings(10, (64, 64, 64), 10_000),
    "ours": Settings(16, (64, 32), 512, epochs=20, dropout=0.2, std=0.01, validations=4, patience=10, decay=1.0),
}
"""The template of config/model_config.yaml; the defaults of the class, with the template's batch; and the settings of
recipe_sets.py and of train_mamdr's joint training."""


class MLP(nn.Module):
    """Embeddings of all fields and the dense features, concatenated, through hidden layers with ReLU."""

    def __init__(self, sizes: list[int], dense: int, settings: Settings) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, settings.embedding_dim) for size in sizes)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=settings.std)
        widths = [len(sizes) * settings.embedding_dim + dense, *settings.hidden]
        layers: list[nn.Module] = []
        for width, out in pairwise(widths):
            layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, ids_BF: Tensor, dense_BK: Tensor) -> Tensor:
        embedded_BFD = torch.stack([table(ids_BF[:, f]) for f, table in enumerate(self.embeddings)], 1)
        return self.deep(embedded_BFD, dense_BK)

    def deep(self, embedded_BFD: Tensor, dense_BK: Tensor) -> Tensor:
        """Logits of the hidden layers [B]."""
        return self.network(torch.cat([embedded_BFD.flatten(1), dense_BK], 1)).squeeze(1)


class DeepFM(MLP):
    """The MLP, first-order weights, and pairwise products of embeddings (Guo et al. 2017)."""

    def __init__(self, sizes: list[int], dense: int, settings: Settings) -> None:
        super().__init__(sizes, dense, settings)
        self.first = nn.ModuleList(nn.Embedding(size, 1) for size in sizes)
        for embedding in self.first:
            nn.init.normal_(embedding.weight, std=settings.std)
        self.first_dense = nn.Linear(dense, 1)

    def forward(self, ids_BF: Tensor, dense_BK: Tensor) -> Tensor:
        embedded_BFD = torch.stack([table(ids_BF[:, f]) for f, table in enumerate(self.embeddings)], 1)
        first_B = torch.cat([table(ids_BF[:, f]) for f, table in enumerate(self.first)], 1).sum(1)
        pairs_B = (embedded_BFD.sum(1).square() - embedded_BFD.square().sum(1)).sum(1) / 2
        return self.deep(embedded_BFD, dense_BK) + first_B + self.first_dense(dense_BK).squeeze(1) + pairs_B


MODELS = {"mlp": MLP, "deepfm": DeepFM}


def train(name: str, settings: Settings, sizes: list[int], rows: Mapping[str, Rows], seed: int) -> tuple[Tensor, dict]:
    """Train a model; returns logits of the test rows, and rows a second, epochs and seconds.

    Args:
        name: of MODELS.
        settings: see there.
        sizes: rows of the table of each field.
        rows: by split.
        seed: of initialisation and order.
    """
    torch.manual_seed(seed)
    train_rows, started, descending = rows["train"], time.perf_counter(), 0.0
    model = MODELS[name](sizes, train_rows.dense.shape[1], settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    best, worse, kept, done = -np.inf, 0, copy.deepcopy(model.state_dict()), 0
    orders = (torch.randperm(len(train_rows.labels)) for _ in range(settings.epochs))
    for part in (part for order in orders for part in order.tensor_split(settings.validations)):
        begun = time.perf_counter()
        model.train()
        for batch in part.split(settings.batch_size):
            optimizer.zero_grad()
            logits = model(train_rows.ids[batch], train_rows.dense[batch])
            binary_cross_entropy_with_logits(logits, train_rows.labels[batch]).backward()
            optimizer.step()
        descending += time.perf_counter() - begun
        done += 1
        auc = auc_of(predict(model, rows["val"]).numpy(), rows["val"].labels.numpy())
        if auc > best:
            best, worse, kept = auc, 0, copy.deepcopy(model.state_dict())
            continue
        worse += 1
        for group in optimizer.param_groups:
            group["lr"] *= settings.decay
        if worse == settings.patience:
            break
    epochs = done / settings.validations
    model.load_state_dict(kept)
    figures = {"rows_per_second": epochs * len(train_rows.labels) / descending, "epochs": epochs}
    return predict(model, rows["test"]), {**figures, "seconds": time.perf_counter() - started}


@torch.no_grad()
def predict(model: nn.Module, rows: Rows) -> Tensor:
    """Logits [N]."""
    model.eval()
    parts = zip(rows.ids.split(1 << 16), rows.dense.split(1 << 16), strict=True)
    return torch.cat([model(ids, dense) for ids, dense in parts])


def auc_of(scores: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """AUC of all rows together; ties count half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (count.cumsum() - (count - 1) / 2)[place]
    clicks = labels.sum()
    others = len(labels) - clicks
    return float((rank[labels == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * others))
