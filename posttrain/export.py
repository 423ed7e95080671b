"""Export: the last model as a Hugging Face folder that ``transformers`` loads without code of ours."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.card import CardFacts, StageFigures, render_card
from posttrain.config import ExportConfig
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_atomic, write_json
from stemma.core.ledger import Ledger
from stemma.core.lineage import ancestry
from stemma.core.stage import Stage, Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FOLDER = "hf"


class ExportError(StemmaError):
    """The exported folder does not load or does not hold what was trained."""


class ExportStage(Stage):
    """Writes the folder and its model card.

    Inputs: ``model`` (the last training stage), ``tokenizer``, ``corpus`` (for licences), and for the card
    the training stages before it under their names and evaluations as ``eval.<stage>``.
    """

    kind = "export"
    recipe = 1
    config: ExportConfig

    def run(self, work: Workspace) -> dict[str, Any]:
        target = work.path / FOLDER
        shutil.rmtree(target, ignore_errors=True)  # nothing of an interrupted attempt is trusted
        target.mkdir(parents=True)
        model, tokenizer = self.inputs["model"], self.inputs["tokenizer"]
        copy_folder(model, target)
        copy_folder(tokenizer, target)
        ids = token_ids(target)
        # No pad_token_id here: transformers would zero that row on loading, and it is the end token's row.
        config = read_json(target / "config.json") | ids | {"pad_token_id": None}
        write_json(target / "config.json", config)
        write_json(target / "generation_config.json", generation_config(self.config, ids))
        parameters = check_folder(target)
        facts = self.facts(Store(work.path.parent.parent), config, parameters, has_code(target))
        write_atomic(target / "README.md", render_card(facts))
        size = sum(path.stat().st_size for path in target.iterdir())
        work.progress.say(f"{parameters:,} parameters, {size:,} bytes")
        return {"parameters": parameters, "bytes": size, "folder": FOLDER}

    def facts(
        self, store: Store, config: dict[str, Any], parameters: int, tokenizer_has_code: bool
    ) -> CardFacts:
        """Collect what the card says from the inputs and their ancestors."""
        corpus = self.inputs.get("corpus")
        sources = read_json(corpus.file("sources.json")) if corpus else []
        ancestors: dict[str, tuple[str, str, str]] = {}
        for artifact in self.inputs.values():
            for node in ancestry(artifact, store):
                ancestors.setdefault(node.fingerprint, (node.name, node.kind, node.fingerprint))
        trained = {role: node for role, node in self.inputs.items() if "loss_last" in node.summary}
        trained[self.inputs["model"].name] = trained.pop("model", self.inputs["model"])
        return CardFacts(
            title=self.config.title,
            description=self.config.description,
            licence=self.config.licence,
            languages=[source.get("language", "en") for source in sources],
            parameters=parameters,
            architecture=config,
            stages=[self.figures(name, node) for name, node in trained.items()],
            sources=sources,
            ancestors=list(ancestors.values()),
            tokenizer_has_code=tokenizer_has_code,
        )

    def figures(self, name: str, stage: Artifact) -> StageFigures:
        """One training stage's figures, with its mix and the scores of its evaluation."""
        evaluation = self.inputs.get(f"eval.{name}")
        scores = read_json(evaluation.file("results.json"))["tasks"] if evaluation else {}
        return StageFigures(name, stage.summary, realized_mix(stage), scores)


def copy_folder(artifact: Artifact, target: Path) -> None:
    """Copy the files of an artifact's ``hf/`` folder.

    Raises:
        ExportError: it has none.
    """
    prefix = f"{FOLDER}/"
    names = [name for name in artifact.manifest["files"] if name.startswith(prefix)]
    if not names:
        raise ExportError(f"{artifact} has no folder {FOLDER}/, so there is nothing to export")
    for name in names:
        destination = target / name.removeprefix(prefix)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, destination)


def token_ids(folder: Path) -> dict[str, int]:
    """Ids of the first, last and padding token, as the tokenizer in a folder says.

    Raises:
        ExportError: it lacks one of the first two. Padding falls back to the last, as the reference does.
    """
    tokenizer = read_tokenizer(folder)
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    if bos is None or eos is None:
        raise ExportError(f"the tokenizer in {folder} names no first or no last token (bos {bos}, eos {eos})")
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos if pad is None else pad}


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer as a user will load it: with the code in the folder, where it has some."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=has_code(folder))


def has_code(folder: Path) -> bool:
    """Whether the tokenizer needs code of its own, as one with scaffolds does."""
    return "auto_map" in read_json(folder / "tokenizer_config.json")


def generation_config(config: ExportConfig, ids: dict[str, int]) -> dict[str, Any]:
    """Sampling defaults that ``model.generate`` picks up."""
    return {
        "do_sample": True,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        **ids,
    }


def realized_mix(stage: Artifact) -> dict[str, tuple[int, int]]:
    """Planned and realized tokens per domain of a training stage."""
    record = read_json(stage.file("ledger.json"))
    planned, realized = (Ledger.from_json(record[key]).by_domain() for key in ("planned", "realized"))
    return {
        domain: (planned[domain].tokens if domain in planned else 0, count.tokens)
        for domain, count in realized.items()
    }


def check_folder(folder: Path) -> int:
    """Load an exported folder the way a user will, and use it.

    Returns:
        The number of parameters.

    Raises:
        ExportError: weights are missing, unknown, altered by loading or not finite, or the vocabulary does
            not fit the tokenizer.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = read_tokenizer(folder)
    problems = [f"{key}: {sorted(map(str, names))}" for key, names in info.items() if names]
    loaded = model.state_dict()
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            if name in loaded and not torch.equal(loaded[name], tensor.to(loaded[name].dtype)):
                problems.append(f"{name} is not what {path.name} holds")
    if len(tokenizer) > model.config.vocab_size:
        problems.append(f"the tokenizer has {len(tokenizer)} entries, the model {model.config.vocab_size}")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1 ="}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        logits = model(**prompt).logits
    if not torch.isfinite(logits).all():
        problems.append("logits are not finite")
    if problems:
        raise ExportError(
            f"{folder} does not load as what was trained:\n" + "\n".join(f"  {p}" for p in problems)
        )
    return int(model.num_parameters())
