"""Learning-rate schedules as pure arithmetic, search spaces of them, and schedules as PyTorch schedulers."""

from autowarmup.schedule.decays import (
    ConstantDecay,
    CosineDecay,
    Decay,
    ExponentialDecay,
    InverseSqrtDecay,
    LinearDecay,
    WarmupStableDecay,
)
from autowarmup.schedule.duration import Duration, duration_steps, parse_duration
from autowarmup.schedule.groups import ParameterGroup
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.shapes import (
    Cosine,
    Exponential,
    GIAdam,
    Linear,
    NoWarmup,
    Polynomial,
    RAdam,
    Rule,
    Shape,
    Sqrt,
    UntunedExponential,
    UntunedLinear,
)

__all__ = [
    "ConstantDecay",
    "Cosine",
    "CosineDecay",
    "Decay",
    "Duration",
    "Exponential",
    "ExponentialDecay",
    "GIAdam",
    "InverseSqrtDecay",
    "Linear",
    "LinearDecay",
    "NoWarmup",
    "ParameterGroup",
    "Polynomial",
    "RAdam",
    "Rule",
    "Schedule",
    "Shape",
    "Sqrt",
    "UntunedExponential",
    "UntunedLinear",
    "WarmupStableDecay",
    "duration_steps",
    "parse_duration",
]
