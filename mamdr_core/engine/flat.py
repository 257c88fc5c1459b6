"""A module whose parameters are views of one flat tensor, so that loading and updating them is one operation."""

import torch
from torch import Tensor, nn


class FlatModule:
    """Wraps a module in place.

    Attributes:
        module: the module; its parameters are views of `values_P`, their gradients views of `gradients_P`.
        values_P: all dense parameters, [P].
        gradients_P: their gradients, [P]; zero them before a backward pass.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = module.to(device)
        parameters = list(self.module.parameters())
        self.values_P: Tensor = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        self.gradients_P: Tensor = torch.zeros_like(self.values_P)
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.data = self.values_P[start:stop].view_as(parameter)
            parameter.grad = self.gradients_P[start:stop].view_as(parameter)
            start = stop

    def load(self, dense_P: Tensor, training: bool) -> None:
        """Take over the values of `dense_P` and switch dropout on or off."""
        self.values_P.copy_(dense_P)
        self.module.train(training)
