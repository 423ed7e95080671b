"""Conversations as token ids, with a mask of what the assistant wrote itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models

from tokenizer.errors import TextError
from tokenizer.load import check_text, encode_plain
from tokenizer.specials import ASSISTANT, CONTROL, END_OF_TEXT

if TYPE_CHECKING:  # importing transformers takes over a second
    from transformers import PreTrainedTokenizerFast

NO_THINK = "<think>\n\n</think>\n\n"
_CONTROL = re.compile("(" + "|".join(map(re.escape, CONTROL)) + ")")


@dataclass(frozen=True)
class ChatTokens:
    """A rendered conversation.

    Attributes:
        ids: token ids, ``[seq]``.
        assistant_mask: ``[seq]``; True where the assistant wrote the token, the ``<|end_of_text|>`` that ends
            its turn included. The ``<|Assistant|>`` mark and a no-think prefix are the prompt's.
    """

    ids: list[int]
    assistant_mask: list[bool]


@cache
def chat_template() -> str:
    """The Jinja source that every saved tokenizer carries."""
    return files("tokenizer").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def render(
    tokenizer: "PreTrainedTokenizerFast",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    enable_thinking: bool = True,
) -> ChatTokens:
    """Render messages with the tokenizer's chat template and encode them.

    Gives exactly the ids of ``tokenizer.apply_chat_template``, with one exception on purpose: control tokens
    that occur *inside* a message (a tool printed ``<|Assistant|>``) are encoded as ordinary text, so that
    content can neither forge a turn nor get itself supervised.

    Args:
        tokenizer: what ``tokenizer.load.load`` returns.
        messages: OpenAI-style messages; see ``docs/architecture.md``.
        tools: OpenAI function schemas.
        add_generation_prompt: end with ``<|Assistant|>``, ready for sampling.
        enable_thinking: False prefills an empty think block in every answer that has none.

    Raises:
        TextError: a message is malformed or holds a lone surrogate; says which.
    """
    check_messages(messages)
    guarded_messages, guarded_tools, guard = _guard(list(messages), list(tools or []))
    text = tokenizer.apply_chat_template(
        guarded_messages,
        tools=guarded_tools or None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=enable_thinking,
    )
    # Odd positions are control tokens, and the template's own, since those inside content are broken up.
    pieces = _CONTROL.split(text)
    plain = [piece.replace(guard, "") if guard else piece for piece in pieces[::2]]
    encodings = encode_plain(tokenizer, plain)
    ids: list[int] = []
    mask: list[bool] = []
    speaking = False
    for position, encoding in enumerate(encodings):
        if position:
            control = pieces[2 * position - 1]
            ids.append(tokenizer.convert_tokens_to_ids(control))
            mask.append(speaking and control == END_OF_TEXT)
            speaking = control == ASSISTANT
        prefilled = len(NO_THINK) if not enable_thinking and pieces[2 * position].startswith(NO_THINK) else 0
        ids += encoding.ids
        mask += [speaking and start >= prefilled for start, _ in encoding.offsets]
    return ChatTokens(ids, mask)


def render_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Messages as the chat template writes them, special tokens included; needs no vocabulary.

    For learning one. Control tokens inside a message cannot be told from the template's own here.

    Raises:
        TextError: a message is malformed, or the text holds a lone surrogate; says which or where.
    """
    check_messages(messages)
    text = _template_only().apply_chat_template(
        list(messages), tools=list(tools or []) or None, tokenize=False
    )
    check_text(text)
    return text


@cache
def _template_only() -> "PreTrainedTokenizerFast":
    """A tokenizer without entries, to render exactly as the saved ones will."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=chat_template())


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Require what the template relies on.

    Raises:
        TextError: names the message and what is wrong with it.
    """
    if not messages:
        raise TextError("a conversation needs at least one message")
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant", "tool"):
            raise TextError(f"message {index} has role {role!r}; expected system, user, assistant or tool")
        if not isinstance(content, str) and not (role == "assistant" and content is None):
            found = type(content).__name__
            raise TextError(f"message {index} ({role}) has content of type {found}; expected a string")
        if message.get("tool_calls") and role != "assistant":
            raise TextError(f"message {index} ({role}) has tool_calls; only the assistant calls tools")
        for call in message.get("tool_calls") or []:
            function = call.get("function", call)
            name, arguments = function.get("name"), function.get("arguments")
            if not isinstance(name, str) or not isinstance(arguments, (dict, str)):
                raise TextError(f"message {index} has a tool call without a name and arguments: {call!r}")


def _guard(messages: list[Any], tools: list[Any]) -> tuple[list[Any], list[Any], str]:
    """Break control tokens inside content with a character found nowhere else, which comes third (or "")."""
    everything = "\n".join(_strings([messages, tools]))
    check_text(everything)
    if not _CONTROL.search(everything):
        return messages, tools, ""
    guard = next(chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in everything)

    def break_up(text: str) -> str:
        return _CONTROL.sub(lambda match: match[0][0] + guard + match[0][1:], text)

    return _map_strings(messages, break_up), _map_strings(tools, break_up), guard


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _strings(item)]
    return []


def _map_strings(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_strings(item, change) for item in value]
    return value
