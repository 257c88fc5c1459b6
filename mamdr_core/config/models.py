"""Settings of the model structures; defaults are those of the paper (appendix A.2.2) where it states them."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

from mamdr_core.config.settings import settings

MAX_WIDTH = 1 << 16
"""Largest width of layers and embeddings; a larger one is most likely a typing error, and its allocation would fail."""


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise ValueError for a size below 1 or above `MAX_WIDTH`."""
    for name, size in sizes.items():
        each = (size,) if isinstance(size, int) else size
        if min(each, default=1) < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
        if max(each, default=1) > MAX_WIDTH:
            raise ValueError(f"{name} must be <= {MAX_WIDTH}, got {size}")


def check_layers(name: str, widths: Sequence[int]) -> None:
    """Raise ValueError if there is no hidden layer."""
    if not widths:
        raise ValueError(f"{name} needs at least one hidden layer, got {list(widths)}")


@settings
class AutoIntSettings:
    """Sizes of AutoInt's interacting layers."""

    heads: int = 4
    """Attention heads of a layer."""
    layers: int = 3
    """Interacting layers (DeepCTR's default, since the paper does not state it)."""
    width: int = 8
    """Width of a head (DeepCTR's default, since the paper does not state it)."""

    def __post_init__(self) -> None:
        check_sizes(**vars(self))


@settings
class SharedBottomSettings:
    """Sizes of Shared-Bottom."""

    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the shared hidden layers."""
    tower: tuple[int, ...] = (64,)
    """Widths of a domain's hidden layers."""

    def __post_init__(self) -> None:
        check_sizes(hidden=self.hidden, tower=self.tower)
        check_layers("hidden", self.hidden)


@settings
class MMOESettings:
    """Sizes of MMOE."""

    experts: int = 2
    """Experts of all domains."""
    expert_hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of an expert's hidden layers."""
    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of a domain's gate."""
    tower: tuple[int, ...] = (64,)
    """Widths of a domain's hidden layers after the gate."""

    def __post_init__(self) -> None:
        check_sizes(**vars(self))
        check_layers("expert_hidden", self.expert_hidden)


@settings
class CGCSettings:
    """Sizes of CGC. The paper does not state them: they are those of MMOE, with the same number of experts per gate."""

    shared_experts: int = 1
    """Experts of all domains."""
    specific_experts: int = 1
    """Experts of each domain."""
    expert_hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of an expert's hidden layers."""
    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of a gate."""
    tower: tuple[int, ...] = (64,)
    """Widths of a domain's hidden layers after the gate."""

    def __post_init__(self) -> None:
        check_sizes(**vars(self))
        check_layers("expert_hidden", self.expert_hidden)


@settings
class PLESettings(CGCSettings):
    """Sizes of PLE."""

    shared_experts: int = 2
    """Experts of all domains, on each level."""
    specific_experts: int = 10
    """Experts of each domain, on each level."""
    expert_hidden: tuple[int, ...] = (64,)
    """Widths of an expert's hidden layers."""
    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of a gate."""
    tower: tuple[int, ...] = (256,)
    """Widths of a domain's hidden layers after the last gate."""
    levels: int = 1
    """Levels of extraction; with one level, PLE is CGC."""


@settings
class STARSettings:
    """Sizes of STAR, in addition to `hidden`."""

    auxiliary: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the auxiliary network."""
    normalization: Literal["layer", "partitioned"] = "layer"
    """Statistics that normalise the input: layer (of a row, over its features) or partitioned (of a domain, over its
    rows: those of the batch in training, those of all training rows otherwise; docs/models.md)."""

    def __post_init__(self) -> None:
        check_sizes(auxiliary=self.auxiliary)


@settings
class RAWSettings:
    """Sizes of RAW, in addition to `hidden`."""

    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the gate that scales features."""

    def __post_init__(self) -> None:
        check_sizes(gate=self.gate)


@settings
class ModelSettings:
    """The name of the model structure, and its sizes."""

    name: str = "mlp"
    """Structure: mlp, wdl, neurfm, autoint, deepfm, dcnv2, masknet, shared_bottom, mmoe, cgc, ple, star, pepnet,
    adasparse, hamur, m3oe or raw (docs/models.md); or your own class, my_package.my_module:MyModel
    (docs/extending.md)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of dcnv2, masknet, pepnet, adasparse, hamur or m3oe (docs/models.md), or of your own structure, declared
    by its class (docs/extending.md)."""
    embedding_dim: int = 128
    """Width of the embeddings of users, items, domains and categorical features."""
    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the hidden layers of mlp, wdl, neurfm, autoint, deepfm, dcnv2, masknet, pepnet, adasparse, hamur, raw,
    and of both networks of star."""
    dropout: float = 0.5
    """Dropout rate after each hidden layer in training."""
    train_ids: bool = True
    """Learn an embedding for each user and item; false: use only declared features (the paper's fixed vectors)."""
    autoint: AutoIntSettings = field(default_factory=AutoIntSettings)
    """Sizes of AutoInt, in addition to `hidden`."""
    shared_bottom: SharedBottomSettings = field(default_factory=SharedBottomSettings)
    """Sizes of Shared-Bottom."""
    mmoe: MMOESettings = field(default_factory=MMOESettings)
    """Sizes of MMOE."""
    cgc: CGCSettings = field(default_factory=CGCSettings)
    """Sizes of CGC."""
    ple: PLESettings = field(default_factory=PLESettings)
    """Sizes of PLE."""
    star: STARSettings = field(default_factory=STARSettings)
    """Sizes of STAR, in addition to `hidden`."""
    raw: RAWSettings = field(default_factory=RAWSettings)
    """Sizes of RAW, in addition to `hidden`."""

    def __post_init__(self) -> None:
        check_sizes(embedding_dim=self.embedding_dim, hidden=self.hidden)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
