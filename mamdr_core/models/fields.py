"""Fields side by side, the input of most structures."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.functional import pad


def join_fields(fields: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The named fields [B, D] side by side, [B, sum of D].

    A sum of padded fields, not `torch.cat`: inside `torch.func.vmap` that fixes the sizes of whatever is being
    compiled, so that every new number of rows or trajectories would be compiled anew (torch 2.9). Compiled, both are
    one copy.
    """
    width = sum(fields[name].shape[-1] for name in names)
    left = 0
    padded = []
    for name in names:
        own = fields[name].shape[-1]
        padded.append(pad(fields[name], (left, width - left - own)))
        left += own
    joined: Tensor = sum(padded[1:], start=padded[0])
    return joined
