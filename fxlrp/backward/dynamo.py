"""fxlrp as a backend of ``torch.compile``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxlrp.backward.function import explained_forward
from fxlrp.backward.split import check_compiler, split
from fxlrp.driver import annotated_program, answer, log_only
from fxlrp.errors import CaptureError, InputError
from fxlrp.extensions import Extension
from fxlrp.inputs import Inputs
from fxlrp.optimizations import Optimizations
from fxlrp.passes import pipeline
from fxlrp.request import Request
from fxlrp.rules.presets import Rules

if TYPE_CHECKING:
    from fxlrp.capture.dynamo import Argument

Backend = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


def backend(
    rules: Rules = None,
    *,
    constants: Sequence[str] = (),
    extensions: Sequence[Extension] = (),
    optimize: bool | Optimizations = True,
    compiler: str | Callable[..., Any] | None = None,
) -> Backend:
    """Return a backend of ``torch.compile`` whose backward pass computes relevance.

    ``torch.compile(model, backend=fxlrp.backend(rules=...))`` returns the outputs of the model, up to rounding,
    and the gradients of its inputs are their relevance, as with :func:`fxlrp.autograd`. The same by name is
    ``torch.compile(model, backend="fxlrp", options={"rules": ...})``.

    Args:
        rules: As for :func:`fxlrp.compile`.
        constants: The names of the arguments of the compiled function that are not to be explained. They receive no
            gradient.
        extensions: As for :func:`fxlrp.compile`.
        optimize: As for :func:`fxlrp.compile`.
        compiler: A further backend, such as "inductor", for both parts, forward and relevance.

    Raises:
        CaptureError: At the first run: the model breaks into several graphs, between which gradients would flow.
        UnsupportedOpError: At the first run: relevance would flow through operations without a rule.
        InputError: At the first run: a constant is not an argument of the compiled function.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> explained = torch.compile(model, backend=fxlrp.backend("epsilon"))
        >>> x = torch.ones(2, 4, requires_grad=True)
        >>> explained(x)[:, 1].sum().backward()
        >>> torch.allclose(x.grad, fxlrp.compile(model, "epsilon")(x.detach(), target=1))
        True
    """
    request = Request.of(rules, constants=constants, extensions=extensions)
    passes = pipeline.backward(Optimizations.resolve(optimize))
    check_compiler(compiler)

    def compile_graph(graph_module: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        # Imported here because TorchDynamo takes a second to import; by now it is loaded.
        from fxlrp.capture import dynamo
        from fxlrp.capture.compiled_frame import CompiledFrame

        arguments = dynamo.arguments(graph_module, examples)
        data = {argument.node.name: argument.example for argument in arguments if argument.is_data}
        is_asked = torch.is_grad_enabled() and any(value.requires_grad for value in data.values())
        if not is_asked or not dynamo.returns_numbers(graph_module):
            return graph_module.forward
        if torch._dynamo.config.suppress_errors:
            return _refuse
        frame = CompiledFrame.current()
        frame.check_whole(graph_module)
        captured = dynamo.capture(graph_module, arguments, frame.root)
        asked = replace(request.on(frame.root), constants=_constants(request.constants, arguments))
        program = answer(annotated_program(captured, Inputs.named(data), asked, passes, log_only()), passes)
        parts = split(program)
        parts = parts if compiler is None else parts.compiled(compiler)
        positions = {argument.path: index for index, argument in enumerate(arguments)}
        inputs = [index for index, argument in enumerate(arguments) if argument.is_data]
        # The tensors of rules, such as bounds, are not arguments of the compiled function.
        of_rules = {
            path: operator.attrgetter(path)(program.graph_module) for path in parts.parameters if path not in positions
        }

        def explained(*values: Any) -> tuple[Any, ...]:
            constants = [
                of_rules[path] if path in of_rules else arguments[positions[path]].unwrapped(values[positions[path]])
                for path in parts.parameters
            ]
            return explained_forward(parts, [values[index] for index in inputs], constants)

        return explained

    return compile_graph


def _constants(names: Sequence[str], arguments: Sequence[Argument]) -> tuple[str, ...]:
    """The inputs of the captured graph that belong to the named arguments."""
    data = [argument for argument in arguments if argument.is_data]
    known = sorted({argument.name for argument in data})
    for name in names:
        if name not in known:
            raise InputError(f"constants contains {name!r}, which is not an argument; they are: {', '.join(known)}")
    return tuple(argument.node.name for argument in data if argument.name in names)


def named_backend(
    graph_module: fx.GraphModule, examples: Sequence[Any], *, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """The backend "fxlrp", registered under the entry point ``torch_dynamo_backends``.

    Raises:
        InputError: An option is unknown.
    """
    given = dict(options or {})
    unknown = given.keys() - {"rules", "constants", "extensions", "optimize", "compiler"}
    if unknown:
        raise InputError(f"the backend has no option {', '.join(map(repr, sorted(unknown)))}")
    return backend(**given)(graph_module, examples)


def _refuse(*_: Any) -> Any:
    """Replaces a compiled graph where an error of compilation would be suppressed."""
    raise CaptureError(
        "torch._dynamo.config.suppress_errors is enabled: code that cannot be explained would run in eager Python, and "
        "gradients would mix with relevance. Disable it"
    )
