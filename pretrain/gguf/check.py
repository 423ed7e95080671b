"""Does llama.cpp answer as transformers does? The same text, the same tokens, greedy on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.gguf.llama_cpp import LlamaCpp

PROMPTS = (
    "The city of London is",
    "def fibonacci(n: int) -> int:\n    ",
    "In 1905, the sum of 17 and 25 was",
    "北京是中国的首都，",
    "<|begin_of_text|><|User|>What is 12 + 30?<|Assistant|>",
)


@dataclass(frozen=True)
class Answer:
    """One prompt in both programs.

    Attributes:
        prompt: the text.
        same_ids: both cut it into the same tokens.
        expected: greedy tokens of transformers; an end token ends them.
        from_ids: llama.cpp's, given the prompt's token ids.
        from_text: llama.cpp's, given the prompt's text.
    """

    prompt: str
    same_ids: bool
    expected: list[int]
    from_ids: list[int]
    from_text: list[int]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.same_ids and self.expected == self.from_ids == self.from_text

    @property
    def equal(self) -> int:
        """How many tokens all three have in common, from the first."""
        rows = zip(self.expected, self.from_ids, self.from_text)
        return next((at for at, row in enumerate(rows) if len(set(row)) > 1), len(self.expected))


def compare(folder: Path, path: Path, prompts: Sequence[str] = PROMPTS, tokens: int = 64) -> list[Answer]:
    """Continue prompts in transformers (fp32) and in llama.cpp (the file's format, keys and values in f32).

    Args:
        folder: Hugging Face folder with a tokenizer.
        path: the GGUF file made of it.
        prompts: texts; special tokens in them count as such.
        tokens: to generate for each.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    with LlamaCpp(path) as llama:
        for prompt in prompts:
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
            length = ids["input_ids"].shape[1]
            whole = model.generate(
                input_ids=ids["input_ids"],
                attention_mask=ids["attention_mask"],
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
            given = ids["input_ids"][0].tolist()
            answers.append(
                Answer(
                    prompt,
                    llama.tokenize(prompt) == given,
                    whole[0, length:].tolist(),
                    llama.greedy(given, tokens),
                    llama.greedy(prompt, tokens),
                )
            )
    return answers
