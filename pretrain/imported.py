"""Continued pretraining: a model given as a Hugging Face folder becomes what the first stage starts from."""

from pathlib import Path
from typing import Any, ClassVar, cast

from tokenizers import Tokenizer

from pretrain.config.imported import ImportConfig
from stemma.core.config import differences, identity
from stemma.core.errors import StemmaError
from stemma.core.files import sha256_file
from stemma.core.progress import Progress
from stemma.core.stage import Execution, Stage, Workspace

TOKENIZER = "tokenizer.json"
FREE = ("initializer_range", "embedding_initializer_range", "max_position_embeddings", "rope_theta")
"""Fields of the shape in which a run may differ from the model it starts from."""


class ImportStage(Stage):
    """Copies the weights, after checking that the run's model and tokenizer are those they were trained with.

    Inputs: ``tokenizer``.
    """

    kind: ClassVar[str] = "import"
    recipe: ClassVar[int] = 1

    def resolve(self, cache: Path, execution: Execution, progress: Progress) -> None:
        from pretrain.convert.hf import CONFIG, weight_files

        folder = Path(cast(ImportConfig, self.config).folder)
        if not (folder / CONFIG).is_file():
            raise StemmaError(f"init_from: {folder} is no Hugging Face folder: it has no {CONFIG}")
        files = [folder / CONFIG, *weight_files(folder)]
        files += [path for path in [folder / TOKENIZER] if path.is_file()]
        self.resolved = {"files": {path.name: sha256_file(path) for path in files}}

    def run(self, work: Workspace) -> dict[str, Any]:
        from pretrain.convert.source import convert_folder

        config = cast(ImportConfig, self.config)
        folder = Path(config.folder)
        self._check_model(folder)
        self._check_tokenizer(folder, work.progress)
        target = work.path / "hf"
        if not target.exists():  # it appears whole: there is nothing to do after a crash behind that
            convert_folder(folder, target)
        size = sum(path.stat().st_size for path in target.iterdir())
        work.progress.say(f"{config.model.parameters:,} parameters taken over from {folder}, {size:,} bytes")
        return {"parameters": config.model.parameters, "bytes": size}

    def _check_model(self, folder: Path) -> None:
        from pretrain.convert.hf import model_config

        found, expected = (
            {name: value for name, value in identity(model).items() if name not in FREE}
            for model in (model_config(folder), cast(ImportConfig, self.config).model)
        )
        changed = differences(found, expected)
        if changed:
            raise StemmaError(
                f"init_from: {folder} is not the model that the profile describes "
                f"(folder -> profile): {'; '.join(changed)}"
            )

    def _check_tokenizer(self, folder: Path, progress: Progress) -> None:
        """An embedding row means what its id means: the run has to use the model's own tokenizer."""
        theirs = folder / TOKENIZER
        if not theirs.is_file():
            progress.say(f"{folder} has no {TOKENIZER}: that its ids are this run's is taken on trust")
            return
        found, expected = (
            Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
            for path in (theirs, self.inputs["tokenizer"].path / "hf" / TOKENIZER)
        )
        wrong = sorted(
            (token for token, number in expected.items() if found.get(token, number) != number),
            key=lambda token: expected[token],
        )
        missing = expected.keys() - found.keys()
        if wrong or missing:
            example = wrong[0] if wrong else min(missing, key=lambda token: expected[token])
            raise StemmaError(
                f"init_from: {folder} was trained with another tokenizer than {self.inputs['tokenizer']}: "
                f"{len(wrong)} entries have other ids, {len(missing)} are missing; the first is {example!r}, "
                f"{found.get(example, 'missing')} there and {expected[example]} here"
            )
