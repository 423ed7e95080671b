"""A model from elsewhere that the first stage starts from."""

from pydantic import Field

from pretrain.config.model import ModelConfig
from stemma.core.config import Config, execution_field


class ImportConfig(Config):
    """Where it lies and what it has to be. Its content identifies the artifact, its path does not."""

    folder: str = execution_field("", description="Hugging Face folder of a `youtu` model (dense MLA)")
    model: ModelConfig = Field(description="the shape the run expects")
