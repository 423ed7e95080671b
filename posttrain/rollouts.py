"""Rollouts: a model acts in environments, many episodes side by side.

An episode is recorded as what the model read and *sampled*: token ids, never text encoded again, because
the ids a text encodes to need not be those it was written with. Tool outputs are appended as the chat
template would render them and carry mask 0.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_pipeline.permutation import derive_key
from environments.base import Call, Environment, Message, Task, assistant
from posttrain.config import SamplingConfig
from posttrain.generate import Row, Turn, write
from tokenizer.chat import render
from tokenizer.specials import END_OF_TEXT, END_TOOL_CALL, TOOL_CALL

TOOL_CALLS = re.compile(re.escape(TOOL_CALL) + "(.*?)" + re.escape(END_TOOL_CALL), re.DOTALL)


@dataclass(frozen=True)
class Request:
    """One episode to play.

    Attributes:
        task: where it begins.
        environment: what carries out its tool calls and scores it.
        seed: of its random numbers.
        max_new_tokens: tokens the model may write per turn.
        max_turns: assistant turns after which it ends.
    """

    task: Task
    environment: Environment
    seed: int
    max_new_tokens: int
    max_turns: int = 1


@dataclass
class Rollout:
    """One played episode.

    Attributes:
        task: where it began.
        prompt_ids: what the model read first.
        ids: what came after, its own tokens and tool outputs.
        mask: per id of ``ids``, 1 where the model sampled it.
        logprobs: per id of ``ids``, its log-probability under the model (temperature 1), 0 where not sampled.
        messages: the same after the task's messages, as the environment scores it.
        truncated: it ended for lack of room.
        score: by the environment, in [0, 1].
    """

    task: Task
    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    truncated: bool = False
    score: float = 0.0

    @property
    def sampled_ids(self) -> list[int]:
        """The ids the model wrote."""
        return [token for token, own in zip(self.ids, self.mask) if own]

    @property
    def text(self) -> str:
        """All text the model wrote, tool calls included."""
        written = [message for message in self.messages if message["role"] == "assistant"]
        calls = [
            call["function"]["arguments"] for message in written for call in message.get("tool_calls", ())
        ]
        return "\n".join([*(message["content"] for message in written), *map(json.dumps, calls)])


def rollout(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    environment: Environment,
    sampling: SamplingConfig,
    seed: int,
    max_new_tokens: int,
    max_turns: int = 1,
) -> list[Rollout]:
    """Play one episode of each task of an environment. A pure function of its arguments.

    Args:
        model: in evaluation mode.
        tokenizer: what ``tokenizer.load.load`` returns.
        tasks: repeat a task to play it several times; every place in the list has random numbers of its own.
        environment: of all tasks.
        sampling: temperature 0 is greedy.
        seed: of sampling.
        max_new_tokens: tokens the model may write per turn.
        max_turns: assistant turns of an episode, at most.
    """
    requests = [
        Request(task, environment, derive_key(seed, place), max_new_tokens, max_turns)
        for place, task in enumerate(tasks)
    ]
    return play(model, tokenizer, requests, sampling)


def play(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    requests: Sequence[Request],
    sampling: SamplingConfig,
) -> list[Rollout]:
    """Play episodes of any environments together and score them."""
    stop = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    context: int = model.config.max_position_embeddings
    prompts: dict[tuple[Environment, str], list[int]] = {}  # ids are unique within an environment only
    for request in requests:
        task, key = request.task, (request.environment, request.task.id)
        if key not in prompts:
            prompts[key] = render(tokenizer, task.messages, task.tools, add_generation_prompt=True).ids
    episodes = [Rollout(request.task, prompts[request.environment, request.task.id]) for request in requests]
    rows = [Row(request.seed, list(episode.prompt_ids)) for request, episode in zip(requests, episodes)]
    longest = max((request.max_turns for request in requests), default=0)
    acting = list(range(len(requests)))
    for turn_number in range(longest):
        room = {
            number: min(
                requests[number].max_new_tokens, context - rows[number].position - len(rows[number].pending)
            )
            for number in acting
        }
        for number in acting:
            episodes[number].truncated |= room[number] < 1
        acting = [number for number in acting if room[number] >= 1]
        if not acting:
            break
        last = turn_number == longest - 1
        batch, rooms = [rows[number] for number in acting], [room[number] for number in acting]
        turns = write(model, batch, rooms, stop, sampling, keep_past=not last)
        calling = []
        for number, turn in zip(acting, turns):
            message = _record(episodes[number], turn, tokenizer)
            if turn.stopped and message.get("tool_calls") and turn_number + 1 < requests[number].max_turns:
                calling.append(number)
        _use_tools(calling, requests, episodes, rows, tokenizer)
        acting = calling
    for environment in dict.fromkeys(request.environment for request in requests):
        mine = [number for number, request in enumerate(requests) if request.environment is environment]
        scores = environment.score_many(
            [(episodes[number].task, episodes[number].messages) for number in mine]
        )
        for number, score in zip(mine, scores):
            episodes[number].score = score
    return episodes


def _record(episode: Rollout, turn: Turn, tokenizer: PreTrainedTokenizerFast) -> Message:
    """Append what the model wrote to an episode, as ids and as a message."""
    episode.ids += turn.ids
    episode.mask += [1] * len(turn.ids)
    episode.logprobs += turn.logprobs
    episode.truncated = not turn.stopped
    written = turn.ids[:-1] if turn.stopped else turn.ids
    message = parse_turn(
        tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
    episode.messages.append(message)
    return message


def parse_turn(text: str) -> Message:
    """The assistant message a turn's text stands for.

    A turn whose tool calls cannot all be read is a message without calls: it ends the episode.
    """
    calls = [_call(found) for found in TOOL_CALLS.findall(text)]
    whole = [call for call in calls if call is not None]
    if not calls or len(whole) < len(calls):
        return assistant(text)
    return assistant(text[: text.index(TOOL_CALL)], *whole)


def _call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of one tool call, or None if it is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments")
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _use_tools(
    calling: Sequence[int],
    requests: Sequence[Request],
    episodes: Sequence[Rollout],
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Carry out the calls of the last messages, an environment's at once, and append what they return."""
    calls: dict[Environment, list[Call]] = {}
    owners: dict[Environment, list[int]] = {}
    for number in calling:
        episode, environment = episodes[number], requests[number].environment
        for call in episode.messages[-1]["tool_calls"]:
            made = Call(episode.task, call["function"], tuple(episode.messages[:-1]))
            calls.setdefault(environment, []).append(made)
            owners.setdefault(environment, []).append(number)
    for environment, batch in calls.items():
        for number, call, content in zip(owners[environment], batch, environment.step_many(batch)):
            episodes[number].messages.append(
                {"role": "tool", "name": call.function["name"], "content": content}
            )
    for number in calling:
        episode = episodes[number]
        ids = tool_turn(tokenizer, episode.messages)
        episode.ids += ids
        episode.mask += [0] * len(ids)
        episode.logprobs += [0.0] * len(ids)
        rows[number].pending += ids


def tool_turn(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """The ids that follow an assistant's turn: the tool messages that end ``messages``, and the next turn's
    mark.

    The template renders them alike after any call, so a short conversation stands in for the whole one.
    """
    last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    stand_in = [{"role": "user", "content": ""}, assistant("", ("tool", {})), *messages[last + 1 :]]
    ids = render(tokenizer, stand_in, add_generation_prompt=True).ids
    stop = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    return ids[len(ids) - ids[::-1].index(stop) :]


@torch.inference_mode()
def token_logprobs(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int
) -> list[Tensor]:
    """Log-probability of each token given those before it, by whole forward passes.

    Args:
        model: in evaluation mode.
        sequences: token ids of any lengths.
        batch_size: sequences per pass.

    Returns:
        per sequence ``[len - 1]`` fp32: place ``i`` holds that of token ``i + 1``.
    """
    found = []
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        longest = max(map(len, batch))
        ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in batch])
        logits = model(
            input_ids=ids[:, :-1]
        ).logits.float()  # padding comes last: causal attention never sees it
        values = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        found += [row[: len(sequence) - 1].clone() for row, sequence in zip(values, batch)]
    return found
