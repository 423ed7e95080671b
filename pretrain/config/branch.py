"""A checkpoint of another run that a stage goes on from."""

from pydantic import Field

from stemma.core.config import Config, execution_field


class BranchConfig(Config):
    """Which checkpoint it is, and of which run. Its content identifies the artifact, its place does not."""

    stage: str = Field(description="the stage it is of")
    step: int = Field(ge=1, description="optimizer steps done")
    trained_by: str = Field(description="fingerprint of what trained it: the stage's config and inputs")
    state_sha256: str = Field(description="hash of parameters and optimizer state")
    receipts_sha256: str = Field(description="hash of the receipts of the steps done")
    run: str = execution_field("", description="the run it was taken from")
    folder: str = execution_field("", description="the stage's folder, below the store's artifacts")
