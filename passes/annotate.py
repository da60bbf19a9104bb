"""Annotate every node through which relevance flows with its rule.

The pass walks from the output back, so nodes that no relevance reaches (the branch of a gate, index arithmetic) need no
rule. It collects all operations without a rule into one error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FunctionType

from torch import fx
from torch._ops import OpOverload

from fxlrp.absence import absences
from fxlrp.ambiguous_selectors import ambiguous
from fxlrp.arguments import similar
from fxlrp.errors import InternalError, RuleError, UnsupportedOpError, warn
from fxlrp.layouts import takes_local_parts
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import ANNOTATION, Annotation, Program, annotation, operation_under, receivers
from fxlrp.provenance import describe, module_stack
from fxlrp.relevance import fitting_rules, implementation
from fxlrp.relevance.derived import complex_reason, is_derivative, stands_for_complex
from fxlrp.relevance.step import Choice, Implementation, Receivers
from fxlrp.relevance.tokens import MAPPED, MapTokens
from fxlrp.rules.preset import Pair
from fxlrp.rules.rule import Rule
from fxlrp.rules.selectors import Candidate, Selector, check_selector, matches
from fxlrp.rules.selectors import describe as describe_selector
from fxlrp.unreached_inputs import unreached
from fxlrp.vocabulary.unknown import unknown


@compiler_pass(needs=["decomposed", "dependence", "first layers", "weights"], provides=["annotated"])
def annotate(program: Program) -> int:
    """Annotate the nodes that relevance reaches; return how many.

    Raises:
        UnsupportedOpError: Operations have no rule; the message lists all of them.
        RuleError: A user-defined pair selects nothing, only operations that its rule does not fit, or only nodes that
            earlier pairs take. Or no call of an extension is left.
    """
    program.vocabulary = program.vocabulary.extend(_unknown(program))
    for pair in program.options.preset.pairs:
        check_selector(pair.selector, program.vocabulary.operations)
    walk = _Walk(program)
    live = set(program.outputs)
    for node in reversed(program.graph.nodes):
        relevant = node in live and node in program.facts.dependent and node.op != "placeholder"
        if not relevant and node.op != "call_module":
            continue
        annotated = walk.annotation(node)
        if annotated is None:
            # Continue, to list earlier operations without a rule as well.
            live.update(node.all_input_nodes)
            continue
        node.meta[ANNOTATION] = annotated
        live.update(receivers(node, program.vocabulary))
    walk.check()
    stopped = [] if program.options.question.at else unreached(program, live)
    for message in (*ambiguous(program), *stopped):
        warn(message)
    return walk.count


def _unknown(program: Program) -> list[Operation]:
    """Rows for the functions of torch that the vocabulary does not know, and that relevance may reach."""
    found: dict[str, Operation] = {}
    for node in program.graph.nodes:
        if (
            node.op == "call_function"
            and node in program.facts.dependent
            and program.vocabulary.operation(node) is None
        ):
            operation = unknown(node.target, program.vocabulary)
            if operation is not None and operation.takes(node.args, node.kwargs):
                found[operation.name] = operation
    return list(found.values())


def change_rule(program: Program, node: fx.Node, rule: Rule, *, origin: str, reason: str = "") -> None:
    """Change the rule of an annotated node.

    Args:
        program: The annotated program.
        node: A forward node that relevance reaches.
        rule: The new rule.
        origin: What chose the rule, usually the name of a pass. The table shows it.
        reason: Why the rule was chosen. The table shows it.

    Raises:
        RuleError: The node has no rule, or the new rule does not fit its operation or passes relevance to different
            operands, whose rules would then be invalid.
    """
    operation, before = program.vocabulary.operation(node), annotation(node)
    if operation is None or before is None:
        raise RuleError(f"no relevance reaches the {describe(node)}: it has no rule to change")
    how = implementation(operation, rule)
    if how is None:
        rules = ", ".join(fitting_rules(operation))
        raise RuleError(f"{rule} does not fit the {describe(node, operation.name)}; rules for it: {rules}")
    chosen = _receivers(program, node, operation, rule, how)
    if chosen.positions != before.carries:
        raise RuleError(
            f"{rule} passes relevance to the operands {chosen.positions} of the {describe(node, operation.name)}, "
            f"but {before.rule} to {before.carries}: choose the rule by a pair in rules=[...] instead"
        )
    reasons = "; ".join(part for part in (reason, chosen.reason) if part)
    node.meta[ANNOTATION] = Annotation(rule, chosen.positions, origin, reasons)


def _receivers(program: Program, node: fx.Node, operation: Operation, rule: Rule, how: Implementation) -> Receivers:
    """The operands that receive relevance from a node under a rule."""
    operands, dependent = operation_under(operation, rule).operands_of(node), program.facts.dependent
    positions = tuple(position for position, operand in enumerate(operands) if operand in dependent)
    weights = program.facts.weights.get(node, ())
    return how.receivers(Choice(node, rule, positions, operands, dependent, program.vocabulary, weights))


@dataclass
class _Walk:
    program: Program
    count: int = 0
    unsupported: list[str] = field(default_factory=list)
    opaque: bool = False
    # Whether one of them has no rule: a derivative does not help where relevance would flow into other arguments.
    lacks_rule: bool = False
    selected: dict[int, list[Operation]] = field(default_factory=dict)
    # The pairs that give a node its rule, by the index of each pair that matches the node and fits it.
    takers: dict[int, set[int]] = field(default_factory=dict)
    uninformative: list[str] = field(default_factory=list)

    def annotation(self, node: fx.Node) -> Annotation | None:
        operation = self.program.vocabulary.operation(node)
        problem = self._problem(node, operation)
        if operation is None or problem:
            self.lacks_rule |= operation is None
            self.unsupported.append(describe(node, operation.name if operation else None) + problem)
            self.opaque |= self._reads_several(node) if operation is not None else _is_opaque(node)
            return None
        chosen = self._choose(node, operation)
        if chosen is None:
            self.opaque |= _is_opaque(node)
            self.lacks_rule = True
            is_known = operation.family is not Family.UNKNOWN
            family = f" ({operation.family.value})" if is_known else ""
            self.unsupported.append(describe(node, operation.name if is_known else None) + family)
            return None
        rule, how, origin, reason = chosen
        chosen_operands = _receivers(self.program, node, operation, rule, how)
        self.count += 1
        if rule.even and self._reads_everything(node, operation):
            self.uninformative.append(
                f"{rule} gives the same relevance to all features of the {describe(node, operation.name)}"
            )
        reasons = (reason, chosen_operands.reason, self._of_complex(node, operation, rule, how, chosen_operands))
        return Annotation(rule, chosen_operands.positions, origin, "; ".join(filter(None, reasons)))

    def _reads_everything(self, node: fx.Node, operation: Operation) -> bool:
        """Whether each output of a linear map reads the whole input, as in a dense layer without other dimensions."""
        value = self.program.facts.values.get(node.name)
        return operation.family is Family.LINEAR and not operation.dims and (value is None or len(value.shape) <= 2)

    def _of_complex(
        self, node: fx.Node, operation: Operation, rule: Rule, how: Implementation, receivers: Receivers
    ) -> str:
        """What is done instead of a rule that is not valid for complex values; empty if there are none.

        Raises:
            RuleError: LRP-epsilon would be another rule than the one that was chosen.
        """
        operands = operation_under(operation, rule).operands_of(node)
        values = (node, *(operands[position] for position in receivers.positions))
        specs = (self.program.facts.values.get(value.name) for value in values)
        if how.of_complex or not any(spec is not None and spec.dtype.is_complex for spec in specs):
            return ""
        if not is_derivative(rule) and not stands_for_complex(rule):
            raise RuleError(
                f"{rule} is not defined for complex values: choose fxlrp.rules.Epsilon() for the "
                f"{describe(node, operation.name)}"
            )
        return complex_reason(operation, rule)

    def _problem(self, node: fx.Node, operation: Operation | None) -> str:
        """Why an operation cannot carry relevance; empty if it can."""
        if operation is None:
            return ""
        facts, arguments = self.program.facts, operation.arguments(node)
        if operation.tells(operation.makes_integers, arguments) and node not in facts.tokens:
            return " (relevance cannot pass through a cast to integers)"
        if self._reads_several(node):
            several = next(source for source in node.all_input_nodes if self._has_several(source))
            return f" (reads all results of {several.name!r} at once; select them one by one)"
        dependent = not facts.dependent.isdisjoint(operation.operands_among(arguments))
        for name, value in arguments.items():
            carries_none = name in (*operation.operands, *operation.without_relevance)
            if carries_none or (name in operation.held_constant and dependent):
                continue
            found: list[fx.Node] = []
            fx.map_arg(value, found.append)
            if not facts.dependent.isdisjoint(found):
                return f" (relevance would flow into its argument {name!r}{self._hint()})"
        return ""

    def _hint(self) -> str:
        """What to do if the argument is computed from integers or truth values."""
        if self.program.options.examples:
            return ""
        return "; if it contains indices or a mask, give example_inputs, or list the input in constants=[...]"

    def _reads_several(self, node: fx.Node) -> bool:
        """Whether a call reads results of another one together, which ``torch.export`` captures one by one."""
        several = any(self._has_several(source) for source in node.all_input_nodes)
        return several and self.program.vocabulary.result_index(node) is None

    def _has_several(self, node: fx.Node) -> bool:
        operation = self.program.vocabulary.operation(node)
        return operation is not None and operation.multiple_results

    def _choose(self, node: fx.Node, operation: Operation) -> tuple[Rule, Implementation, str, str] | None:
        """The first pair that matches and fits, else the default of the preset; None if there is none."""
        if node in self.program.facts.mapped_tokens:
            return MapTokens(), MAPPED, "tokens", "mapped one to one"
        candidate = Candidate(node, operation, node in self.program.facts.first_layer)
        chosen: tuple[Rule, Implementation, str, str] | None = None
        taker: int | None = None
        for index, pair in enumerate(self.program.options.preset.pairs):
            if not matches(pair.selector, candidate, self.program.vocabulary.operations):
                continue
            self.selected.setdefault(index, []).append(operation)
            how = implementation(operation, pair.rule)
            if how is not None:
                taker = index if taker is None else taker
                self.takers.setdefault(index, set()).add(taker)
                chosen = chosen or (pair.rule, how, pair.origin, describe_selector(pair.selector))
        if chosen is not None:
            return chosen
        rule = self.program.options.preset.default(operation.family)
        if rule is None:
            return None
        how = implementation(operation, rule)
        if how is None:
            raise InternalError(
                f"the default rule {rule} of {operation.family.value} has no entry for {operation.name}"
            )
        return rule, how, "default", operation.family.value

    def check(self) -> None:
        """Raise what is wrong with the rules, and warn of what says nothing."""
        if self.unsupported:
            error = UnsupportedOpError(_unsupported_message(self.unsupported, self.lacks_rule))
            error.opaque = self.opaque
            raise error
        pairs = self.program.options.preset.pairs
        for index, pair in enumerate(pairs):
            if pair.by_user and index not in self.takers:
                raise RuleError(self._unmatched(pair, self.selected.get(index, [])))
            if pair.by_user and self._is_hidden(index):
                earlier = " ".join(_described(pairs[each]) for each in sorted(self.takers[index]))
                raise RuleError(
                    f"{_described(pair)} has no effect: every node that it matches belongs to {earlier} which comes "
                    "first. Put the pair for fewer nodes first, or remove it"
                )
        self._check_extensions()
        self._check_local_parts()
        for each in self.uninformative:
            warn(f"{each}: choose another rule for it, such as ZPlus(), WSquare() or ZBox(low, high)")

    def _is_hidden(self, index: int) -> bool:
        """Whether earlier pairs of the same list take every node; a later ``override`` may take all on purpose."""
        pairs = self.program.options.preset.pairs
        own, others = pairs[index].number, [pairs[each].number for each in self.takers[index]]
        return own is not None and all(other is not None and other < own for other in others)

    def _check_extensions(self) -> None:
        found = map(self.program.vocabulary.operation, self.program.graph.nodes)
        names = {operation.name for operation in found if operation is not None}
        for pair in self.program.options.preset.pairs:
            if pair.by_extension and pair.selector not in names:
                raise RuleError(
                    f"the extension for {describe_selector(pair.selector)!r} has no effect: no call of it computes the "
                    "explained output. Remove it from extensions=[...]"
                )

    def _check_local_parts(self) -> None:
        """Where values are the parts on this device, a rule must not look at the other elements of a value."""
        if not takes_local_parts(self.program.graph):
            return
        for node in self.program.graph.nodes:
            found = annotation(node)
            if found is not None and not found.rule.rowwise:
                raise RuleError(
                    f"{found.rule} for the {describe(node)} may look at elements that are on other devices, because "
                    "the model takes local parts of DTensor: choose another rule for it, or state rowwise = True in a "
                    "user-defined rule that does not"
                )

    def _unmatched(self, pair: Pair, selected: list[Operation]) -> str:
        what = _described(pair)
        if not selected:
            program = self.program
            absent = absences(program.graph_module, program.graph.nodes, program.facts.removed)
            reason = absent.get(pair.selector) if isinstance(pair.selector, str) else None
            hint = f": {reason}" if reason else self._similar(pair.selector)
            return f"{what} matches nothing that relevance flows through{hint}"
        operation = selected[0]
        return (
            f"{what} selects {len(selected)} nodes, but its rule fits none of them; "
            f"rules for {operation.name}: {', '.join(fitting_rules(operation))}"
        )

    def _similar(self, selector: Selector) -> str:
        """The names that a selector might mean, as the end of a message."""
        if not isinstance(selector, str):
            return ""
        nodes = [node for node in self.program.graph.nodes if annotation(node) is not None]
        paths = [path for node in nodes for path, _ in module_stack(node)]
        operations = [found.name for node in nodes if (found := self.program.vocabulary.operation(node)) is not None]
        return similar(selector, [*paths, *operations, *(node.name for node in nodes)])


def _described(pair: Pair) -> str:
    return f"{pair.origin}, ({describe_selector(pair.selector)!r}, {pair.rule}),"


def _is_opaque(node: fx.Node) -> bool:
    """Whether a call is of a module, a Python function or an ATen overload, which symbolic tracing does not open."""
    ours = str(getattr(node.target, "__module__", "")).partition(".")[0] == "fxlrp"
    is_python = isinstance(node.target, FunctionType) and not ours
    return node.op == "call_module" or is_python or isinstance(node.target, OpOverload)


def _unsupported_message(problems: list[str], lacks_rule: bool) -> str:
    count = len(problems)
    lines = "\n".join(f"  {index}. {problem}" for index, problem in enumerate(reversed(problems), 1))
    gradient = ", or choose the gradient of a differentiable operation, rules=[(name, fxlrp.rules.Gradient())]"
    return (
        f"{count} operation{'s have' if count > 1 else ' has'} no relevance rule:\n{lines}\n"
        f"Write a rule with @fxlrp.rule_for(function) and pass it to fxlrp.compile(..., extensions=[...])"
        f"{gradient if lacks_rule else ''}; see docs/adding-a-rule.md"
    )
