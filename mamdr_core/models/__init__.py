"""Model structures: logits = model(fields). They know nothing of learning methods. One file each, one line here."""

import torch
from torch import nn

from mamdr_core.models.mlp import MLP
from mamdr_core.models.settings import ModelSettings
from mamdr_core.models.tables import Inputs

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
}


def build_model(settings: ModelSettings, inputs: Inputs, seed: int = 0) -> nn.Module:
    """The structure `settings.name` for these inputs, initialised from `seed`.

    Raises:
        ValueError: an unknown name; the known ones are listed.
    """
    if settings.name not in MODELS:
        raise ValueError(f"model.name is {settings.name!r}; known: {', '.join(sorted(MODELS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[settings.name](inputs, settings)
