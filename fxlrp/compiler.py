"""The pipeline: from a model to its explainer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxlrp.capture import capture
from fxlrp.errors import CaptureError, InputError
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension, extend
from fxlrp.operation import Family
from fxlrp.optimizations import Optimizations
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Program
from fxlrp.rules.presets import Rules, resolve
from fxlrp.shapes import InputSpec, infer_shapes
from fxlrp.vocabulary import CANONICAL


def compile(
    model: nn.Module,
    rules: Rules = None,
    *,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    checkpoint: bool | int = False,
) -> Explainer:
    """Compile ``model`` into the program that explains it by layer-wise relevance propagation (Bach et al., 2015).

    Args:
        model: A module in eval mode that returns a single tensor, ``(batch, ...)``. It is not changed.
        rules: A preset's name, a preset, or a list of ``(selector, rule)`` pairs laid over the default preset, where
            the first match wins. A selector is a module class, a glob on the module path, the name of a canonical
            operation, or a predicate on the node. None takes the default preset.
        example_inputs: An input or a sequence of them. Not needed, unless the model takes ``*args``; with them the
            table shows shapes at once. No shape is baked in.
        extensions: Rules for operations of one's own, made by :func:`fxlrp.rule_for`.
        checkpoint: For models whose activations do not fit: keep few of them and compute the others again, in so many
            segments; True takes the square root of the number of operations. Costs one more forward pass.
        optimize: Whether to optimize the program, or which optimizations to make. The answer is the same to rounding.

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
    examples = _examples(example_inputs)
    _check_model(model)

    vocabulary, preset = extend(CANONICAL, preset, extensions)

    graph_module = capture(model, vocabulary.functions(Family.CUSTOM), len(examples) or None)
    constant = frozenset(index for index, spec in enumerate(examples) if not spec.is_floating)
    program = Program(graph_module, vocabulary, preset, constant)
    run_passes(program, pipeline.CANONICALIZE)
    program.shapes = _shapes(program, examples)
    run_passes(program, pipeline.SIMPLIFY)
    run_passes(program, pipeline.ANALYZE)
    run_passes(program, pipeline.ANNOTATE)
    run_passes(program, pipeline.enabled(pipeline.SPECIALIZE, optimizations))
    annotated = copy.deepcopy(program.graph)
    run_passes(program, pipeline.EMIT)
    if segments is not None:
        program.segments = segments
        run_passes(program, pipeline.CHECKPOINT)
    run_passes(program, pipeline.enabled(pipeline.OPTIMIZE, optimizations))
    program.graph_module.recompile()
    return Explainer(program.graph_module, annotated, vocabulary, examples or None, program.constants)


def _shapes(program: Program, examples: tuple[InputSpec, ...]) -> dict[str, tuple[int, ...]]:
    if not examples:
        return {}
    try:
        return infer_shapes(program.graph_module, program.graph, examples)
    except Exception as error:
        raise InputError(f"the model does not take the example inputs: {error}") from error


def _segments(checkpoint: Any) -> int | None:
    """Into how many segments to cut the program: 0 for a good number, None for not at all."""
    if isinstance(checkpoint, bool):
        return 0 if checkpoint else None
    if not isinstance(checkpoint, int) or checkpoint < 1:
        raise InputError(f"checkpoint must be True, False or a number of segments, not {checkpoint!r}")
    return checkpoint


def _examples(example_inputs: Any) -> tuple[InputSpec, ...]:
    if example_inputs is None:
        return ()
    examples = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    for example in examples:
        if not isinstance(example, Tensor):
            raise InputError(f"example inputs must be tensors, not {type(example).__name__}")
    return tuple(InputSpec.of(example) for example in examples)


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
        if not _is_finite(value):
            raise InputError(f"the parameter or buffer {name!r} holds NaN or infinity")


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point():
        return True
    # The sum is quick and finite in all but rare cases of overflow; what is not finite always shows in it.
    total = value.detach().sum()
    return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
