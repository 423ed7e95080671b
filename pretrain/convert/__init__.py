"""Weights between Megatron and transformers' ``YoutuForCausalLM``, bit for bit, one tensor at a time.

``names`` says what is called how, ``live`` reads and fills running models on any number of ranks, ``hf``
reads and writes folders that transformers loads, ``megatron`` reads checkpoint folders without a model.
"""

from pretrain.convert.hf import HFFolder, hf_config, hf_config_dict, model_config, special_ids, write_hf
from pretrain.convert.live import gather, load_into, scatter
from pretrain.convert.megatron import MegatronFolder
from pretrain.convert.names import hf_shapes, hf_to_megatron, megatron_names, megatron_to_hf

__all__ = [
    "HFFolder",
    "MegatronFolder",
    "gather",
    "hf_config",
    "hf_config_dict",
    "hf_shapes",
    "hf_to_megatron",
    "load_into",
    "megatron_names",
    "megatron_to_hf",
    "model_config",
    "scatter",
    "special_ids",
    "write_hf",
]
