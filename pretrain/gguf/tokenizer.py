"""The tokenizer in a GGUF file: the same entries and merges, cut by a pre-tokenizer that llama.cpp knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from pretrain.convert import special_ids
from stemma.core.errors import StemmaError
from stemma.core.files import read_json
from tokenizer.splitting.cascade import CJK_RUNS, WORDS

if TYPE_CHECKING:
    from gguf import GGUFWriter

PRE_TOKENIZER = "youtu"  # llama.cpp's name for the reference's cascade, with merges ignored for whole entries


def add_tokenizer(writer: "GGUFWriter", folder: Path, size: int) -> None:
    """Entries, merges, special tokens and the chat template.

    Args:
        writer: receives them.
        folder: with ``tokenizer.json`` and ``tokenizer_config.json``.
        size: of the embedding table; slots without an entry are named as unused.

    Raises:
        StemmaError: llama.cpp would not give the same ids.
    """
    from gguf import TokenType

    tokenizer = read_tokenizer(folder)
    entries = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    names, kinds = [], []
    for number in range(size):
        if number in added:
            names.append(added[number]["content"])
            kinds.append(TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED)
        else:
            names.append(entries.get(number, f"[UNUSED_{number}]"))
            kinds.append(TokenType.NORMAL if number in entries else TokenType.UNUSED)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    ids = special_ids(folder)
    if "bos_token_id" in ids:
        writer.add_bos_token_id(ids["bos_token_id"])
    if "eos_token_id" in ids:
        writer.add_eos_token_id(ids["eos_token_id"])
    template = chat_template(folder)
    if template is not None:
        writer.add_chat_template(template)


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """``tokenizer.json``, if llama.cpp can do what it says.

    Raises:
        StemmaError: it is missing, or llama.cpp has no such tokenizer; says in what they differ.
    """
    path = folder / "tokenizer.json"
    for needed in (path, folder / "tokenizer_config.json"):
        if not needed.is_file():
            raise StemmaError(f"{folder} has no {needed.name}; a GGUF file holds the tokenizer too")
    tokenizer: dict[str, Any] = read_json(path)
    model = tokenizer["model"]
    problems = []
    if (folder / "scaffolds.json").exists():
        problems.append("its scaffold entries are taken apart by code of its own, which llama.cpp lacks")
    if model.get("type") != "BPE" or tokenizer["normalizer"] is not None or model.get("byte_fallback"):
        problems.append("it is not plain byte-level BPE")
    if patterns(tokenizer["pre_tokenizer"]) != [CJK_RUNS, WORDS]:
        problems.append(f"its pre-tokenizer is not the one llama.cpp knows as {PRE_TOKENIZER!r}")
    elif not model.get("ignore_merges"):
        problems.append("it merges whole entries too, where llama.cpp looks them up (ignore_merges)")
    if Tokenizer.from_file(str(path)).encode("").ids:
        problems.append("it adds tokens to every text, which is left to the chat template here")
    if problems:
        raise StemmaError(f"llama.cpp would not cut text as {path} does: {'; '.join(problems)}")
    return tokenizer


def patterns(pre_tokenizer: Mapping[str, Any] | None) -> list[str] | None:
    """The patterns of a cascade of isolating splits before byte-level characters; None: it is none."""
    steps = list((pre_tokenizer or {}).get("pretokenizers", []))
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["use_regex"]:
        return None
    splits = [step for step in steps[:-1] if step["type"] == "Split" and step["behavior"] == "Isolated"]
    return [step["pattern"]["Regex"] for step in splits] if len(splits) == len(steps) - 1 else None


def chat_template(folder: Path) -> str | None:
    """The template, wherever the folder keeps it."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else None
