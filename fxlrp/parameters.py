"""Pass relevance to parameters: to those that a step reads, also through values that are computed from parameters.

The relevance of a parameter is what passed through it, summed over the batch (Yeom et al., 2021, for whole filters;
Becking et al., 2021, for weights). It does not depend on which other parameters are asked for. A parameter that is
computed from others, such as a folded weight, passes its relevance on by the default rule of each operation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence

from torch import fx

from fxlrp.errors import UnsupportedOpError
from fxlrp.ledger import Ledger
from fxlrp.program import Program, Relevance
from fxlrp.provenance import MODEL, describe, provenance
from fxlrp.relevance import implementation
from fxlrp.relevance.parameters import arguments_with_values, declared_parameter_relevance, parameter_relevance
from fxlrp.relevance.step import Implementation, Step, StepFacts


def reads_of(program: Program, path: str) -> tuple[fx.Node, ...]:
    """The nodes that read the parameter at a path of the model, under any of its names; empty if there is none.

    The relevance of the parameter is the sum over them.
    """
    named = dict(program.graph_module.get_submodule(MODEL).named_parameters(remove_duplicate=False))
    if path not in named:
        return ()
    names = {f"{MODEL}.{name}" for name, parameter in named.items() if parameter is named[path]}
    return tuple(node for node in program.graph.nodes if node.op == "get_attr" and node.target in names)


def has_name_of_parameter(program: Program, node: fx.Node) -> bool:
    """Whether a node reads the parameter that has its name as a path: one of the model itself."""
    if node.op != "get_attr" or node.target != f"{MODEL}.{node.name}":
        return False
    model = program.graph_module.get_submodule(MODEL)
    return node.name in dict(model.named_parameters(recurse=False, remove_duplicate=False))


class ParameterSteps:
    """Emits the relevance of parameters beside the steps that read them."""

    def __init__(self, program: Program, forward: Sequence[fx.Node], parameters: Sequence[fx.Node]) -> None:
        """Find the values that are computed from the parameters and not from an input.

        Args:
            program: The annotated program.
            forward: The nodes of the forward graph, in order.
            parameters: The nodes that read the parameters.
        """
        self._program = program
        self._values = set(parameters)
        if parameters:
            for node in forward:
                is_constant = node.op == "call_function" and node not in program.facts.dependent
                if is_constant and not self._values.isdisjoint(node.all_input_nodes):
                    self._values.add(node)

    def credit(self, step: Step, how: Implementation, ledger: Ledger) -> None:
        """Emit the relevance of the parameters that a step reads, and of values that are computed from them.

        Raises:
            UnsupportedOpError: The rule of the step does not define it.
        """
        for argument, value in arguments_with_values(step.operation, step.node):
            if value in self._values:
                relevance = parameter_relevance(step, how, argument)
                if relevance is not None:
                    made = Relevance(relevance) if isinstance(relevance, fx.Node) else relevance
                    ledger.credit(value, made, by=step.node)

    def pass_on(self, node: fx.Node, ledger: Ledger) -> None:
        """Pass on the relevance of a value that is computed from parameters; do nothing for any other node.

        Raises:
            UnsupportedOpError: The operation has no rule that defines the relevance of its operands.
        """
        received = ledger.received(node)
        if node not in self._values or node.op != "call_function" or received is None:
            return
        vocabulary = self._program.vocabulary
        operation, index = vocabulary.operation(node), vocabulary.result_index(node)
        rule = self._program.options.preset.default(operation.family) if operation is not None else None
        how = implementation(operation, rule) if operation is not None and rule is not None else None
        if operation is not None and operation.multiple_results and isinstance(received, Relevance):
            raise UnsupportedOpError(
                f"relevance cannot pass through a slice of the results of the {describe(node)} to a parameter: "
                "select the results one by one"
            )
        if operation is None or rule is None or how is None:
            self._pass_on_declared(node, ledger)
        elif index is not None:
            ledger.credit_part(operation.operands_of(node)[0], index, received)
        else:
            multiply = functools.partial(ledger.multiplied, node)
            step = Step(self._program.graph, node, operation, rule, (), received, StepFacts(), multiply)
            self.credit(step, how, ledger)

    def _pass_on_declared(self, node: fx.Node, ledger: Ledger) -> None:
        """Pass on the relevance of the result of a function of the compiler, as the function declares."""
        declared, relevance = declared_parameter_relevance(node.target), ledger.relevance(node)
        if not declared or relevance is None:
            raise UnsupportedOpError(f"relevance cannot pass through the {describe(node)} to a parameter")
        assert callable(node.target)
        arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
        for name, value in arguments.items():
            if value not in self._values:
                continue
            if name not in declared:
                raise UnsupportedOpError(f"the relevance of the argument {name!r} is not defined: {describe(node)}")
            function = declared[name]
            if function is not None:
                args = (relevance, node, *node.args)
                made = self._program.graph.call_function(function, args, dict(node.kwargs))
                made.meta = provenance(node)
                ledger.credit(value, Relevance(made), by=node)
