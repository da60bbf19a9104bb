"""The pipeline: from a model to its explainer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxlrp.capture import FRONT_ENDS, Captured, FrontEnd, Output
from fxlrp.capture import capture as capture_graph
from fxlrp.capture.choice import ExamplesNeeded, first_that_follows
from fxlrp.errors import CaptureError, GraphError, InputError
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension, extend
from fxlrp.inputs import Inputs
from fxlrp.lazy import LazyExplainer
from fxlrp.optimizations import Optimizations
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Program
from fxlrp.rules.presets import Rules, resolve
from fxlrp.shapes import InputSpec, infer_values
from fxlrp.vocabulary import CANONICAL


def compile(
    model: nn.Module,
    rules: Rules = None,
    *,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Any] | None = None,
    output: Output = None,
    at: str | None = None,
    capture: Literal["auto", "symbolic", "export"] = "auto",
    dynamic_shapes: Mapping[str, Any] | None = None,
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    checkpoint: bool | int = False,
) -> Explainer:
    """Compile ``model`` into the program that explains it by layer-wise relevance propagation (Bach et al., 2015).

    Args:
        model: A module in eval mode whose output is a tensor, ``(batch, ...)``, or holds one. It is not changed.
        rules: A preset's name, a preset, or a list of ``(selector, rule)`` pairs laid over the default preset, where
            the first match wins. A selector is a module class, a glob on the module path, the name of a canonical
            operation, or a predicate on the node. None takes the default preset.
        example_inputs: An input, a sequence of them, or a mapping from the names of the model's arguments to inputs
            and to constants such as ``use_cache=False``. Not needed for what symbolic tracing can follow.
        output: Which output to explain, for a model that returns several: an index, a key, an attribute's name, or a
            sequence of them.
        at: Where to end: the name of a node of the annotated graph or the path of a module, whose output's relevance
            is then returned in place of the inputs'.
        capture: The front end: "symbolic" tracing needs no example inputs and bakes no size in; "export" runs
            ``torch.export``, which follows more. "auto" takes the first that can follow the model; where that is
            export and there are no example inputs, capture waits for the first call.
        dynamic_shapes: Which sizes of the inputs ``torch.export`` leaves open, in its own form. By default the batch
            and, for inputs of up to three dimensions, the lengths.
        extensions: Rules for operations of one's own, made by :func:`fxlrp.rule_for`.
        optimize: Whether to optimize the program, or which optimizations to make. The answer is the same to rounding.
        checkpoint: For models whose activations do not fit: keep few of them and compute the others again, in so many
            segments; True takes the square root of the number of operations. Costs one more forward pass.

    Returns:
        An :class:`~fxlrp.explainer.Explainer` for every batch size and, where the model allows, every input size.

    Raises:
        CaptureError: The forward graph cannot be captured, or the model is in training mode.
        UnsupportedOpError: Relevance would flow through operations without a rule; all are listed.
        RuleError: A rule, preset or selector does not exist, does not fit, or matches nothing.
        InputError: Parameters hold NaN or infinity, or an example input does not fit.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(1)).eval()
        >>> explain = fxlrp.compile(model, rules=[("conv2d", fxlrp.rules.Gamma(0.25))])
        >>> explain(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """
    preset = resolve(rules)
    optimizations = Optimizations.resolve(optimize)
    segments = _segments(checkpoint)
    front_ends = _front_ends(capture)
    _check_model(model)
    vocabulary, preset = extend(CANONICAL, preset, extensions)

    def explainer(inputs: Inputs) -> Explainer:
        def annotated(front_end: FrontEnd) -> tuple[Program, Captured]:
            captured = capture_graph(
                model, inputs, vocabulary, front_end=front_end, output=output, dynamic_shapes=dynamic_shapes
            )
            return _annotate(Program(captured.graph_module, vocabulary, preset, at=at), inputs), captured

        program, captured = first_that_follows(front_ends, annotated, inputs)
        run_passes(program, pipeline.enabled(pipeline.SPECIALIZE, optimizations))
        forward = copy.deepcopy(program.graph)
        run_passes(program, pipeline.EMIT)
        if segments is not None:
            program.segments = segments
            run_passes(program, pipeline.CHECKPOINT)
        run_passes(program, pipeline.enabled(pipeline.OPTIMIZE, optimizations))
        program.graph_module.recompile()
        return Explainer(program, forward, inputs, captured.sizes)

    try:
        return explainer(Inputs.of(model, example_inputs))
    except ExamplesNeeded as needed:
        return LazyExplainer(lambda args, kwargs: explainer(Inputs.of_call(model, args, kwargs)), needed.reason)


def _annotate(program: Program, inputs: Inputs) -> Program:
    """Bring a captured graph to the canonical vocabulary, and give every node its rule."""
    run_passes(program, pipeline.CANONICALIZE)
    program.values = _values(program, inputs)
    run_passes(program, pipeline.SIMPLIFY)
    run_passes(program, pipeline.ANALYZE)
    run_passes(program, pipeline.ANNOTATE)
    return program


def _front_ends(capture: str) -> tuple[FrontEnd, ...]:
    if capture == "auto":
        return FRONT_ENDS
    chosen = tuple(front_end for front_end in FRONT_ENDS if front_end == capture)
    if not chosen:
        raise CaptureError(f"there is no front end {capture!r}; there are: auto, {', '.join(FRONT_ENDS)}")
    return chosen


def _values(program: Program, inputs: Inputs) -> Mapping[str, InputSpec]:
    if not inputs.specs:
        return {}
    try:
        return infer_values(program.graph_module, program.graph, inputs.specs)
    except Exception as error:
        raise GraphError(f"the model does not take the example inputs: {error}") from error


def _segments(checkpoint: Any) -> int | None:
    """Into how many segments to cut the program: 0 for a good number, None for not at all."""
    if isinstance(checkpoint, bool):
        return 0 if checkpoint else None
    if not isinstance(checkpoint, int) or checkpoint < 1:
        raise InputError(f"checkpoint must be True, False or a number of segments, not {checkpoint!r}")
    return checkpoint


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise CaptureError(f"only modules can be compiled, not {type(model).__name__}")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(f"a scripted module cannot be traced ({path or 'the model itself'!r}): give its source")
    training = [path or "the model itself" for path, module in model.named_modules() if module.training]
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise CaptureError(f"the model is in training mode ({training[0]}{more}): call model.eval() first")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise InputError(f"the parameter or buffer {name!r} has no shape yet: run the model once first")
        if not _is_finite(value) and not _is_bound(name, value):
            raise InputError(f"the parameter or buffer {name!r} holds NaN or infinity")


def _is_bound(name: str, value: Tensor) -> bool:
    """Whether a buffer may hold infinity, as a mask or a bound does."""
    is_statistic = name.rpartition(".")[2] in ("running_mean", "running_var")
    return not isinstance(value, nn.Parameter) and not is_statistic and not bool(value.isnan().any())


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point():
        return True
    # The sum is quick and finite in all but rare cases of overflow; what is not finite always shows in it.
    total = value.detach().sum()
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
