"""Folders that transformers loads as ``YoutuForCausalLM``: config and weights, read and written lazily."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pretrain.config import ModelConfig
from pretrain.convert.names import check_shapes, hf_shapes
from pretrain.convert.safetensors_file import NAMES, SafetensorsWriter
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import YoutuConfig

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
DTYPES = {name: dtype for dtype, name in NAMES.items()}
FIXED = {  # what Megatron's model here cannot do otherwise
    "hidden_act": "silu",
    "rope_interleave": True,
    "attention_bias": False,
    "mlp_bias": False,
}
SAME = (  # fields of the same name in both configs
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
)


def hf_config_dict(model: ModelConfig, rope_theta: float | None = None, **overrides: Any) -> dict[str, Any]:
    """``config.json`` of the model.

    Args:
        model: the shape.
        rope_theta: base of the rotary frequencies, if a later stage changed the model's.
        overrides: further fields, such as ``bos_token_id`` and ``eos_token_id``.

    Raises:
        ValueError: ``pad_token_id`` is among them. transformers zeroes that row of the embedding on loading,
            and ours is the end token's: a model loaded so could never end a turn.
    """
    if overrides.get("pad_token_id") is not None:
        raise ValueError("pad_token_id does not belong into config.json; generation_config.json has it")
    return {
        "architectures": ["YoutuForCausalLM"],
        "model_type": "youtu",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_attention_heads,
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_nope_head_dim": model.qk_nope_head_dim,
        "qk_rope_head_dim": model.qk_rope_head_dim,
        "v_head_dim": model.v_head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_position_embeddings,
        "initializer_range": model.linear_std,
        "embedding_initializer_range": model.embedding_std,
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta or model.rope_theta},
        "rope_interleave": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **overrides,
    }


def hf_config(model: ModelConfig, rope_theta: float | None = None, **overrides: Any) -> "YoutuConfig":
    """The same as transformers' config object."""
    from transformers import YoutuConfig

    fields = hf_config_dict(model, rope_theta, **overrides)
    return YoutuConfig(**{name: value for name, value in fields.items() if name != "model_type"})


def model_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder, read from its ``config.json``.

    Raises:
        StemmaError: the folder has no such file, or it is of a model that Megatron's dense MLA here is not.
        DamagedError: fields are missing, or are none that a model can have.
    """
    if not (folder / CONFIG).is_file():
        raise StemmaError(f"{folder} is no Hugging Face folder: it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    if config.get("model_type") != "youtu":
        raise StemmaError(
            f"{folder / CONFIG} is of model_type {config.get('model_type')!r}; only 'youtu' (dense MLA, "
            "SwiGLU, RMSNorm) can be taken over"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    problems = [
        f"{name} is {config[name]!r}, not {value!r}"
        for name, value in FIXED.items()
        if config.get(name, value) != value
    ]
    if rope.get("rope_type", "default") != "default":
        problems.append(f"rope_type is {rope['rope_type']!r}, not 'default'")
    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads", heads) != heads:
        problems.append("num_key_value_heads is not num_attention_heads; MLA has as many")
    if problems:
        raise StemmaError(f"{folder / CONFIG} is of a model that cannot be taken over: {'; '.join(problems)}")
    theirs = {name: name for name in SAME}
    theirs |= {"num_layers": "num_hidden_layers", "ffn_hidden_size": "intermediate_size"}
    fields = {ours: config[name] for ours, name in theirs.items() if name in config}
    fields["tie_word_embeddings"] = config.get("tie_word_embeddings", True)
    fields["rope_theta"] = rope.get("rope_theta", config.get("rope_theta"))
    try:
        if missing := theirs.values() - config.keys():
            raise ValueError(f"it lacks {sorted(missing)}")
        return ModelConfig.model_validate(fields)
    except ValueError as error:  # also pydantic's
        raise DamagedError(f"{folder / CONFIG} describes no model: {error}") from error


class HFFolder(Mapping[str, Tensor]):
    """The weights of a Hugging Face folder, each read when it is asked for. Shapes are checked at once.

    Args:
        folder: with ``config.json``, and ``model.safetensors`` or shards of it with their index.

    Attributes:
        model: the shape.
        shapes: of every tensor.
        dtype: which holds every tensor exactly.

    Raises:
        StemmaError: it is not such a folder, or its weights are not what its config says, or are quantised.
        DamagedError: a file is cut off, or its index is wrong.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.model = model_config(folder)
        self.files: dict[str, Any] = {}  # tensor -> the open file that holds it
        self.shapes: dict[str, tuple[int, ...]] = {}
        stored: set[torch.dtype] = set()
        for path in weight_files(folder):
            try:
                handle: Any = safe_open(path, "pt")
            except (SafetensorError, OSError) as error:
                raise DamagedError(f"{path} cannot be read: {error}. It was left as it is.") from error
            for name in handle.keys():  # noqa: SIM118 (no mapping)
                self.files[name] = handle
                tensor = handle.get_slice(name)
                self.shapes[name] = tuple(tensor.get_shape())
                if tensor.get_dtype() not in DTYPES:
                    raise StemmaError(
                        f"{path} holds {name} as {tensor.get_dtype()}; only {', '.join(DTYPES)} can be read. "
                        "Save the model in one of them first"
                    )
                stored.add(DTYPES[tensor.get_dtype()])
        check_shapes(self.shapes, self.model, f"the weights in {folder}")
        self.dtype = reduce(torch.promote_types, stored)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        return self.model.rope_theta

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those its index names, or the one there is.

    Raises:
        StemmaError: there are none.
        DamagedError: the index names none, or one that is not there.
    """
    if (folder / INDEX).is_file():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict):
            raise DamagedError(f"{folder / INDEX} has no weight_map: it does not say where tensors are")
        names = sorted(set(places.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise DamagedError(f"{folder / INDEX} names files that are missing: {missing}")
        return [folder / name for name in names]
    if not (folder / WEIGHTS).is_file():
        raise StemmaError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}")
    return [folder / WEIGHTS]


def write_hf(
    folder: Path,
    weights: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    model: ModelConfig,
    rope_theta: float | None = None,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
    **overrides: Any,
) -> None:
    """Write ``config.json`` and the weights for ``AutoModelForCausalLM.from_pretrained``.

    Tensors are written as they come, so that no more than one of them is held here.

    Args:
        folder: made if missing.
        weights: under transformers' names, in any order.
        model: the shape.
        rope_theta: as for ``hf_config_dict``.
        dtype: of the stored weights.
        shard_bytes: weights are cut into files of at most so many bytes (a larger tensor has one to itself).
        overrides: further fields of the config.

    Raises:
        StemmaError: the weights are not those of the model.
    """
    name = str(dtype).removeprefix("torch.")
    write_json(folder / CONFIG, hf_config_dict(model, rope_theta, dtype=name, **overrides))
    shards = shard(hf_shapes(model), dtype, shard_bytes)
    place = {tensor: file for file, shapes in shards.items() for tensor in shapes}
    with ExitStack() as stack:
        writers = {
            file: stack.enter_context(SafetensorsWriter(folder / file, shapes, dtype))
            for file, shapes in shards.items()
        }
        for tensor, values in weights.items() if isinstance(weights, Mapping) else weights:
            if tensor == "lm_head.weight" and model.tie_word_embeddings:
                continue
            if tensor not in place:
                raise StemmaError(f"{tensor} is no tensor of this model; {folder} was not written")
            writers[place[tensor]].write(tensor, values)
    stale = {path for path in folder.glob("*.safetensors") if path.name not in shards}
    if len(shards) > 1:
        size = sum(torch.Size(shape).numel() for shape in hf_shapes(model).values())
        total = {"total_size": size * dtype.itemsize, "total_parameters": size}
        write_json(folder / INDEX, {"metadata": total, "weight_map": place})
    else:
        stale.add(folder / INDEX)
    for path in stale:
        path.unlink(missing_ok=True)


def shard(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Which tensors go into which file, by transformers' naming of shards."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        if parts[-1] and filled + size > shard_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = shape
        filled += size
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {f"model-{at:05d}-of-{len(parts):05d}.safetensors": part for at, part in enumerate(parts, 1)}


def special_ids(tokenizer: Path) -> dict[str, int]:
    """``bos_token_id`` and its like for ``config.json``, without importing transformers: it takes seconds.

    Args:
        tokenizer: the ``hf`` folder of a tokenizer artifact.

    Raises:
        StemmaError: there is no tokenizer in it.
    """
    for needed in ("tokenizer.json", "tokenizer_config.json"):
        if not (tokenizer / needed).is_file():
            raise StemmaError(f"{tokenizer} holds no tokenizer: it has no {needed}")
    named = read_json(tokenizer / "tokenizer_config.json")
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = {}
    for role in ("bos_token", "eos_token"):
        token = named.get(role)
        text = token["content"] if isinstance(token, dict) else token
        if text is not None:
            ids[f"{role}_id"] = vocabulary.token_to_id(text)
    return ids
