"""Loading a trained folder as transformers will."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging


def load_model(folder: Path, **options: Any) -> PreTrainedModel:
    """The model of a training artifact's or an export's ``hf`` folder, in evaluation mode.

    Args:
        folder: with ``config.json`` and ``model.safetensors``.
        options: of transformers' ``from_pretrained``.
    """
    logging.disable_progress_bar()  # its lines would tear those of our own progress
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval()
