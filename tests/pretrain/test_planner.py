"""`stemma plan`: the report against sums that can be done by hand."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from data_pipeline.config import CurriculumConfig, PhaseConfig
from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
from pretrain.costs import DEVICES, training_flops
from pretrain.planner import PlannerError, count_parameters, plan_profile
from pretrain.planner_tables import amount, duration, render
from pretrain.topology import Topology, TopologyError
from stemma.profile import load_profile
from tests.pretrain.helpers import REFERENCE

SMALL = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    num_layers=3,
    num_attention_heads=4,
    ffn_hidden_size=128,
    q_lora_rank=32,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
)
BATCH_TOKENS = 16 * 64


def curriculum(*phases: tuple[int, int]) -> CurriculumConfig:
    return CurriculumConfig(
        phases=tuple(
            PhaseConfig(name=f"p{number}", tokens=tokens, sequence_length=length, weights={"web": 1.0})
            for number, (length, tokens) in enumerate(phases)
        )
    )


def small_profile(model: ModelConfig = SMALL) -> SimpleNamespace:
    schedule = ScheduleConfig(shape="cosine", peak_lr=1e-3, end_lr=1e-4, warmup_steps=3)
    training = TrainingConfig(global_batch_size=16, micro_batch_size=4, schedule=schedule)
    later = training.model_copy(update={"schedule": ScheduleConfig(peak_lr=1e-4), "rope_theta": 5e5})
    return SimpleNamespace(
        name="small",
        model=model,
        curriculum=SimpleNamespace(
            commonsense=curriculum((64, 10 * BATCH_TOKENS + 5)),
            stem=curriculum((64, 4 * BATCH_TOKENS)),
            general=curriculum((64, 2 * BATCH_TOKENS), (128, 3 * BATCH_TOKENS), (256, BATCH_TOKENS)),
            agentic=curriculum((256, 2 * 16 * 256)),
        ),
        training=SimpleNamespace(commonsense=training, stem=training, general=later, agentic=later),
        long_context=SimpleNamespace(general={128: 6e5, 256: 7e5}, agentic={}),
        sft=SimpleNamespace(training=training, steps=7, max_tokens=100),
        rl=SimpleNamespace(
            training=later,
            steps=3,
            tasks={
                "short": SimpleNamespace(max_new_tokens=50, max_turns=1),
                "long": SimpleNamespace(max_new_tokens=20, max_turns=4),
            },
        ),
    )


def test_the_reference_model_is_counted_without_allocating_it() -> None:
    before = torch.distributed.is_initialized()
    assert count_parameters(REFERENCE) == REFERENCE.parameters == 1_961_560_064
    assert torch.distributed.is_initialized() == before


def test_steps_are_whole_and_phases_keep_their_tokens_per_step() -> None:
    report = plan_profile(small_profile(), gpus=2)
    by_name = {stage.name: stage for stage in report.stages}
    assert list(by_name) == ["commonsense", "stem", "general", "agentic", "sft", "rl"]
    first = by_name["commonsense"]
    assert (first.steps, first.tokens, first.batch_tokens) == (10, 10 * BATCH_TOKENS, BATCH_TOKENS)
    general = by_name["general"]
    assert [(p.sequence_length, p.sequences_per_step, p.steps) for p in general.phases] == [
        (64, 16, 2),
        (128, 8, 3),
        (256, 4, 1),
    ]
    assert [phase.rope_theta for phase in general.phases] == [5e5, 6e5, 7e5]
    assert first.phases[0].rope_theta == SMALL.rope_theta
    assert by_name["sft"].phases[0].rope_theta == 5e5  # none of its own: that of the stage before
    assert [stage.name for stage in report.pretraining] == ["commonsense", "stem", "general", "agentic"]


def test_after_pretraining_the_longest_sequences_bound_the_tokens() -> None:
    sft, rl = plan_profile(small_profile(), gpus=2).stages[4:]
    assert sft.at_most
    assert rl.at_most
    assert (sft.steps, sft.tokens) == (7, 7 * 16 * 100)
    assert (rl.steps, rl.tokens) == (3, 3 * 16 * 20 * 4)


def test_schedules_say_where_they_start_peak_and_end() -> None:
    report = plan_profile(small_profile(), gpus=2)
    assert report.stages[0].learning_rates == pytest.approx((1e-3 / 3, 1e-3, 1e-4))
    assert report.stages[2].learning_rates == (1e-4, 1e-4, 1e-4)


def test_days_follow_from_flops_gpus_and_utilization() -> None:
    report = plan_profile(small_profile(), gpus=1, gpu="a100", mfu=0.25)  # one GPU shares nothing
    seconds = [
        sum(training_flops(SMALL, p.sequence_length) * p.tokens for p in stage.phases)
        / (DEVICES["a100"].flops * 0.25)
        for stage in report.stages
    ]
    assert [stage.days * 86_400 for stage in report.stages] == pytest.approx(seconds)


def test_a_stage_takes_the_fastest_way_that_fits() -> None:
    profile = small_profile(REFERENCE)
    profile.curriculum.agentic = curriculum((131_072, 131_072 * 16))
    profile.training.agentic = profile.training.agentic.model_copy(update={"micro_batch_size": 1})
    report = plan_profile(profile, gpus=16)
    by_name = {stage.name: stage for stage in report.stages}
    short, long = by_name["commonsense"], by_name["agentic"]
    assert short.choice.topology.context == 1
    assert long.feasible
    assert long.choice.topology.data < 16
    assert long.choice.memory.total <= 0.9 * report.gpu_memory
    assert short.checkpoint == 12 * REFERENCE.parameters
    assert report.common is not None
    # the same sizes for everything, when they are given
    fixed = plan_profile(profile, gpus=16, tensor_parallel=4, pipeline_parallel=2, context_parallel=2)
    assert {stage.choice.topology for stage in fixed.stages} == {Topology(4, 2, 2, 1, sequence_parallel=True)}
    assert fixed.stages[0].days > report.stages[0].days


def test_what_does_not_fit_is_said() -> None:
    fixed = {"tensor_parallel": 1, "pipeline_parallel": 1, "context_parallel": 1}
    report = plan_profile(small_profile(), gpus=32, **fixed)
    assert "general: 8 sequences of 128 per step do not divide over 32" in "\n".join(report.notes)
    assert report.common is None
    # 131,072 tokens on one GPU: activations alone exceed it
    profile = small_profile(REFERENCE)
    profile.curriculum.agentic = curriculum((131_072, 131_072 * 16))
    profile.training.agentic = profile.training.agentic.model_copy(update={"micro_batch_size": 1})
    notes = "\n".join(plan_profile(profile, gpus=8, **fixed).notes)
    assert "agentic: does not fit 80 GiB" in notes


def test_bad_hardware_is_refused() -> None:
    with pytest.raises(PlannerError, match=r"unknown GPU 'h1000'; known are: a100, h100"):
        plan_profile(small_profile(), gpu="h1000")
    with pytest.raises(PlannerError, match="10 GPUs cannot be divided into groups of 4 x 1 x 1"):
        plan_profile(small_profile(), gpus=10, tensor_parallel=4)
    with pytest.raises(TopologyError, match="num_layers = 3 does not divide by 2"):
        plan_profile(small_profile(), gpus=4, pipeline_parallel=2)
    with pytest.raises(PlannerError, match="one machine, which has 8 GPUs"):
        plan_profile(small_profile(REFERENCE), gpus=16, tensor_parallel=16)


def test_the_printed_report_fits_a_narrow_terminal() -> None:
    for profile in (small_profile(), load_profile("youtu_2b")):
        out = io.StringIO()
        report = plan_profile(profile, gpus=64)
        render(report, Console(file=out, width=80))
        text = out.getvalue()
        for expected in (f"{profile.model.parameters:,} parameters", "assumed MFU 40%", "activations"):
            assert expected in text
        for stage in report.stages:
            assert sum(line.startswith(stage.name) for line in text.splitlines()) == 3  # and once on top
        assert "…" not in text  # no figure is cut


def test_amounts_and_durations_are_readable() -> None:
    assert [amount(value) for value in (8.16e12, 4_194_304, 512)] == ["8.16 T", "4.194 M", "512"]
    assert [duration(value) for value in (12.34, 0.5, 1 / 24 / 4, 1 / 86_400)] == [
        "12.3 days",
        "12 h",
        "15 min",
        "1 s",
    ]
