"""``stemma convert`` and ``stemma verify-export``: a model in other formats, and whether it is the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from rich.table import Table

    from pretrain.verify import Verification

GGUF = ".gguf"
WORST = 16
Format = Literal["float32", "bfloat16", "float16"]
Source = Annotated[
    Path,
    typer.Argument(help="a Hugging Face folder, a Megatron checkpoint, or the folder of a training artifact"),
]


class DeviationError(StemmaError):
    """Two models that should compute the same do not."""


def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(help="a folder to make, or a file that ends with .gguf")],
    dtype: Annotated[Format | None, typer.Option(help="number format; by default the source's")] = None,
    shard_gigabytes: Annotated[float, typer.Option(min=1e-6, help="largest file of a folder")] = 5.0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="folder with the tokenizer, where the source has none")
    ] = None,
) -> None:
    """Write a model as a Hugging Face folder, or as a GGUF file for llama.cpp."""
    import torch

    from pretrain.convert.source import convert_folder, open_weights
    from pretrain.gguf import write_gguf

    asked: torch.dtype | None = getattr(torch, dtype) if dtype else None
    if target.suffix != GGUF:
        convert_folder(source, target, asked, int(shard_gigabytes * 1e9), tokenizer)
    elif added := write_gguf(open_weights(source), target, asked, tokenizer):
        print(f"{added} layers of zeros were appended: llama.cpp goes by depth to tell how queries are made")
    print(target)


def verify_export(
    first: Source,
    second: Annotated[
        Path | None,
        typer.Argument(help="another, or its .gguf; by default an artifact's `hf` against its checkpoint"),
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="random tokens to compare on")] = 64,
    tolerance: Annotated[
        float, typer.Option(help="what a block may deviate by itself, relative to its output's norm")
    ] = 1e-5,
    blocks: Annotated[bool, typer.Option("--blocks", help="list every block, not the worst ones")] = False,
) -> None:
    """Compare two models block by block: transformers, Megatron, llama.cpp. Says the first that deviates."""
    from pretrain.verify import verify
    from stemma.terminal import console

    if second is None:
        if not ((first / "hf").is_dir() and (first / "checkpoint").is_dir()):
            raise StemmaError(f"{first} has not both hf/ and checkpoint/: name the folder to hold it against")
        first, second = first / "checkpoint", first / "hf"
    if second.suffix == GGUF:
        _verify_gguf(first, second)
        return
    outcome = verify(first, second, length, tolerance=tolerance)
    console().print(_table(outcome, blocks))
    for note in outcome.notes:
        print(f"their configs differ: {note}")
    print(f"the most probable token is the same at {outcome.agreement:.1%} of {length} positions")
    if outcome.first is not None:
        raise DeviationError(f"{outcome.first} is the first block of {second} that deviates from {first}")
    print(f"every block of {second} computes what {first} does, within {tolerance:g}")


def _table(outcome: "Verification", every: bool) -> "Table":
    """The blocks that deviate most by themselves, or all."""
    from rich.table import Table

    rows = outcome.deviations
    if not every and len(rows) > WORST:
        rows = sorted(rows, key=lambda row: -row.alone)[:WORST]
    table = Table(title="relative deviation of each block's output", title_justify="left")
    for name in ("block", "alone", "as reached", "largest value"):
        table.add_column(name, justify="left" if name == "block" else "right")
    for row in rows:
        style = "" if row.alone <= outcome.tolerance else "bold red"
        table.add_row(row.block, f"{row.alone:.1e}", f"{row.reached:.1e}", f"{row.largest:.1e}", style=style)
    return table


def _verify_gguf(folder: Path, path: Path) -> None:
    from pretrain.convert import HFFolder
    from pretrain.convert.source import open_weights
    from pretrain.gguf.check import compare

    weights = open_weights(folder)
    if not isinstance(weights, HFFolder) or not (weights.folder / "tokenizer.json").is_file():
        raise StemmaError(
            f"{weights.folder} is no Hugging Face folder with a tokenizer, to hold {path} against; make one "
            f"with stemma convert {folder} TARGET --tokenizer FOLDER"
        )
    if not path.is_file():
        raise StemmaError(f"there is no file {path}")
    answers = compare(weights.folder, path)
    for answer in answers:
        ids = "same ids" if answer.same_ids else "OTHER IDS"
        print(f"{ids}, {answer.equal} of {len(answer.expected)} greedy tokens equal: {answer.prompt!r}")
    if not all(answer.same for answer in answers):
        raise DeviationError(f"llama.cpp answers otherwise on {path} than transformers on {folder}")
    print(f"llama.cpp answers on {path} as transformers does on {folder}")
