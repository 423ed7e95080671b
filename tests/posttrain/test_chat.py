"""Talking to a model that was taught two conversations by heart, one of them with a tool call."""

from pathlib import Path

import pytest
import torch

from environments.base import assistant
from environments.python_math import TOOL
from posttrain.chat import ChatError, Streamer, chat, open_chat
from pretrain.config import ModelConfig
from pretrain.convert import hf_config
from stemma.core.files import write_json
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.export.hf import save_folder
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.load import load

GREETING = [{"role": "user", "content": "hello"}, assistant("Good day to you.")]
CALCULATION = [
    {"role": "user", "content": "6*7?"},
    assistant("", ("python", {"code": "print(6*7)"})),
    {"role": "tool", "name": "python", "content": "42"},
    assistant("It is 42."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder in miniature, trained by a plain loop: talking is tested here, not training."""
    from transformers import YoutuForCausalLM

    path = tmp_path_factory.mktemp("chat")
    config = TokenizerConfig(vocab_size=512, special_slots=16)
    save_folder(
        train_hf(config.learned_size, iter([Path(__file__).read_text(), str(TOOL)]), 1),
        config.special_slots,
        path,
    )
    tokenizer = load(path)
    shape = ModelConfig(
        vocab_size=512,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=2,
        ffn_hidden_size=128,
        q_lora_rank=None,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        max_position_embeddings=512,
        rope_theta=10_000.0,
    )
    torch.manual_seed(0)
    model = YoutuForCausalLM(hf_config(shape, eos_token_id=tokenizer.eos_token_id))
    model.generation_config.do_sample = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        for messages, tools in ((GREETING, None), (CALCULATION, [TOOL]), (CALCULATION[:2], [TOOL])):
            taught = render(tokenizer, messages, tools)
            labels = [token if own else -100 for token, own in zip(taught.ids, taught.assistant_mask)]
            loss = model(torch.tensor([taught.ids]), labels=torch.tensor([labels])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(path)
    return path


def test_one_prompt_is_answered_and_ends(folder: Path) -> None:
    pieces: list[str] = []
    chat(folder, prompt="hello", write=pieces.append)
    assert "".join(pieces) == "Good day to you.\n"
    assert len(pieces) > 2  # it came as it was written


def test_an_answer_is_shown_by_whole_characters_and_without_its_prompt() -> None:
    pieces: list[str] = []
    streamer = Streamer([*(bytes([byte]) for byte in range(256)), b""], pieces.append)
    streamer.put(torch.tensor([[65, 66]]))
    for index in [*"né漢\U0001f9ec".encode(), 256, 0xE6]:
        streamer.put(torch.tensor([index]))
    streamer.end()
    assert pieces == ["n", "é", "漢", "\U0001f9ec", "\ufffd"]


def test_a_tool_call_is_carried_out_and_its_result_read(folder: Path) -> None:
    pieces: list[str] = []
    conversation = open_chat(folder, tools=True)
    assert conversation.ask("6*7?", pieces.append) == "It is 42."
    assert conversation.messages == CALCULATION
    assert "[python] 42" in "".join(pieces)


def test_a_conversation_goes_on_until_it_is_left(folder: Path) -> None:
    pieces: list[str] = []
    chat(folder, lines=["hello", "", "/new", "hello", "/quit", "never read"], write=pieces.append)
    assert "".join(pieces).count("Good day to you.") == 2


def test_a_full_context_is_said_and_forgotten(folder: Path) -> None:
    conversation = open_chat(folder)
    with pytest.raises(ChatError, match=r"reads at most 512; begin a new one"):
        conversation.ask("a b c d e f " * 200, lambda text: None)
    assert conversation.messages == []
    pieces: list[str] = []
    chat(folder, lines=["a b c d e f " * 200, "hello"], write=pieces.append)
    assert "reads at most 512" in "".join(pieces)
    assert "Good day to you." in "".join(pieces)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", {})
    with pytest.raises(ChatError, match=r"no config\.json"):
        chat(tmp_path, prompt="hello")
