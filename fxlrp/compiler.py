"""The pipeline: from a model to its explainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fxlrp.cached_constants import ProgramWithConstants
from fxlrp.capture import Output
from fxlrp.debugging.stages import log_and_stages, recorded
from fxlrp.driver import compiled, log_only
from fxlrp.explainer import Explainer, Explanation
from fxlrp.extensions import Extension
from fxlrp.inputs import Inputs
from fxlrp.optimizations import Optimizations
from fxlrp.passes import Pass, pipeline
from fxlrp.recipe.recipe import Recipe
from fxlrp.request import Capture, Request, check_model
from fxlrp.rules.presets import Rules


def compile(
    model: nn.Module,
    rules: Rules = None,
    *,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Any] | None = None,
    output: Output = None,
    at: str | None = None,
    capture: Capture = "auto",
    dynamic_shapes: Mapping[str, Any] | None = None,
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    checkpoint: bool | int = False,
    passes: Sequence[Pass] = (),
    debug: bool = False,
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
        passes: Passes of one's own, made by :func:`fxlrp.passes.compiler_pass`, which say where they belong.
        debug: Whether to keep the graph after every pass as ``explain.stages``.

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
    check_model(model)
    optimizations = Optimizations.resolve(optimize)
    request = Request.of(
        rules,
        extensions=extensions,
        capture=capture,
        checkpoint=checkpoint,
        output=output,
        dynamic_shapes=dynamic_shapes,
        at=at,
    )
    ordered = pipeline.explanation(optimizations, checkpoints=request.segments is not None, user_defined=passes)

    def explanation(model: nn.Module, inputs: Inputs) -> Explanation:
        observers = log_and_stages if debug else log_only
        done = compiled(model, inputs, request, ordered, observers)
        program, emitted = done.program, done.program.emitted
        return Explanation(
            graph_module=program.graph_module,
            constants=ProgramWithConstants.of(program.graph_module, emitted.constants),
            interface=emitted.interface,
            signature=done.signature,
            annotated=emitted.annotated,
            vocabulary=program.vocabulary,
            options=program.options,
            recipe=Recipe.of(request, inputs, done.front_end, optimizations, extensions, passes),
            stages=recorded(program),
        )

    return Explainer(model, explanation, example_inputs)
