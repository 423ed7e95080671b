"""What is told of a run in figures, and to whom."""

from stemma.core.config import Config, execution_field


class MetricsConfig(Config):
    """Figures for people. ``metrics.jsonl`` is always written; none of these changes what is trained."""

    norms_every: int = execution_field(
        10, ge=0, description="steps between norms of gradients and parameters by group of layers; 0: never"
    )
    tensorboard: bool = execution_field(
        True, description="also write TensorBoard's event files, where its package is installed"
    )
    wandb: str = execution_field("", description="also log to this project of Weights & Biases")
    trackio: str = execution_field("", description="also log to this project of trackio")
