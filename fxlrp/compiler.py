"""``fxlrp.compile``: from a model to its explainer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fxlrp.answer import Answer
from fxlrp.arguments import flag
from fxlrp.capture import Output
from fxlrp.debugging.stages import log_and_stages, recorded
from fxlrp.debugging.structured_trace import timed
from fxlrp.driver import compiled, log_only
from fxlrp.explainer import Explainer
from fxlrp.explanation import Explanation
from fxlrp.extensions import Extension
from fxlrp.inputs import Inputs
from fxlrp.optimizations import Optimizations
from fxlrp.passes import Pass, pipeline
from fxlrp.question import At
from fxlrp.recipe.recipe import Recipe
from fxlrp.request import Capture, Request, check_model
from fxlrp.rules.presets import Rules
from fxlrp.rules.resolve import resolve


def compile(
    model: nn.Module,
    rules: Rules = None,
    *,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    constants: Sequence[str] = (),
    output: Output = None,
    at: At = None,
    capture: Capture = "auto",
    dynamic_shapes: Mapping[str, Any] | None = None,
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    checkpoint: bool | int = False,
    passes: Sequence[Pass] = (),
    differentiable: bool = False,
    debug: bool = False,
) -> Explainer:
    """Compile ``model`` into the program that explains it by layer-wise relevance propagation (Bach et al., 2015).

    Args:
        model: A module in eval mode whose output is a tensor of shape ``(batch, ...)``, or contains one. It is not
            changed.
        rules: The name of a preset, a preset, a list of ``(selector, rule)`` pairs, or a dictionary that
            :func:`fxlrp.rules.to_dict` returned. Pairs take precedence over the default preset, and the first pair that
            matches wins. A selector is a module class, a module of the model, a glob on the module path, the name of a
            canonical operation or of a node, or a predicate on the node. None selects the default preset.
        example_inputs: An input, a sequence of inputs, or a mapping from the names of the model's arguments to inputs
            and to fixed values such as ``use_cache=False``. An input is a tensor, or a container of tensors such as a
            dictionary. Models that symbolic tracing can follow do not need it.
        constants: The names of the inputs that are not to be explained, such as masks, boxes or edges. They receive no
            relevance, and the operations on their way need no rule.
        output: The output to explain, if the model returns several: an index, a key, the name of an attribute, or a
            sequence of these. Or a value inside the model at which relevance starts, such as the logits before a final
            softmax: the path of a module, which means its output, or the name of a node.
        at: Where relevance is requested, instead of at the inputs: the name of an input or of a node of the annotated
            graph, the path of a module, which means its output, or of a parameter, a glob, or a list of these. With a
            list or a glob the result is a dict by name. A call may choose other places.
        capture: The front end. "symbolic" traces the model; it needs no example inputs and works for every size.
            "export" uses ``torch.export``, which can follow more models. "auto" uses the first one that can follow the
            model. If that is "export" and there are no example inputs, the model is captured at the first call.
        dynamic_shapes: The sizes of the inputs that ``torch.export`` leaves open, in the format of ``torch.export``. By
            default these are the batch and, for inputs of up to three dimensions, the lengths.
        extensions: Rules for user-defined operations, made by :func:`fxlrp.rule_for`.
        optimize: Whether to optimize the program, or which optimizations to use. They change the result only by
            rounding.
        checkpoint: For models whose activations do not fit into memory: the number of segments into which the forward
            program is divided. Few activations are kept, and the others are computed again. True uses the square root
            of the number of operations. The cost is one more forward pass.
        passes: User-defined passes, made by :func:`fxlrp.passes.compiler_pass`. Each one states where it runs.
        differentiable: Whether autograd can differentiate the relevance with respect to inputs and parameters, for
            losses on explanations. Optimizations that prevent this are left out.
        debug: Whether to keep the graph after every pass as ``explain.stages``.

    Returns:
        An :class:`~fxlrp.explainer.Explainer` for every batch size and, where the model allows it, every input size.

    Raises:
        CaptureError: The forward graph cannot be captured, or the model is in training mode.
        UnsupportedOpError: Relevance would flow through operations without a rule. The message lists all of them.
        RuleError: A rule, preset or selector does not exist, does not fit, or matches nothing.
        LostInputError: An input that is not in ``constants`` reaches the output only through operations that cannot
            carry relevance, such as a cast to integers, a remainder, or a lookup in a table that is not an embedding.
        InputError: A parameter contains NaN or infinity, an example input does not fit, an input in ``constants`` does
            not exist, or a pass cannot be placed or cuts derivatives.

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
        constants=constants,
        output=output,
        dynamic_shapes=dynamic_shapes,
        at=at,
        differentiable=differentiable,
    ).on(model)
    ordered = pipeline.explanation(
        optimizations,
        checkpoints=request.segments is not None,
        user_defined=passes,
        differentiable=request.differentiable,
        checked=flag("debug", debug),
    )

    observers = log_and_stages if debug else log_only

    def explanation(model: nn.Module, inputs: Inputs) -> Explanation:
        with timed("compile"):
            done = compiled(model, inputs, request, ordered, observers)
            first = Answer.of(done.program)
        return Explanation(
            answers=[first],
            program=done.annotated,
            passes=ordered,
            signature=done.signature,
            recipe=Recipe.of(request, inputs, done.front_end, optimizations, extensions, passes),
            stages=recorded(done.program),
        )

    again = functools.partial(
        compile,
        rules=resolve(rules).located(model),
        example_inputs=example_inputs,
        constants=request.constants,
        output=output,
        at=at,
        capture=capture,
        dynamic_shapes=dynamic_shapes,
        extensions=tuple(extensions),
        optimize=optimizations,
        checkpoint=checkpoint,
        passes=tuple(passes),
        differentiable=differentiable,
        debug=debug,
    )
    return Explainer(model, explanation, example_inputs, again=again, differentiable=request.differentiable)
