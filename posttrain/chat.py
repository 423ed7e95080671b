"""Talking to an exported model in a terminal: streamed answers, and a Python tool run in the sandbox."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from environments.base import Environment, Message, Task
from environments.config import PythonMathConfig
from environments.python_math import TOOL, PythonMath
from environments.sandbox import open_sandbox
from posttrain.load import load_model
from posttrain.rollouts import parse_turn
from stemma.core.errors import StemmaError
from tokenizer.chat import render
from tokenizer.encoding.stream import StreamDecoder
from tokenizer.load import load, token_bytes

Write = Callable[[str], None]

MAX_NEW_TOKENS = 1024  # per turn
MAX_TURNS = 8  # answers with tool calls that may follow one another
HELP = "Ask something. /new forgets the conversation, /quit (or Ctrl-D) leaves."


class ChatError(StemmaError):
    """The conversation cannot go on as it is."""


class Streamer(BaseStreamer):
    """Hands text on as it is written, character by character.

    Args:
        token_bytes: the bytes each id stands for, ``[vocab_size]``.
        write: receives the text.
    """

    def __init__(self, token_bytes: Sequence[bytes], write: Write) -> None:
        self.decoder = StreamDecoder(token_bytes)
        self.write = write
        self.prompt = True  # what comes first

    def put(self, value: Tensor) -> None:
        """Take the prompt, ``[1, tokens]``, and then one token at a time, ``[1]``."""
        if not self.prompt:
            self._show("".join(self.decoder.push(index) for index in value.tolist()))
        self.prompt = False

    def end(self) -> None:
        """Show what is left of a character that was never completed."""
        self._show(self.decoder.flush())

    def _show(self, text: str) -> None:
        if text:
            self.write(text)


class Chat:
    """One conversation with a model.

    Args:
        model: in evaluation mode; it samples as its generation config says.
        tokenizer: of the same folder.
        tool: where calls of the `python` tool are carried out; None offers no tool.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tool: Environment | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.token_bytes = token_bytes(tokenizer)
        self.tool = tool
        self.task = Task("chat:0:0", "chat", 0, 0, (), (TOOL,) if tool else (), "")
        self.messages: list[Message] = []

    def ask(self, question: str, write: Write) -> str:
        """Put a question, let the model answer and call its tool, and return its last text.

        Args:
            question: what the user says.
            write: receives the answer piece by piece, and what the tool returned.

        Raises:
            ChatError: the conversation fills the context. It is left as it was before the question.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": question})
        try:
            for _ in range(MAX_TURNS):
                answer = self._turn(write)
                self.messages.append(answer)
                calls = answer.get("tool_calls")
                if not calls or self.tool is None:
                    break
                for call in calls:
                    content = self.tool.step(self.task, call, self.messages)
                    write(f"\n[{call['function']['name']}] {content}\n")
                    self.messages.append(
                        {"role": "tool", "name": call["function"]["name"], "content": content}
                    )
        except BaseException:
            del self.messages[before:]
            raise
        return str(self.messages[-1]["content"])

    def _turn(self, write: Write) -> Message:
        prompt = render(self.tokenizer, self.messages, self.task.tools, add_generation_prompt=True).ids
        room = self.model.config.max_position_embeddings - len(prompt)
        if room < 1:
            raise ChatError(
                f"the conversation has {len(prompt)} tokens and the model reads at most "
                f"{self.model.config.max_position_embeddings}; begin a new one with /new"
            )
        ids = torch.tensor([prompt], device=self.model.device)
        with torch.inference_mode():
            written: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(room, MAX_NEW_TOKENS),
                streamer=Streamer(self.token_bytes, write),
            )
        text = self.tokenizer.decode(
            written[0, len(prompt) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return parse_turn(text)


def open_chat(folder: Path, tools: bool = False, sandbox: str = "auto") -> Chat:
    """Load an exported folder.

    Args:
        folder: ``<export artifact>/hf``.
        tools: offer the Python tool.
        sandbox: backend for it.

    Raises:
        ChatError: there is no exported model.
        SandboxUnavailable: the tool was asked for and no sandbox works here.
    """
    if not (folder / "config.json").is_file():
        raise ChatError(f"{folder} is not an exported model: it has no config.json")
    tool = PythonMath(PythonMathConfig(), open_sandbox(sandbox)) if tools else None
    return Chat(load_model(folder), load(folder), tool)


def chat(
    folder: Path,
    prompt: str = "",
    tools: bool = False,
    lines: Iterable[str] | None = None,
    write: Write = lambda text: print(text, end="", flush=True),
) -> None:
    """Answer one prompt, or hold a conversation until the input ends.

    Args:
        folder: ``<export artifact>/hf``.
        prompt: ask this once and return.
        tools: offer the Python tool, run in the sandbox.
        lines: what the user says; the terminal's input by default.
        write: where everything goes; standard output by default.

    Raises:
        ChatError: there is no model, or the one prompt is too long for it.
    """
    conversation = open_chat(folder, tools)
    if prompt:
        conversation.ask(prompt, write)
        write("\n")
        return
    write(HELP + "\n")
    for line in typed() if lines is None else lines:
        question = line.strip()
        if question == "/quit":
            break
        if question == "/new":
            conversation.messages.clear()
        elif question:
            try:
                conversation.ask(question, write)
            except ChatError as error:
                write(str(error))
            write("\n")


def typed() -> Iterator[str]:
    """Lines from the terminal until Ctrl-D."""
    while True:
        try:
            yield input("\n> ")
        except EOFError:
            return
