"""llama.cpp, in this process, on one GGUF file: what it makes of tokens and of text.

Needs the ``xllamacpp`` wheel. Its server listens on 127.0.0.1 only, on a port of its own.
"""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stemma.core.errors import StemmaError


class LlamaCpp:
    """A loaded model.

    Args:
        path: the GGUF file.
        context: tokens of prompt and answer together.
        threads: to compute with.

    Raises:
        StemmaError: xllamacpp is not installed, or llama.cpp does not load the file.
    """

    def __init__(self, path: Path, context: int = 512, threads: int = 1) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise StemmaError("running a GGUF file needs llama.cpp: pip install xllamacpp") from error
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel = context, 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.hostnames, parameters.port = ["127.0.0.1"], 0
        parameters.warmup, parameters.verbosity = False, 1
        # Keys and values in full precision, as transformers keeps them; the default is f16.
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise StemmaError(f"llama.cpp does not load {path}; its reason is printed above") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server = None  # ends with its last reference

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it count as such."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        return list(self._post("/tokenize", asked)["tokens"])

    def greedy(self, prompt: str | Sequence[int], tokens: int) -> list[int]:
        """The most probable continuation, token by token, past any end token.

        Args:
            prompt: text, or token ids.
            tokens: ids to return.
        """
        asked = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "n_predict": tokens,
            "temperature": 0,
            "ignore_eos": False,
            "return_tokens": True,
            "cache_prompt": False,
        }
        return list(self._post("/completion", asked)["tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
