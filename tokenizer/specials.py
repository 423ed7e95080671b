"""The special tokens of the reference, at the end of the vocabulary as in Llama-3's numbering.

Two sorts. *Control* tokens (turn marks) belong to the chat template alone; text that happens to contain one
is encoded as ordinary text by ``tokenizer.load.encode_text``. *Markup* tokens (such as ``<think>``)
are what a model writes and parsers read, so they survive ``decode(..., skip_special_tokens=True)``.
"""

from tokenizer.config import NAMED_SPECIALS

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
USER = "<|User|>"
ASSISTANT = "<|Assistant|>"
TOOLS_BEGIN = "<|begin_of_tool_description|>"
TOOLS_END = "<|end_of_tool_description|>"
THINK, END_THINK = "<think>", "</think>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, END_TOOL_RESPONSE = "<tool_response>", "</tool_response>"

# The first two places are the reference's (128000 and 128001); it does not publish the order of the others.
NAMED = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    USER,
    ASSISTANT,
    THINK,
    END_THINK,
    TOOL_CALL,
    END_TOOL_CALL,
    TOOL_RESPONSE,
    END_TOOL_RESPONSE,
    TOOLS_BEGIN,
    TOOLS_END,
)
MARKUP = frozenset((THINK, END_THINK, TOOL_CALL, END_TOOL_CALL, TOOL_RESPONSE, END_TOOL_RESPONSE))
CONTROL = tuple(token for token in NAMED if token not in MARKUP)

assert len(NAMED) == NAMED_SPECIALS


def special_tokens(slots: int) -> list[str]:
    """The tokens of the last ``slots`` places of the vocabulary: the named ones, then reserved ones."""
    return [*NAMED, *(f"<|reserved_special_token_{index}|>" for index in range(slots - len(NAMED)))]
