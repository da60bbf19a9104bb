"""Candidates for the default preset: they are compared on the half of the cells that serves to choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fxlrp.rules import Constant, Epsilon, FirstLayer, Gamma, RelativeEpsilon, Rule, SignalTakeAll, ZPlus
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.selectors import Selector

CONVOLUTIONS = ("conv1d", "conv2d")
# What LRP-epsilon explains in the networks of the benchmark, beside convolutions.
OTHERS = ("linear", "add", "sub", "mean", "adaptive_avg_pool2d", "matmul")


def candidate(
    convolution: Rule | None = None,
    stem: Rule | None = None,
    relative: float | None = None,
    attention: bool = True,
) -> Callable[[], Preset]:
    """A preset of rules for convolutions and for the first layer.

    With ``relative`` LRP-epsilon has an epsilon of that share of the root mean square of each output, and recurrent
    layers that number as it is. Without ``attention`` its weights are constants, as in CP-LRP.
    """
    chosen: list[tuple[Selector, Rule]] = []
    if stem is not None:
        chosen.append((FirstLayer(), stem))
    if convolution is not None:
        chosen += [(name, convolution) for name in CONVOLUTIONS]
    if not attention:
        chosen += [(name, Constant()) for name in ("softmax", "safe_softmax")]
        chosen.append(("matmul", SignalTakeAll(relative or 1e-6)))
    if relative is not None:
        chosen += [(name, RelativeEpsilon(relative)) for name in (*CONVOLUTIONS, *OTHERS)]
        chosen.append(("lstm", SignalTakeAll(relative)))
    pairs = tuple(Pair(selector, rule, "candidate") for selector, rule in chosen)
    return lambda: Preset("candidate", pairs)


CANDIDATES: Mapping[str, Callable[[], Preset]] = {
    "gamma 0.25": candidate(Gamma(0.25)),
    "gamma 0.5": candidate(Gamma(0.5)),
    "gamma 1": candidate(Gamma(1.0)),
    "gamma 0.25, epsilon stem": candidate(Gamma(0.25), stem=Epsilon(1e-6)),
    "gamma 0.25, relative 0.1": candidate(Gamma(0.25), relative=0.1),
    "z+, epsilon stem": candidate(ZPlus(), stem=Epsilon(1e-6)),
    "z+, gamma 0.25 stem": candidate(ZPlus(), stem=Gamma(0.25)),
    "gamma 0.5, epsilon stem": candidate(Gamma(0.5), stem=Epsilon(1e-6)),
    "z+, relative 0.01": candidate(ZPlus(), relative=0.01),
    "z+, relative 0.1": candidate(ZPlus(), relative=0.1),
    "relative 0.1": candidate(relative=0.1),
    "gamma 0.5, relative 0.1": candidate(Gamma(0.5), relative=0.1),
    "gamma 0.5, relative 0.1, epsilon stem": candidate(Gamma(0.5), stem=RelativeEpsilon(0.1), relative=0.1),
    "gamma 0.5, relative 0.1, constant attention": candidate(Gamma(0.5), relative=0.1, attention=False),
}
