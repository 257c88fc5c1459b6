"""Settings of the model structure; the defaults are the paper's (appendix A.2.2)."""

from mamdr_core.settings import settings


@settings
class ModelSettings:
    """A model structure by name and its sizes."""

    name: str = "mlp"
    """Structure: one of the registered models."""
    embedding_dim: int = 128
    """Width of the embeddings of users, items, domains and categorical features."""
    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the hidden layers."""
    dropout: float = 0.5
    """Dropout rate after each hidden layer while training."""
    train_ids: bool = True
    """Learn an embedding for each user and item; false: use only declared features (the paper's fixed vectors)."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.embedding_dim < 1 or min(self.hidden, default=1) < 1:
            raise ValueError(f"sizes must be >= 1, got embedding_dim {self.embedding_dim} and hidden {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
