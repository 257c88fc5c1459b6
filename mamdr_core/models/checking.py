"""Checks a user's own structure on two rows before it is trained or used for predictions."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mamdr_core.models.statistics import observe, statistics_layers
from mamdr_core.models.tables import Inputs
from mamdr_core.runtime.errors import MamdrError

ROWS = 2
_VMAP_ERROR = "vmap_error"


def check_structure(name: str, module: nn.Module, inputs: Inputs) -> None:
    """Run a structure on two rows, and store whether it works under `torch.func.vmap` (see `vmap_error`).

    Exceptions of its `forward` are not caught. On torch's meta device nothing is run.

    Args:
        name: name of the structure, for errors.
        module: the structure.
        inputs: the inputs that it was built for.

    Raises:
        MamdrError: it has no parameters, has a layer with random numbers or state that the engines cannot restore, or
            does not return one logit for each row, or what its statistics are of.
    """
    parameters = list(module.parameters())
    if not parameters:
        raise MamdrError(f"model.name {name}: it has no parameters to train")
    if any(parameter.is_meta for parameter in parameters):
        return
    for layer_name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            raise MamdrError(
                f"model.name {name}: layer {layer_name} is torch's {layer}: use mamdr_core.models.dropout.Dropout"
            )
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    with torch.no_grad():
        logits = module(_draw_fields(inputs, parameters[0]))
    if not (isinstance(logits, Tensor) and logits.shape == (ROWS,) and logits.is_floating_point()):
        found = f"{list(logits.shape)} {logits.dtype}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise MamdrError(
            f"model.name {name}: forward of {ROWS} rows returned {found}, expected [{ROWS}] logits, one for each row"
        )
    if changed := [key for key, buffer in module.named_buffers() if not torch.equal(buffer, before[key])]:
        raise MamdrError(
            f"model.name {name}: forward changes {', '.join(changed)}, as batch normalisation does, but parallel "
            "trajectories cannot share such state: use a layer without state, such as layer normalisation, or "
            "mamdr_core.models.statistics.DomainNormalization"
        )
    _check_statistics(name, module, inputs)
    module.__dict__[_VMAP_ERROR] = _run_under_vmap(module, inputs)


def _check_statistics(name: str, module: nn.Module, inputs: Inputs) -> None:
    expected = {layer.name: [ROWS, layer.width] for layer in statistics_layers(module)}
    if not expected:
        return
    if not hasattr(getattr(module, "structure", module), "observe"):
        raise MamdrError(
            f"model.name {name}: it has a DomainNormalization but no method observe(fields), which returns what "
            f"{', '.join(expected)} normalises (docs/extending.md)"
        )
    with torch.no_grad():
        observed = observe(module, _draw_fields(inputs, next(module.parameters())))
    if (found := {key: list(values.shape) for key, values in observed.items()}) != expected:
        raise MamdrError(f"model.name {name}: observe of {ROWS} rows returned {found}, expected {expected}")


def vmap_error(module: nn.Module) -> str:
    """Why several copies of a structure cannot be computed in parallel by `torch.func.vmap`; empty if they can.

    All structures of this package can. A structure that cannot runs with the eager engine, and predicts one domain at a
    time.
    """
    return next((layer.__dict__[_VMAP_ERROR] for layer in module.modules() if _VMAP_ERROR in layer.__dict__), "")


def is_checked(module: nn.Module) -> bool:
    """Whether it is a user's own structure, checked by `check_structure`."""
    return any(_VMAP_ERROR in layer.__dict__ for layer in module.modules())


def _run_under_vmap(module: nn.Module, inputs: Inputs) -> str:
    """Differentiate two copies of the structure in parallel, as the fast engine does; returns the error, if any."""

    def total(named: dict[str, Tensor], fields: dict[str, Tensor]) -> Tensor:
        logits_B: Tensor = functional_call(module, named, (fields,))
        return logits_B.sum()

    fields = {name: torch.stack([field] * 2) for name, field in _draw_fields(inputs, next(module.parameters())).items()}
    named = {name: torch.stack([parameter.detach()] * 2) for name, parameter in module.named_parameters()}
    try:
        vmap(grad(total, argnums=(0, 1)))(named, fields)
    except Exception as error:  # any error is due to vmap, since the structure works without it
        return f"its forward fails inside torch.func.vmap ({' '.join(str(error).split())[:200]})"
    return ""


def _draw_fields(inputs: Inputs, like: Tensor) -> dict[str, Tensor]:
    """Random fields of ROWS rows, with the type and device of `like`."""
    random = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {}
    for table in inputs.tables:
        shapes[table.name] = (1 if table.per_domain else ROWS, table.width)
        if table.length:
            shapes |= {table.name: (ROWS, table.length, table.width), table.weight: (ROWS, table.length)}
    if inputs.numeric:
        shapes["numeric"] = (ROWS, inputs.numeric)
    return {name: torch.randn(shape, generator=random).to(like) for name, shape in shapes.items()}
