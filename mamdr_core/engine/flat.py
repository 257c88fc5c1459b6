"""A module whose parameters are views of one flat tensor, so that loading and updating them is one operation."""

import torch
from torch import Tensor, nn

from mamdr_core.models.dropout import Dropout


class FlatModule:
    """Wraps a module in place.

    Attributes:
        module: the module; its parameters are views of `values_P`, and their gradients are views of `gradients_P`.
        values_P: all dense parameters, [P].
        gradients_P: their gradients, [P]; to be set to zero before a backward pass.
        dropouts: names of the dropout layers.
        keys: their keys.

    Raises:
        ValueError: the module contains torch's dropout, whose randomness engines cannot reproduce.
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
        self.dropouts: list[str] = []
        self.keys: list[Tensor] = []
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                raise ValueError(f"layer {name} is torch's {layer}: use mamdr_core.models.dropout.Dropout")
            if isinstance(layer, Dropout):
                layer.layer = len(self.dropouts)
                self.dropouts.append(name)
                self.keys.append(layer.key)

    def load(self, dense_P: Tensor, training: bool) -> None:
        """Copy the values of `dense_P`, and enable or disable dropout."""
        self.values_P.copy_(dense_P)
        self.module.train(training)

    def named(self, dense: Tensor) -> dict[str, Tensor]:
        """Views of flat tensors [..., P] by parameter name, each [..., *shape of the parameter]."""
        named, start = {}, 0
        for name, parameter in self.module.named_parameters():
            stop = start + parameter.numel()
            named[name] = dense[..., start:stop].view(*dense.shape[:-1], *parameter.shape)
            start = stop
        return named

    def keyed(self, key: Tensor) -> dict[str, Tensor]:
        """Buffers by name that set the key of dropout, an int32 scalar."""
        return {f"{name}.key": key for name in self.dropouts}
