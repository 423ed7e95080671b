"""BPE with byte fallback, learned with SentencePiece's lossless settings and carried over to ``tokenizers``.

SentencePiece writes a space as U+2581 and so cannot tell it from a real U+2581. The carried-over vocabulary
spells spaces as spaces, and a real U+2581 in bytes like any other unknown character: every text round-trips.
"""

import io
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer, decoders, models

from tokenizer.config import BYTES
from tokenizer.errors import VocabularyError
from tokenizer.specials import MARKUP

SPACE = "\u2581"
UNKNOWN = "<unk>"
_LINE_BYTES = 4096  # SentencePiece drops longer sentences without a word


def train_model(entries: int, texts: Iterable[str]) -> bytes:
    """Learn ``entries`` entries: ``<unk>`` (never produced), the 256 bytes, then pieces.

    Returns:
        The serialized ``ModelProto``; no special tokens yet.

    Raises:
        VocabularyError: the texts are too few or too uniform to fill the vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=entries,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            unk_piece=UNKNOWN,
            hard_vocab_limit=True,
            max_sentence_length=_LINE_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise VocabularyError(
            f"SentencePiece cannot learn {entries} entries from the sampled text: {error}. "
            "Add text (sources, tokenizer.source_bytes) or change tokenizer.vocab_size."
        ) from error
    return model.getvalue()


def with_specials(model: bytes, tokens: Sequence[str]) -> bytes:
    """The model with special tokens behind its pieces, in the ids they have everywhere else.

    SentencePiece finds user-defined pieces (markup) in text; control pieces no text can spell.
    """
    proto = ModelProto()
    proto.ParseFromString(model)
    piece = ModelProto.SentencePiece
    for token in tokens:
        sort = piece.USER_DEFINED if token in MARKUP else piece.CONTROL
        proto.pieces.add(piece=token, score=0.0, type=sort)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def carry_over(model: bytes) -> Tokenizer:
    """The same vocabulary as a ``tokenizers`` BPE: merges are rebuilt from the order of the pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index).replace(SPACE, " ") for index in range(processor.get_piece_size())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    # SentencePiece merges any two neighbours whose union is an entry, the entry learned first before others.
    learned = pieces[BYTES + 1 :]
    ranked = sorted(learned, key=lambda piece: (-processor.get_score(vocabulary[piece]), vocabulary[piece]))
    known = set(learned)
    for piece in ranked:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [pair for pair in splits if pair[0] in known and pair[1] in known]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their ends, cut so that none is too long; a piece never crosses a line anyway."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_BYTES // 4):
                yield line[start : start + _LINE_BYTES // 4]
