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

# Parts of the text each stage counts. `words` are the English word lists, `words_zh` the Chinese ones.
GENERAL = {
    "words": 0.5,
    "web": 0.08,
    "technical": 0.09,
    "code": 0.1,
    "stem": 0.05,
    "reasoning": 0.06,
    "agent": 0.08,
}
LANGUAGES = {"languages": 1.0}
CHINESE = {"words_zh": 0.5, "chinese": 0.5}
CODE = {**GENERAL, "words": 0.15, "code": 0.5, "stem": 0.1, "agent": 0.1}
# Chinese once more: by now its rarer words compete with the rarer English ones by the same counts.
LAST = {
    **GENERAL,
    "words": 0.4,
    "code": 0.2,
    "stem": 0.3,
    "reasoning": 0.12,
    "agent": 0.09,
    "chinese": 0.12,
    "words_zh": 0.05,
}
MIXED = {
    "words": 0.36,
    "web": 0.07,
    "technical": 0.08,
    "code": 0.17,
    "stem": 0.1,
    "reasoning": 0.05,
    "agent": 0.05,
    "chinese": 0.1,
    "words_zh": 0.06,
    "languages": 0.004,
}


def _stage(name: str, weights: dict[str, float], entries: int | None = None) -> dict[str, Any]:
    # Half-way between a source's bytes and none of its size: lists stand for far more text than there is.
    return {"name": name, "weights": weights, "entries": entries, "source_alpha": 0.5}


AFTER_GENERAL = [
    _stage("languages", LANGUAGES, 1_500),
    _stage("chinese", CHINESE, 16_000),
    _stage("code", CODE, 12_000),
    _stage("stem", LAST),
]
RECIPES: dict[str, dict[str, Any]] = {
    "staged": {"stages": [_stage("general", GENERAL, 68_000), *AFTER_GENERAL]},
    "from_o200k": {
        "base": {**O200K, "keep": ["ascii", "symbols", "emoji"], "entries": 60_000},
        "stages": AFTER_GENERAL,
    },
    "one_shot": {"stages": [_stage("mixed", MIXED)]},
}


def config(name: str, held_out: list[str]) -> TokenizerConfig:
    """The tokenizer section of a recipe."""
    return TokenizerConfig.model_validate({"vocab_size": VOCAB_SIZE, "held_out": held_out, **RECIPES[name]})
