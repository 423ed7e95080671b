"""What is learned: the stages of each vocabulary, as a profile would write them."""

from typing import Any

from tokenizer.config import TokenizerConfig

VOCAB_SIZE = 128_256

O200K: dict[str, Any] = {
    "registry": "pypi",
    "package": "litellm",
    "version": "1.109.1",
    "archive": "litellm-1.109.1-cp310-abi3-manylinux_2_28_x86_64.whl",
    "sha256": "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf",
    "member": "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790",
}

GENERAL = {
    "words": 0.62,
    "web": 0.1,
    "technical": 0.08,
    "code": 0.1,
    "stem": 0.06,
    "reasoning": 0.02,
    "agent": 0.02,
}
CHINESE = {"wordfreq_zh": 0.5, "jieba": 0.1, "chinese": 0.4}
CODE = {"code": 0.6, "agent": 0.1, "technical": 0.1, "words": 0.2}
STEM = {"stem": 0.3, "reasoning": 0.1, "technical": 0.1, "words": 0.4, "code": 0.1}
MIXED = {
    "words": 0.4,
    "web": 0.07,
    "technical": 0.08,
    "code": 0.17,
    "stem": 0.1,
    "reasoning": 0.05,
    "agent": 0.03,
}

STAGED = [
    {"name": "general", "weights": GENERAL, "entries": 62_000, "source_alpha": 0.5},
    {"name": "chinese", "weights": CHINESE, "entries": 22_000, "source_alpha": 0.5, "max_source_share": 0.7},
    {"name": "code", "weights": CODE, "entries": 16_000, "source_alpha": 0.5},
    {"name": "stem", "weights": STEM, "source_alpha": 0.5},
]

RECIPES: dict[str, dict[str, Any]] = {
    "staged": {"stages": STAGED},
    "o200k": {
        "base": {**O200K, "keep": ["ascii", "symbols", "emoji"], "entries": 62_000},
        "stages": STAGED[1:],
    },
    "one_shot": {"stages": [{"name": "mixed", "weights": {**MIXED, "chinese": 0.1}, "source_alpha": 0.5}]},
}


def config(name: str, held_out: list[str]) -> TokenizerConfig:
    """The tokenizer section of a recipe."""
    return TokenizerConfig.model_validate({"vocab_size": VOCAB_SIZE, "held_out": held_out, **RECIPES[name]})
