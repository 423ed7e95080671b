"""GGUF files in the real llama.cpp, against transformers."""

import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pretrain import convert
from pretrain.config import ModelConfig
from pretrain.convert.source import open_weights
from pretrain.gguf import write_gguf
from pretrain.gguf.check import PROMPTS, compare
from pretrain.gguf.llama_cpp import LlamaCpp
from pretrain.gguf.write import padding_layers
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from tests.pretrain.helpers import TINY, build
from tokenizer.export.hf import save_folder
from tokenizer.load import byte_characters
from tokenizer.splitting.cascade import pre_tokenizer

pytest.importorskip("xllamacpp")
SLOTS, VOCABULARY = 32, 832
TEXTS = (
    "The quick brown fox doesn't jump over 1905 lazy dogs...  it\tsleeps\n\n\nuntil NOON!",
    "def f(x: int) -> list[str]:\n    return [f'{y:>3}' for y in range(x)]  # naïve\r\n",
    "北京是中国的首都，人口约2189万。カタカナとひらがな 한국어도 있다 ㄅㄆㄇ",
    "Ω ≈ ∑ x² — “Größe” … 🙂👩‍💻 \u00a0\u3000 ١٢٣ हिन्दी",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer behind the reference's cascade, learned from the standard library."""
    trained = Tokenizer(models.BPE(ignore_merges=True))
    trained.pre_tokenizer = pre_tokenizer()
    learner = trainers.BpeTrainer(
        vocab_size=VOCABULARY - SLOTS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library = Path(sysconfig.get_path("stdlib"))
    trained.train_from_iterator([*TEXTS, *(path.read_text() for path in library.glob("email/*.py"))], learner)
    folder = tmp_path_factory.mktemp("tokenizer")
    save_folder(trained, SLOTS, folder)
    assert len(set(byte_characters()) - trained.get_vocab().keys()) == 0
    return folder


def folder_of(model: ModelConfig, tokenizer: Path, folder: Path) -> Path:
    """A model with large random weights, so that its most probable tokens are far from ties."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.3 if len(shape) > 1 else torch.rand(shape) + 0.5
        for name, shape in convert.hf_shapes(model).items()
    }
    convert.write_hf(folder, weights, model, **convert.special_ids(tokenizer))
    for path in tokenizer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def shaped(**changes: object) -> ModelConfig:
    base = {"vocab_size": VOCABULARY + 8, "max_position_embeddings": 512}
    return ModelConfig.model_validate(TINY.model_dump() | base | changes)


@pytest.mark.parametrize(
    ("changes", "appended", "tokens"),
    [
        ({}, 0, 64),
        ({"tie_word_embeddings": False, "rope_theta": 100.0}, 0, 64),
        ({"q_lora_rank": None}, 24, 64),
        ({"num_layers": 26}, 2, 8),
    ],
    ids=str,
)
def test_llama_cpp_continues_as_transformers_does(changes, appended, tokens, tokenizer, tmp_path):
    """Greedy tokens, from token ids and from text."""
    folder = folder_of(shaped(**changes), tokenizer, tmp_path / "hf")
    assert write_gguf(open_weights(folder), tmp_path / "model.gguf") == appended
    answers = compare(folder, tmp_path / "model.gguf", PROMPTS[:2], tokens)
    assert [answer.prompt for answer in answers if not answer.same] == []
    assert max(len(answer.expected) for answer in answers) == tokens
    assert len({tuple(answer.expected) for answer in answers}) == 2  # the prompt matters
    assert not list(tmp_path.glob(".*"))


def test_text_is_cut_into_the_same_ids(tokenizer, tmp_path):
    """Also what no corpus holds: any characters side by side. Stored in bf16."""
    folder = folder_of(shaped(), tokenizer, tmp_path / "hf")
    write_gguf(open_weights(folder), tmp_path / "model.gguf", torch.bfloat16)
    expected = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = (
        "<|begin_of_text|><|User|>a<|Assistant|><think>b</think><tool_call>{}</tool_call><|end_of_text|>"
    )
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        for text in (*TEXTS, special, special.replace("a", " ")):
            assert llama.tokenize(text) == expected.encode(text, add_special_tokens=False).ids, text

        @settings(max_examples=60, deadline=None)
        @given(
            text=st.text(st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="\0"), min_size=1)
        )
        def any_text(text: str) -> None:
            assert llama.tokenize(text) == expected.encode(text, add_special_tokens=False).ids

        any_text()


def test_a_checkpoint_is_exported_with_a_tokenizer_from_elsewhere(tokenizer, tmp_path):
    """The same model comes out, whichever way it goes in."""
    engine = build(shaped())
    engine.save(tmp_path / "checkpoint", {})
    engine.write_hf(tmp_path / "hf")
    engine.close()
    found = []
    for name in ("hf", "checkpoint"):
        path = tmp_path / f"{name}.gguf"
        write_gguf(open_weights(tmp_path / name), path, tokenizer=tokenizer)
        with LlamaCpp(path) as llama:
            found.append((path.stat().st_size, llama.greedy([5, 6, 7], 8)))
    assert found[0] == found[1]


def test_depth_decides_how_queries_are_read():
    assert padding_layers(shaped(num_layers=32)) == 0
    assert padding_layers(shaped(num_layers=27)) == 1
    assert padding_layers(shaped(num_layers=27, q_lora_rank=None)) == 0
    assert padding_layers(shaped(num_layers=48)) == 0
    assert padding_layers(shaped(num_layers=48, vocab_size=128_256)) == 1
    with pytest.raises(StemmaError, match="this one has 28, and layers can only be added"):
        padding_layers(shaped(num_layers=28, q_lora_rank=None))


def test_a_tokenizer_llama_cpp_lacks_is_refused_with_the_reason(tokenizer, tmp_path):
    folder = folder_of(shaped(), tokenizer, tmp_path / "hf")
    known = read_json(folder / "tokenizer.json")
    for change, said in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "is not the one llama.cpp knows as 'youtu'"),
        ({"model": known["model"] | {"ignore_merges": False}}, "ignore_merges"),
        ({"normalizer": {"type": "NFC"}}, "not plain byte-level BPE"),
    ):
        write_json(folder / "tokenizer.json", known | change)
        with pytest.raises(StemmaError, match=said):
            write_gguf(open_weights(folder), tmp_path / "model.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(StemmaError, match=r"has no tokenizer\.json"):
        write_gguf(open_weights(folder), tmp_path / "model.gguf")
    assert list(tmp_path.glob("*model.gguf*")) == []
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(StemmaError, match="does not load"):
        LlamaCpp(tmp_path / "broken.gguf")
