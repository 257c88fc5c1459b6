"""The mixed model as an exportable module, a part of `mamdr_core.serving.network`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mamdr_core.mixed.mixed_model import MixedModel


class MixedNetwork(nn.Module):
    """Logits w_i . phi(x) + random effects, for rows of one domain.

    Shape suffixes: B rows of a request, K effects, D domains with w_i and the prior's mean, F entries of phi.

    Args:
        mixed: the fitted model of all domains.
        domains: number of domains.
    """

    mean_F: Tensor
    scale_F: Tensor
    weights_DF: Tensor
    place_of_domain: Tensor
    keys_K: Tensor

    def __init__(self, mixed: MixedModel, domains: int) -> None:
        super().__init__()
        self._design = mixed.design
        self.register_buffer("mean_F", mixed.design.mean_F.float())
        self.register_buffer("scale_F", mixed.design.scale_F.float())
        weights = mixed.weights
        self.register_buffer("weights_DF", torch.cat([weights.prior.mean_F[None], weights.weights_DF]))
        place_of_domain = torch.zeros(domains + 1, dtype=torch.int64)
        place_of_domain[weights.domains_D + 1] = torch.arange(1, len(weights.domains_D) + 1)
        self.register_buffer("place_of_domain", place_of_domain)
        self._users = 0
        self._effects = tuple(effect.name for effect in mixed.effects)
        for effect in mixed.effects:
            if effect.name == "user_in_domain":
                self.register_buffer("keys_K", effect.keys_K)
                self._users = effect.size
            self.register_buffer(effect.name, effect.values_K)

    def forward(
        self, ids: Mapping[str, Tensor], vectors: Mapping[str, Tensor], numeric_BK: Tensor, domain: Tensor
    ) -> Tensor:
        """Logits, float32 [B].

        Args:
            ids: rows of the tables of users and items, 0 for unknown ids, int64 [B].
            vectors: fixed vectors by table, [B, D].
            numeric_BK: standardised numeric features.
            domain: row of the domain in tables, int64 [1].
        """
        phi_BF = (self._design.join(vectors, numeric_BK) - self.mean_F) * self.scale_F
        logits_B: Tensor = phi_BF @ self.weights_DF[self.place_of_domain[domain]].squeeze(0)
        for name in self._effects:
            values_K = getattr(self, name)
            if name == "user_in_domain":
                logits_B = logits_B + self._pair_effects(domain * self._users + ids["user"], values_K)
            else:
                logits_B = logits_B + values_K[ids[name]]
        return logits_B

    def _pair_effects(self, keys_B: Tensor, values_K: Tensor) -> Tensor:
        """Effects by key, 0 for unknown keys: a binary search with a fixed number of steps, as ONNX requires."""
        total = len(values_K)
        if not total:
            return torch.zeros_like(keys_B, dtype=torch.float32)
        last_B = torch.zeros_like(keys_B)  # the last position whose key is not greater; 0 also where there is none
        step = 1 << (total - 1).bit_length()
        while step := step // 2:
            next_B = (last_B + step).clamp(max=total - 1)
            last_B = torch.where(self.keys_K[next_B] <= keys_B, next_B, last_B)
        return torch.where(self.keys_K[last_B] == keys_B, values_K[last_B], torch.zeros_like(values_K[last_B]))
