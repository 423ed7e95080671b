"""The folder of a vocabulary with scaffolds, which a reader that knows none cannot misread in silence.

``tokenizer.json`` cannot say that a token is to be taken apart again. So scaffolds have ids above all others
in it: who does not know them hands the model ids it has no embedding for, and fails.
``tokenization_scaffold.py``, which travels in the folder, knows them.
"""

from importlib.resources import files
from pathlib import Path

from stemma.core.files import read_json, write_atomic, write_json
from tokenizer.encoding.scaffolds import pieces
from tokenizer.export import hf
from tokenizer.export.tokenization_scaffold import SCAFFOLD_FILE, ScaffoldTokenizerFast
from tokenizer.specials import special_tokens
from tokenizer.vocabulary import Vocabulary

MODULE = "tokenization_scaffold"


def save_folder(vocabulary: Vocabulary, special_slots: int, folder: Path) -> None:
    """Write what ``AutoTokenizer.from_pretrained(folder, trust_remote_code=True)`` and ``load`` read.

    Ids: entries that have one, special tokens, then scaffolds in the order of their ranks.
    """
    names = hf.names(vocabulary)
    with_id = [name for name, scaffold in zip(names, vocabulary.scaffolds) if not scaffold]
    scaffolds = {names[rank]: [with_id[index] for index in ids] for rank, ids in pieces(vocabulary).items()}
    order = [*with_id, *special_tokens(special_slots), *scaffolds]
    hf.save_folder(
        hf.bpe(vocabulary, {name: index for index, name in enumerate(order)}), special_slots, folder
    )
    write_json(folder / SCAFFOLD_FILE, scaffolds)
    source = files("tokenizer.export").joinpath(f"{MODULE}.py").read_text(encoding="utf-8")
    write_atomic(folder / f"{MODULE}.py", source)
    name = ScaffoldTokenizerFast.__name__
    settings = {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [None, f"{MODULE}.{name}"]}}
    write_json(folder / "tokenizer_config.json", {**read_json(folder / "tokenizer_config.json"), **settings})
