"""Settings of the model structures; the defaults are the paper's (appendix A.2.2), where it has them."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

from mamdr_core.settings import settings

WIDEST = 1 << 16
"""Of layers and embeddings; more is a slip of the keyboard, which would end in a failed allocation."""


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise ValueError for a size below 1 or beyond `WIDEST`."""
    for name, size in sizes.items():
        each = (size,) if isinstance(size, int) else size
        if min(each, default=1) < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
        if max(each, default=1) > WIDEST:
            raise ValueError(f"{name} must be <= {WIDEST}, got {size}")


def check_layers(name: str, widths: Sequence[int]) -> None:
    """Raise ValueError where there is no hidden layer at all."""
    if not widths:
        raise ValueError(f"{name} needs one hidden layer at least, got {list(widths)}")


@settings
class AutoIntSettings:
    """Sizes of AutoInt's interacting layers."""

    heads: int = 4
    """Attention heads of a layer."""
    layers: int = 3
    """Interacting layers (DeepCTR's default: the paper has none)."""
    width: int = 8
    """Width of a head (DeepCTR's default: the paper has none)."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes(heads=self.heads, layers=self.layers, width=self.width)


@settings
class SharedBottomSettings:
    """Sizes of Shared-Bottom."""

    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the shared hidden layers."""
    tower: tuple[int, ...] = (64,)
    """Widths of a domain's hidden layers."""

    def __post_init__(self) -> None:
        """Check the sizes."""
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
        """Check the sizes."""
        check_sizes(experts=self.experts, expert_hidden=self.expert_hidden, gate=self.gate, tower=self.tower)
        check_layers("expert_hidden", self.expert_hidden)


@settings
class CGCSettings:
    """Sizes of CGC, which the paper has not: MMOE's, with as many experts that a domain's gate can choose from."""

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
        """Check the sizes."""
        check_sizes(
            shared_experts=self.shared_experts,
            specific_experts=self.specific_experts,
            expert_hidden=self.expert_hidden,
            gate=self.gate,
            tower=self.tower,
        )
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
    """Levels of extraction; with one PLE is CGC."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        super().__post_init__()
        check_sizes(levels=self.levels)


@settings
class STARSettings:
    """Sizes of STAR beside `hidden`."""

    auxiliary: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the auxiliary network."""
    normalization: Literal["layer", "partitioned"] = "layer"
    """Statistics that normalise the input: layer (of a row, over its features) or partitioned (of a domain, over its
    rows: those of the batch in training, those of all training rows otherwise; docs/models.md)."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes(auxiliary=self.auxiliary)


@settings
class RAWSettings:
    """Sizes of RAW beside `hidden`."""

    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the gate that scales features."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes(gate=self.gate)


@settings
class ModelSettings:
    """A model structure by name and its sizes."""

    name: str = "mlp"
    """Structure: mlp, wdl, neurfm, autoint, deepfm, dcnv2, masknet, shared_bottom, mmoe, cgc, ple, star, pepnet,
    adasparse, hamur, m3oe or raw (docs/models.md); or your own class, my_package.my_module:MyModel
    (docs/extending.md)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of dcnv2, masknet, pepnet, adasparse, hamur or m3oe (docs/models.md), or of your own structure, as its
    class declares them (docs/extending.md)."""
    embedding_dim: int = 128
    """Width of the embeddings of users, items, domains and categorical features."""
    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the hidden layers of mlp, wdl, neurfm, autoint, deepfm, dcnv2, masknet, pepnet, adasparse, hamur, raw,
    and of both networks of star."""
    dropout: float = 0.5
    """Dropout rate after each hidden layer while training."""
    train_ids: bool = True
    """Learn an embedding for each user and item; false: use only declared features (the paper's fixed vectors)."""
    autoint: AutoIntSettings = field(default_factory=AutoIntSettings)
    """Sizes of AutoInt beside `hidden`."""
    shared_bottom: SharedBottomSettings = field(default_factory=SharedBottomSettings)
    """Sizes of Shared-Bottom."""
    mmoe: MMOESettings = field(default_factory=MMOESettings)
    """Sizes of MMOE."""
    cgc: CGCSettings = field(default_factory=CGCSettings)
    """Sizes of CGC."""
    ple: PLESettings = field(default_factory=PLESettings)
    """Sizes of PLE."""
    star: STARSettings = field(default_factory=STARSettings)
    """Sizes of STAR beside `hidden`."""
    raw: RAWSettings = field(default_factory=RAWSettings)
    """Sizes of RAW beside `hidden`."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_sizes(embedding_dim=self.embedding_dim, hidden=self.hidden)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
