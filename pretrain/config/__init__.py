"""Config models of the pretraining room: the shape of the model and how one stage trains it.

Torch-free: ``stemma plan`` and the profile loader read these in milliseconds. How many ranks share the work
is *not* here: that is ``stemma.core.stage.Execution``, which never changes an artifact's fingerprint.
"""

from pretrain.config.branch import BranchConfig
from pretrain.config.guards import GuardConfig
from pretrain.config.imported import ImportConfig
from pretrain.config.joined import joined
from pretrain.config.loss import LossConfig
from pretrain.config.metrics import MetricsConfig
from pretrain.config.model import ModelConfig
from pretrain.config.monitor import MonitorConfig
from pretrain.config.optimizer import OptimizerConfig
from pretrain.config.precision import FP8Config, FP8Format, FP8Recipe, LossScaleConfig, Precision
from pretrain.config.schedule import DecayShape, ScheduleConfig, ScheduleShape
from pretrain.config.training import PretrainConfig, TrainingConfig

__all__ = [
    "BranchConfig",
    "DecayShape",
    "FP8Config",
    "FP8Format",
    "FP8Recipe",
    "GuardConfig",
    "ImportConfig",
    "LossConfig",
    "LossScaleConfig",
    "MetricsConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "Precision",
    "PretrainConfig",
    "ScheduleConfig",
    "ScheduleShape",
    "TrainingConfig",
    "joined",
]
