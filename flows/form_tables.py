"""Which fields of a profile the flows' forms show: those that people change; others go by ``overrides``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """Attributes:
    path: the profile's field; ``*`` shows one field of every entry of a mapping, by name.
    title: as the form says it, with its unit.
    name: in the form; the path's last part by default.
    also: fields that have to follow it.
    """

    path: str
    title: str = ""
    name: str = ""
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.rpartition(".")[2])


@dataclass(frozen=True)
class Section:
    """Attributes:
    name: the flow's parameter.
    title, text: as the form says it.
    items: its fields.
    """

    name: str
    title: str
    text: str
    items: tuple[Item, ...]


def _training(path: str, unit: str = "sequences") -> tuple[Item, ...]:
    return (
        Item(f"{path}.schedule.peak_lr", "Peak learning rate"),
        Item(f"{path}.schedule.end_lr", "Final learning rate"),
        Item(f"{path}.schedule.shape", "Learning-rate schedule", "lr_schedule"),
        Item(f"{path}.schedule.warmup_steps", "Warm-up (steps)"),
        Item(f"{path}.global_batch_size", f"Global batch ({unit})"),
        Item(f"{path}.micro_batch_size", f"Micro-batch ({unit})"),
        Item(f"{path}.precision", "Precision"),
        Item(f"{path}.checkpoint_every", "Checkpoint every (steps)"),
        Item(f"{path}.keep_every", "Keep a milestone every (steps)"),
    )


def _stage(name: str, text: str) -> Section:
    phases = Item(f"curriculum.{name}.phases", "Mix: phases in order")
    return Section(name, f"Stage {name}", text, (phases, *_training(f"training.{name}")))


DATA_WORK = Section(
    "execution",
    "This machine",
    "How the work is done; none of it changes the result.",
    (
        Item("execution.workers", "Data workers (processes)"),
        Item("execution.offline", "Offline"),
        Item("execution.lock_timeout", "Wait for another run (seconds)"),
    ),
)
TRAINING_WORK = Section(
    "execution",
    "This machine",
    "How the work is done; none of it changes the result.",
    (
        *DATA_WORK.items,
        Item("execution.threads", "Threads of a rank"),
        Item("execution.data_parallel", "Data parallel (replicas)"),
        Item("execution.tensor_parallel", "Tensor parallel (ranks)"),
        Item("execution.pipeline_parallel", "Pipeline parallel (ranks)"),
        Item("execution.context_parallel", "Context parallel (ranks)"),
        Item("execution.restarts", "Restarts after a lost rank"),
    ),
)
EVALUATION = Section(
    "evaluation",
    "Evaluation",
    "What every trained stage is scored on.",
    (
        Item("evaluation.tasks.*.items", "Items by task"),
        Item("evaluation.temperature", "Sampling temperature"),
        Item("evaluation.samples", "Transcripts kept of each task"),
        Item("evaluation.batch_size", "Items answered side by side"),
    ),
)

FORMS: dict[str, tuple[Section, ...]] = {
    "pipeline": (
        Section(
            "training",
            "Training",
            "The rates and lengths of the chain; every stage's own form has the rest.",
            (
                Item(
                    "training.commonsense.schedule.peak_lr", "Commonsense: peak rate", "commonsense_peak_lr"
                ),
                Item("training.stem.schedule.peak_lr", "STEM: peak rate", "stem_peak_lr"),
                Item("training.general.schedule.end_lr", "General: final rate", "general_end_lr"),
                Item("training.agentic.schedule.end_lr", "Agentic: final rate", "agentic_end_lr"),
                Item("sft.training.schedule.peak_lr", "SFT: peak rate", "sft_peak_lr"),
                Item("sft.steps", "SFT: steps", "sft_steps"),
                Item("rl.training.schedule.peak_lr", "RL: peak rate", "rl_peak_lr"),
                Item("rl.rollout_batches", "RL: batches of rollouts", "rl_rollout_batches"),
            ),
        ),
        TRAINING_WORK,
    ),
    "data": (
        Section(
            "corpus",
            "Corpus",
            "From sources to clean documents. Sources and filters are in the profile.",
            (
                Item("data.valid_fraction", "Held out for validation (share)"),
                Item("data.max_document_bytes", "Longest document (bytes)"),
                Item("data.extends", "Go on from a corpus"),
                Item("quality.min_labels", "Labels needed for a scorer", "quality_min_labels"),
            ),
        ),
        Section(
            "tokens",
            "Tokens",
            "How documents become training sequences.",
            (
                Item("tokens.packing", "Packing"),
                Item("tokens.packing_length", "Packing window (tokens)"),
                Item("tokens.tiers", "Quality tiers (thresholds)"),
                Item("tokens.seed", "Seed"),
            ),
        ),
        DATA_WORK,
    ),
    "tokenizer": (
        Section(
            "tokenizer",
            "Tokenizer",
            "How the vocabulary is built.",
            (
                Item("tokenizer.vocab_size", "Vocabulary (entries)", also=("model.vocab_size",)),
                Item("tokenizer.backend", "Backend"),
                Item("tokenizer.source_bytes", "Text counted of a source (bytes)"),
                Item("tokenizer.scaffold", "Scaffold-BPE"),
                Item("tokenizer.held_out", "Sources held out"),
                Item("tokenizer.compare", "Compare with"),
                Item("tokenizer.seed", "Seed"),
            ),
        ),
        DATA_WORK,
    ),
    "trajectories": (
        Section(
            "trajectories",
            "Trajectories",
            "What is synthesised and verified.",
            (
                Item("trajectories.families.*.count", "Trajectories by family"),
                Item("trajectories.valid_fraction", "Held out for validation (share)"),
                Item("trajectories.seed", "Seed"),
            ),
        ),
        DATA_WORK,
    ),
    "pretrain": (
        _stage("commonsense", "The first stage: mostly web text."),
        _stage("stem", "The second: more science and code."),
        TRAINING_WORK,
    ),
    "midtrain": (
        _stage("general", "Long sequences."),
        _stage("agentic", "Agentic trajectories, and the rate falls."),
        TRAINING_WORK,
    ),
    "sft": (
        Section(
            "sft",
            "Supervised fine-tuning",
            "Loss on what the assistant wrote.",
            (
                Item("sft.steps", "Steps"),
                Item("sft.families", "Share of each family"),
                Item("sft.max_tokens", "Longest conversation (tokens)"),
                *_training("sft.training", "conversations"),
                Item("sft.seed", "Seed"),
            ),
        ),
        TRAINING_WORK,
    ),
    "rl": (
        Section(
            "rl",
            "Reinforcement learning",
            "From rewards that are verified.",
            (
                Item("rl.rollout_batches", "Batches of rollouts"),
                Item("rl.tasks.*.prompts", "Prompts of a batch, by task"),
                Item("rl.group_size", "Rollouts of a prompt"),
                Item("rl.updates", "Updates of a batch"),
                Item("rl.advantage", "Advantage"),
                Item("rl.loss.name", "Loss", "loss"),
                Item("rl.loss.kl", "Weight of the divergence (KL)"),
                Item("rl.sampling.temperature", "Sampling temperature"),
                *_training("rl.training", "rollouts"),
                Item("rl.seed", "Seed"),
            ),
        ),
        TRAINING_WORK,
    ),
    "evaluate": (EVALUATION, TRAINING_WORK),
    "export": (
        Section(
            "export",
            "Export",
            "The folder others load, and its card.",
            (
                Item("export.title", "Title of the card"),
                Item("export.description", "Description"),
                Item("export.licence", "Licence of the weights"),
                Item("export.temperature", "Sampling temperature"),
                Item("export.top_k", "Top k"),
                Item("export.top_p", "Top p"),
            ),
        ),
        TRAINING_WORK,
    ),
}
