"""The engine: one model on all ranks of a run: train it, evaluate it, save, load, export.

The same code runs on CUDA and on CPUs; ``pretrain.device`` answers for the differences. It has run on CPUs
only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain import context, convert, device
from pretrain.batch import MicroBatch, StepBatch
from pretrain.checkpoint.load import load as load_checkpoint
from pretrain.checkpoint.saver import Saver
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.cross_entropy import token_statistics
from pretrain.heartbeat import START_SECONDS
from pretrain.losses import WEIGHT
from pretrain.model import LanguageModel, build_model, initialize, megatron_config
from pretrain.optimizer import build_optimizer, set_learning_rate, update
from pretrain.ranks import join, sum_over_ranks
from pretrain.simulated import end_step
from pretrain.topology import Topology
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution

# isort: split
# Megatron is imported after pretrain.device, which prepares it for a CPU.
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

ObjectiveLoss = Callable[[Tensor, MicroBatch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step came to.

    Attributes:
        loss: summed loss of the global batch over its denominator.
        grad_norm: norm of the gradient over all parameters, before clipping.
        metrics: the objective's sums over the global batch, each over the same denominator.
        skipped: nothing was updated: the loss or the gradient is not finite (fp16: its scaled gradient
            overflowed), or the step was not accepted.
    """

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    skipped: bool


class Engine:
    """One model, spread over the ranks of a run. ``Engine.build`` makes it; every rank calls every method."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        topology: Topology,
        module: LanguageModel,
        ddp: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        where: torch.device,
    ) -> None:
        self.model = model
        self.training = training
        self.topology = topology
        self.module = module
        self.ddp = ddp
        self.optimizer = optimizer
        self.saver = Saver(module, optimizer, model)
        self.device = where
        self.rope_theta = training.rope_theta or model.rope_theta
        self.alive: Callable[[], None] = lambda: None  # called as often as a micro batch enters the model
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.data_rank = parallel_state.get_data_parallel_rank()
        self.data_size = parallel_state.get_data_parallel_world_size()
        self.tensor_size = parallel_state.get_tensor_model_parallel_world_size()
        self.context_group = parallel_state.get_context_parallel_group()
        self.pipeline_size = parallel_state.get_pipeline_model_parallel_world_size()
        self.is_last_stage = parallel_state.is_pipeline_last_stage()

    @classmethod
    def build(
        cls,
        model: ModelConfig,
        training: TrainingConfig,
        execution: Execution,
        sharded_optimizer: bool | None = None,
    ) -> "Engine":
        """Join the other ranks, build this rank's part of the model and the optimizer, and draw the weights.

        Under torchrun the ranks are those it started; without, this process is the only one.

        Args:
            model: the shape.
            training: seed, precision, optimizer.
            execution: how many ranks share what.
            sharded_optimizer: replicas keep a part of the moments each (Megatron's distributed optimizer);
                None: on CUDA they do, but for Muon, which needs whole matrices.
                On a CPU saving takes several times as long with it, so there it is used in tests only.

        Raises:
            StemmaError: the number of processes is not TP x PP x CP x DP, or the precision or the split is
            impossible.
        """
        where = device.start(execution.threads)
        topology = Topology.of(execution)
        join(topology, execution.hang_seconds + START_SECONDS)
        if sharded_optimizer is None:
            sharded_optimizer = device.ON_CUDA and training.optimizer.name != "muon"
        config = megatron_config(model, training.precision, topology, training.recompute, training.fp8)
        simulated = training.fp8 if training.precision == "fp8" and training.fp8.simulate else None
        module = build_model(model, config, simulated)
        initialize(module, model, training.seed)
        torch.manual_seed(training.seed)  # nothing draws from it, but checkpoints keep it
        module = module.to(where, config.params_dtype)
        if training.rope_theta is not None:
            module.set_rope_theta(training.rope_theta)
        ddp = DistributedDataParallel(
            config,
            DistributedDataParallelConfig(
                grad_reduce_in_fp32=True, use_distributed_optimizer=sharded_optimizer
            ),
            module,
        )
        optimizer = build_optimizer(ddp, config, training.optimizer, sharded_optimizer, training.loss_scale)
        config.finalize_model_grads_func = _finalize_gradients
        if training.precision == "fp16":
            config.grad_scale_func = optimizer.scale_loss
        return cls(model, training, topology, module, ddp, optimizer, where)

    def close(self) -> None:
        """Leave the other ranks; the process can build another engine afterwards.

        Raises:
            StemmaError: a checkpoint that was under way could not be written.
        """
        self.saver.wait()
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()

    # --- training and evaluation ---

    def train_step(
        self,
        batch: StepBatch,
        objective_loss: ObjectiveLoss,
        lr: float,
        accept: Callable[[float, float], bool] = lambda loss, grad_norm: True,
    ) -> StepResult:
        """One optimizer step.

        Args:
            batch: this data-parallel rank's share of the step.
            objective_loss: from the output of the model for a micro batch, the loss summed over its
                supervised positions, and sums to report under names that are the same on every call. A sum
                under the name ``losses.WEIGHT`` takes the place of the batch's denominator under the loss.
                What the output is, only ``token_statistics`` and its like know.
            lr: learning rate of this step.
            accept: whether to apply a step of this loss and gradient norm, both finite; the same answer on
                every rank. What is not finite is never applied.

        Raises:
            StemmaError: the batch is empty.
        """
        if not batch.micro or batch.denominator <= 0:
            raise StemmaError(
                "a step's batch has no supervised token on it; the plan or the loss masks are wrong"
            )
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        sums = self._run(batch.micro, objective_loss, batch.denominator, train=True)
        weight = sums.pop(WEIGHT, batch.denominator)
        if weight != batch.denominator:  # the loss is linear in it, so that it need not be known beforehand
            self.ddp.scale_gradients(batch.denominator / weight)
        set_learning_rate(self.optimizer, self.training.optimizer, lr)
        loss = sums.pop("loss") / weight
        values = {name: value / batch.denominator for name, value in sums.items()}
        updated, grad_norm = update(
            self.optimizer,
            self.training.optimizer,
            lambda norm: math.isfinite(loss) and math.isfinite(norm) and accept(loss, norm),
        )
        return StepResult(loss, grad_norm, values, skipped=not updated)

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Cross entropy (nats) summed over the supervised positions of all data-parallel ranks' share."""

        def loss(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            return (self.token_loss(logits, micro.labels).double() * micro.loss_mask).sum(), {}

        with torch.no_grad():
            return self._run(list(micro_batches), loss, 1.0, train=False)["loss"]

    def token_logprobs_no_grad(self, tokens: Tensor) -> Tensor:
        """Log-probability of each token given those before it, shifted to where it is predicted.

        Args:
            tokens: ``[batch, seq]``, the same on all ranks of a model replica.

        Returns:
            ``[batch, seq]`` fp32: position ``i`` holds that of ``tokens[:, i + 1]``, the last one 0.
        """
        labels = torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)
        micro = MicroBatch(
            tokens, labels, torch.ones_like(tokens, dtype=torch.float32), torch.zeros_like(tokens)
        )
        kept: list[Tensor] = []

        def keep(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            kept.append(self.token_logprobs(logits, micro.labels))
            return kept[-1].sum(), {}

        with torch.no_grad():
            self._run([micro], keep, 1.0, train=False)
        if kept:  # on the last stage; of this rank's positions, and of those rows were padded with
            whole = context.whole_rows(kept[0].t(), self.context_group).t()
            result = whole[:, : tokens.shape[1]].contiguous()
        else:
            result = torch.empty(tokens.shape, dtype=torch.float32, device=self.device)
        if self.pipeline_size > 1:
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(result, last, parallel_state.get_pipeline_model_parallel_group())
        result[:, -1] = 0.0
        return result

    def token_statistics(
        self, output: Tensor, labels: Tensor, entropy: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cross entropy, log-normalizer and entropy of each position, in nats and fp32.

        Right for vocabularies split over tensor-parallel ranks: each of them gets the whole answer.

        Args:
            output: of the model; what it is, only this method knows.
            labels: ``[batch, seq]``, valid token ids everywhere, also where the loss mask is 0.
            entropy: whether the entropy is wanted: it costs another pass over the logits.

        Returns:
            Each ``[batch, seq]``: the cross entropy and the log-normalizer ``logsumexp(z)``, both
            differentiable, and the entropy without a gradient, or None.
        """
        group = parallel_state.get_tensor_model_parallel_group() if self.tensor_size > 1 else None
        return token_statistics(output, labels, group, entropy)

    def token_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of each position: the first of ``token_statistics``."""
        return self.token_statistics(output, labels)[0]

    def token_logprobs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-probability of each label: ``-token_loss``."""
        return -self.token_loss(logits, labels)

    def set_rope_theta(self, theta: float) -> None:
        """Change the base of the rotary frequencies from now on."""
        self.module.set_rope_theta(theta)
        self.rope_theta = theta

    def _run(
        self, micro_batches: list[MicroBatch], objective_loss: ObjectiveLoss, denominator: float, train: bool
    ) -> dict[str, float]:
        """Pass micro batches forward (and backward) through all stages. Sums over replicas, on every rank.

        With context parallelism model and objective see this rank's positions only, of all that a micro
        batch has by position, and padding where the ranks do not divide the rows.
        """

        def forward_step(
            batches: Iterator[MicroBatch], model: nn.Module
        ) -> tuple[Tensor, Callable[..., Any]]:
            self.alive()
            part = context.own_part(next(batches), self.context_group.rank(), self.context_group.size())
            micro = self._to_device(part)
            output = model(micro.tokens, micro.position_ids, micro.cu_seqlens)

            def loss(output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                total, metrics = objective_loss(output, micro)
                reported = {"loss": total.detach()} | {
                    name: value.detach() for name, value in metrics.items()
                }
                return total / denominator, torch.zeros((), dtype=torch.int, device=self.device), reported

            return output, loss

        for micro in micro_batches:
            micro.check_ids(self.model.vocab_size)
        micro_batches = [context.padded(micro, self.topology.length_multiple) for micro in micro_batches]
        shapes = [micro.tokens.shape for micro in micro_batches]
        self.module.config.variable_seq_lengths = len(set(shapes)) > 1  # stages tell each other the shape
        results = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(micro_batches),
            model=self.ddp,
            num_microbatches=len(micro_batches),
            micro_batch_size=shapes[0][0],
            seq_length=shapes[0][1],
            forward_only=not train,
        )
        return sum_over_ranks(results)

    def _to_device(self, micro: MicroBatch) -> MicroBatch:
        if not device.ON_CUDA:
            return micro
        to = {"device": self.device, "non_blocking": True}
        moved = micro.each(lambda x: x.to(**to))
        if micro.cu_seqlens is not None:
            moved.cu_seqlens = micro.cu_seqlens.to(**to)
        return moved

    # --- weights in and out ---

    def hf_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names of transformers' ``YoutuForCausalLM``, whole, on the CPU.

        Complete on rank 0; empty on the others, which have to call it all the same.
        """
        return dict(convert.megatron_to_hf(convert.gather(self.module, self.model)))

    def write_hf(self, folder: Path, **fields: Any) -> None:
        """Write a folder that transformers loads. Every rank calls it; rank 0 writes, tensor by tensor.

        Args:
            folder: made if missing.
            fields: of ``config.json``, such as ``eos_token_id``; ``shard_bytes`` of ``convert.write_hf``.
        """
        weights = convert.megatron_to_hf(convert.gather(self.module, self.model))
        if self.rank == 0:
            dtype = next(self.module.parameters()).dtype
            convert.write_hf(folder, weights, self.model, self.rope_theta, dtype, **fields)
        else:
            for _ in weights:
                pass

    def sync_hf(self, module: nn.Module) -> None:
        """Copy the current weights into a live ``YoutuForCausalLM`` on rank 0."""
        state = self.hf_state_dict()
        if self.rank == 0:
            convert.load_into(module, state)

    def load_hf_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over weights under transformers' names; every rank passes them all. Moments stay.

        Of a ``convert.HFFolder`` each rank reads one tensor at a time, and what it has a part of only.
        """
        convert.scatter(self.module, self.model, convert.hf_to_megatron(state, self.model))
        self.optimizer.reload_model_params()

    def save(self, folder: Path, extra: dict[str, Any]) -> None:
        """Write model, optimizer, random state and ``extra`` (JSON) into ``folder``, all or nothing.

        ``saver`` does the same beside the training.
        """
        self.saver.begin(folder, extra, copy=False)
        self.saver.wait()

    def load(
        self, folder: Path, weights_only: bool = False, trained: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Take over a checkpoint, which may have been saved on another number of ranks.

        Args:
            folder: what ``save`` wrote.
            weights_only: leave optimizer and random state as they are.
            trained: what it must have been trained with and from; None: anything.

        Returns:
            The ``extra`` it was saved with.

        Raises:
            DamagedError: a file is missing or altered; nothing was loaded.
            StemmaError: the model is of another shape, or it was trained otherwise; says how.
        """
        self.saver.wait()
        return load_checkpoint(folder, self.module, self.optimizer, self.model, weights_only, trained)


def _finalize_gradients(model: list[nn.Module], _num_tokens: Tensor | None = None, **kwargs: Any) -> None:
    """Sum gradients over ranks. The loss is divided by the batch's tokens already."""
    finalize_model_grads(model, None, **kwargs)
    end_step(model)
