"""What a user chooses: rules, selectors and presets."""

from fxlrp.rules.selectors import FirstLayer
from fxlrp.rules.specs import (
    AlphaBeta,
    Custom,
    Epsilon,
    Equal,
    Flat,
    Gamma,
    Magnitude,
    Only,
    Pass,
    Rule,
    SignalTakeAll,
    Taylor,
    Uniform,
    WinnerTakesAll,
    WSquare,
    ZBox,
    ZPlus,
)

__all__ = [
    "AlphaBeta",
    "Custom",
    "Epsilon",
    "Equal",
    "FirstLayer",
    "Flat",
    "Gamma",
    "Magnitude",
    "Only",
    "Pass",
    "Rule",
    "SignalTakeAll",
    "Taylor",
    "Uniform",
    "WSquare",
    "WinnerTakesAll",
    "ZBox",
    "ZPlus",
]
