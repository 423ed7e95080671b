"""A Hugging Face tokenizer for vocabularies with scaffolds (Scaffold-BPE, arXiv 2404.17808).

This file travels in the tokenizer's folder, for ``AutoTokenizer.from_pretrained(folder,
trust_remote_code=True)``, and needs ``transformers`` and ``tokenizers`` alone. Scaffolds are entries that
merging passes through and output never holds: ``tokenizer.json`` gives them ids above those of the model, and
``scaffolds.json`` says which tokens each stands for.

``tokenizers`` knows no step behind its model that could take tokens apart. So a pre-tokenizer here merges and
takes apart, and the model behind it only looks the pieces up. Everything else (offsets, special tokens,
truncation, padding) is the library's own.
"""

import json
import os
from typing import Any

from tokenizers import NormalizedString, PreTokenizedString, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer, Sequence
from transformers import PreTrainedTokenizerFast

SCAFFOLD_FILE = "scaffolds.json"


class _Merging:
    """Cuts each pre-token into the tokens that stand for it."""

    def __init__(self, model: BPE, scaffolds: dict[str, list[str]]) -> None:
        self.model = model
        self.lengths = {token: [len(piece) for piece in pieces] for token, pieces in scaffolds.items()}

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(self._cut)

    def _cut(self, _: int, word: NormalizedString) -> list[NormalizedString]:
        pieces, start = [], 0
        for token in self.model.tokenize(word.normalized):
            for length in self.lengths.get(token.value, (len(token.value),)):
                pieces.append(word[start : start + length])
                start += length
        return pieces


class ScaffoldTokenizerFast(PreTrainedTokenizerFast):
    """Byte-level BPE whose scaffolds are taken apart after merging."""

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "scaffold_file": SCAFFOLD_FILE}  # noqa: RUF012

    def __init__(self, *args: Any, scaffold_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if scaffold_file is None or not os.path.isfile(scaffold_file):
            raise ValueError(f"{SCAFFOLD_FILE} must be beside tokenizer.json; found {scaffold_file!r}")
        with open(scaffold_file, encoding="utf-8") as handle:
            self._scaffolds: dict[str, list[str]] = json.load(handle)
        self._take_over()

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Leave ``tokenizer.json`` to ``__init__``: transformers would rebuild it without its settings."""
        return kwargs

    def _take_over(self) -> None:
        """Move merging from the model into the last pre-tokenizer, and the scaffolds out of the model."""
        backend = self._tokenizer
        self._merging_model, self._cascade = backend.model, backend.pre_tokenizer
        known = backend.get_vocab(with_added_tokens=False)
        learned = sorted(known.keys() - self._scaffolds.keys(), key=known.__getitem__)
        # Special tokens are in the model's vocabulary for their ids' sake alone: scaffolds come after them.
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        while learned[-1] in added:
            learned.pop()
        self._learned = {token: known[token] for token in learned}
        backend.model = BPE(vocab=self._learned, merges=[], ignore_merges=True)
        merging = PreTokenizer.custom(_Merging(self._merging_model, self._scaffolds))
        backend.pre_tokenizer = Sequence([self._cascade, merging])

    def _written(self) -> str:
        """``tokenizer.json`` as it was read, with tokens added since; scaffolds get ids above them all."""
        backend = self._tokenizer
        ours = backend.pre_tokenizer
        backend.pre_tokenizer = self._cascade
        try:
            content = json.loads(backend.to_str())
        finally:
            backend.pre_tokenizer = ours
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        if clash := sorted(added.keys() & self._scaffolds.keys()):
            raise ValueError(f"{clash} cannot be added tokens: they are scaffolds, and a name has one id")
        vocabulary = {**self._learned, **added}
        above = max(vocabulary.values()) + 1
        vocabulary |= {token: above + index for index, token in enumerate(self._scaffolds)}
        content["model"]["vocab"] = vocabulary
        content["model"]["merges"] = json.loads(Tokenizer(self._merging_model).to_str())["model"]["merges"]
        return json.dumps(content, ensure_ascii=False)

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[Any],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        scaffolds = json.dumps(self._scaffolds, ensure_ascii=False)
        for name, content in (("tokenizer.json", self._written()), (SCAFFOLD_FILE, scaffolds)):
            path = os.path.join(save_directory, prefix + name)
            with open(path, "w", encoding="utf-8") as handle:
                handle.write(content)
            file_names = (*file_names, path)
        return file_names

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy, which know no pre-tokenizer written in Python."""
        state = self.__dict__.copy()
        for name in ("_merging_model", "_cascade", "_learned"):
            del state[name]
        return {**state, "_tokenizer": self._written()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_tokenizer": Tokenizer.from_str(state["_tokenizer"])})
        self._take_over()
