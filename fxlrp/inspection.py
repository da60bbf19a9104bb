"""What an explainer tells about its programs: the annotated graph, the relevance of every node, the stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxlrp.arguments import flag, path_of
from fxlrp.asked import Asked, Only
from fxlrp.capture import FrontEnd
from fxlrp.capture.outputs import follow, start_inside
from fxlrp.certificate.certified import Certified
from fxlrp.debugging.stages import Stages
from fxlrp.errors import InputError
from fxlrp.generated_code import with_code
from fxlrp.inputs import Named
from fxlrp.printing import code, table
from fxlrp.printing.html import Table
from fxlrp.printing.selection import view_of
from fxlrp.program import annotation
from fxlrp.question import At, Question
from fxlrp.reading import Place, Reading
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.shapes import infer_shapes

if TYPE_CHECKING:
    from fxlrp.balance import Balance
    from fxlrp.debugging.relevances import Relevances
    from fxlrp.debugging.stage_checks import StageChecks
    from fxlrp.graph_page import GraphPage


class Inspection(Certified):
    """The part of an explainer that shows how it explains."""

    def balance(
        self,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        at: At = None,
        only: Only = None,
        bypass: bool = False,
        **named: Any,
    ) -> Balance:
        """Find the nodes at which the explanation creates or absorbs relevance.

        Biases, stabilizers and the Taylor rule of softmax absorb relevance by design. Any other node with a difference
        has a rule that does not conserve relevance.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            at: As for :meth:`forward`.
            only: As for :meth:`forward`, without lists of conditions.
            bypass: As for :meth:`forward`.
            named: As for :meth:`forward`.

        Returns:
            The balance of every node.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> balance = fxlrp.compile(model, rules="epsilon").balance(torch.ones(2, 4), target=1)
            >>> [leak.node for leak in balance.leaks(tolerance=1e3)]
            []
        """
        from fxlrp.balance import Balance  # what a compilation does not need is imported when it is asked for

        given = (*inputs, Named(named))
        return Balance.of(self.debug(*given, target=target, seed=seed, at=at, only=only, bypass=bypass, rounding=False))

    def debug(
        self,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        at: At = None,
        only: Only = None,
        bypass: bool = False,
        keep: bool = False,
        rounding: bool = True,
        **named: Any,
    ) -> Relevances:
        """Step through the explanation: the relevance of every node, where NaN or infinity first appears, and rounding.

        The program runs without optimizations, one step for each node of the annotated graph.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            at: As for :meth:`forward`.
            only: As for :meth:`forward`, without lists of conditions.
            bypass: As for :meth:`forward`.
            keep: Whether to keep the relevance tensor of every node. This needs memory for all of them.
            rounding: Whether to compute everything in double precision as well, and compare. This takes about three
                times as long.
            named: As for :meth:`forward`.

        Returns:
            The relevance of every node, from the output back.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> relevances = fxlrp.compile(model).debug(torch.ones(2, 4), target=1, keep=True)
            >>> relevances["_1"].relevance.shape
            torch.Size([2, 8])
            >>> relevances.first_bad is None
            True
        """
        from fxlrp.debugging.relevances import relevances

        made, values = self._on_call(inputs, named)
        asked = Asked(target, seed, at, only, bypass)
        question = asked.question(made.main.question)
        if question.stacked:
            raise InputError("one explanation is run node by node: give one target, seed and condition")
        flag("keep", keep)
        flag("rounding", rounding)
        with made.explained_failures(made.main, values):
            steps = made.step_by_step(question)
            return relevances(steps, values, asked.controls, keep=keep, names=made.names(), rounding=rounding)

    def graph(
        self,
        path: str | os.PathLike[str] | None = None,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        at: At = None,
        only: Only = None,
        bypass: bool = False,
        **named: Any,
    ) -> GraphPage:
        """Show the annotated graph as a page for a browser, with the relevance that flows if inputs are given.

        Modules open and close, nodes have the color of their rule, edges are as wide as their relevance, and a click
        shows the rule of a node, its reason, its source line and its balance. The page loads nothing from anywhere.

        Args:
            path: The file to write, such as ``"graph.html"``; None writes none. Notebooks display the result.
            inputs: As for :meth:`forward`. Without inputs the page shows the graph and its rules.
            target: As for :meth:`forward`, with inputs.
            seed: As for :meth:`forward`, with inputs.
            at: As for :meth:`forward`, with inputs.
            only: As for :meth:`forward`, with inputs, without lists of conditions.
            bypass: As for :meth:`forward`, with inputs.
            named: As for :meth:`forward`.

        Returns:
            The page, with ``save(path)`` and ``html``.

        Raises:
            InputError: The path is not one or does not end in ``.html``, an input, the target or the seed does not fit,
                a target or another part of a question is given without inputs, or the model is not captured yet.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> page = fxlrp.compile(model).graph(None, torch.ones(2, 4), target=1)
            >>> page
            GraphPage(Sequential, 5 nodes, 0 groups)
        """
        from fxlrp.graph_page import GraphPage, annotated_graph

        if not (path is None or isinstance(path, str | os.PathLike)):
            raise InputError(
                f"the first argument of graph() is the path of the page, not {type(path).__name__}: "
                "explain.graph('graph.html', x), or explain.graph(None, x) to write no file"
            )
        file = None if path is None else path_of(path, ".html")
        asked = Asked(target, seed, at, only, bypass)
        relevances = None
        if inputs or named:
            given = (*inputs, Named(named))
            relevances = self.debug(*given, target=target, seed=seed, at=at, only=only, bypass=bypass, rounding=False)
        elif asked != Asked():
            raise InputError("a target, a seed and the like need inputs: explain.graph('graph.html', x, target=...)")
        made = self._explanation.require("the annotated graph")
        answer = made.answer(asked.question(made.main.question)) if relevances else made.main
        shapes = infer_shapes(answer.graph_module, answer.annotated, self._seen) if self._seen else {}
        page = GraphPage(annotated_graph(type(self._model).__name__, made, answer, shapes, relevances))
        if file is not None:
            page.save(file)
        return page

    def read(
        self,
        *inputs: Any,
        at: At,
        target: Target = None,
        seed: Seed = None,
        only: Only = None,
        bypass: bool = False,
        **named: Any,
    ) -> Reading:
        """Read values inside the model with their relevance, and the output, in one run.

        Args:
            inputs: As for :meth:`forward`.
            at: The places, as for :meth:`forward`.
            target: As for :meth:`forward`, without several targets.
            seed: As for :meth:`forward`, without several seeds.
            only: As for :meth:`forward`, without lists of conditions.
            bypass: As for :meth:`forward`.
            named: As for :meth:`forward`.

        Returns:
            The values and their relevance by name, and the output. A BatchNorm that is folded into a convolution is
            part of the value of the convolution.

        Raises:
            InputError: A place does not exist, or an input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> place = fxlrp.compile(model).read(torch.ones(2, 4), at="1", target=0)["1"]
            >>> place.value.shape, place.relevance.shape, place.channel_dim
            (torch.Size([2, 8]), torch.Size([2, 8]), -1)
        """
        asked = Asked(target, seed, at, only, bypass, return_output=True, return_values=True)
        if asked.question(Question()).stacked:
            raise InputError("places are read for one question: give one target, seed and condition")
        with torch.no_grad():
            _, _, answer, returned = self._run(inputs, named, asked)
        results = answer.interface.results
        values = returned[len(results) : 2 * len(results)]
        found = zip(results, values, returned[: len(results)], strict=True)
        places = {each.name: Place(value, relevance, each.channel_dim) for each, value, relevance in found}
        return Reading(places, returned[-1])

    @property
    def stages(self) -> Stages:
        """The captured graph and the graph after every pass, for an explainer compiled with ``debug=True``.

        Raises:
            InputError: The stages were not kept.
        """
        stages = self._explanation.require("which stages there were").stages
        if stages is None:
            raise InputError("the stages were not kept: compile with fxlrp.compile(..., debug=True)")
        return stages

    def check_stages(self, *inputs: Any, target: Target = None, seed: Seed = None, **named: Any) -> StageChecks:
        """Run every stage of the compilation, and report which pass changed the result, and by how much.

        A stage without relevance steps must compute the output of the model. A later stage must compute the relevance
        that the first stage with relevance steps computed.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            named: As for :meth:`forward`.

        Returns:
            One check for each stage.

        Raises:
            InputError: The stages were not kept, the model is in training mode, or an input, the target or the seed
                does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> fxlrp.compile(model, debug=True).check_stages(torch.ones(2, 4)).wrong()
            ()
        """
        from fxlrp.debugging.stage_checks import check

        made, values = self._on_call(inputs, named)
        stages, model = self.stages, self._model
        if any(module.training for module in model.modules()):
            raise InputError("the model is in training mode: call model.eval() first")
        if start_inside(made.program.graph) is not None:
            raise InputError("the stages are compared with the output of the model: compile without output='<module>'")
        with torch.no_grad(), made.explained_failures(made.main, values):
            returned = made.signature.inputs.call(model, [value.clone() for value in values])
        arguments = made.interface.arguments(values, {"target": target, "seed": seed})
        return check(stages, made.graph_module, values, arguments, follow(returned, made.recipe.output))

    @property
    def graph_module(self) -> fx.GraphModule:
        """The generated program: an ordinary ``torch.fx.GraphModule`` that reads the parameters of the model.

        Run it under ``torch.no_grad()``, as the explainer does: steps may overwrite values that autograd would need.
        """
        return with_code(self._explanation.require("the program").graph_module)

    @property
    def front_end(self) -> FrontEnd:
        """The front end that captured the model."""
        return self._explanation.require("the front end").recipe.front_end

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes from which the program was made, in order of execution."""
        return self._explanation.require("the annotated graph").nodes

    @property
    def code(self) -> str:
        """The generated program as Python source.

        Without optimizations (``optimize=False``) it reads as formulas: after the forward pass, each rule is a few
        lines, such as ``z = stabilize(head, 0.001)``, the quotient ``R / z``, the transposed map and the product with
        the operand. ``r_`` stands before the relevance of a value, ``q_`` before its quotient by the value. The
        functions are those of ``fxlrp.relevance``.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Linear(4, 3).eval()
            >>> lines = fxlrp.compile(model, "epsilon", optimize=False).code.splitlines()
            >>> print(next(line.strip() for line in lines if "dense_transposed(" in line))
            parts_linear = dense_transposed(linear_share, weight)
        """
        return code.program_text(self.graph_module)

    def table(
        self,
        *,
        only: At = None,
        relevance: bool | None = None,
        hide: str | Sequence[str] = (),
        width: int | None = None,
        fold: bool | None = None,
        constants: bool = False,
    ) -> Table:
        """The annotated graph as a table: every node with its rule, and why it has that rule.

        Args:
            only: The names of modules, nodes, inputs or parameters to show, or globs for them, as for ``at=`` of
                :meth:`forward`. A module stands for everything inside it.
            relevance: True shows only nodes through which relevance flows, False only the others.
            hide: The names of columns to leave out, and of operations (``"relu"``) or families of operations
                (``"activation"``) whose rows to leave out. ``"shape"`` is the column.
            width: The largest number of characters of a line. Longer cells end in an ellipsis; names of nodes and
                modules start with it. None makes lines as long as the cells need.
            fold: Whether shape operations that only move a value, by the default rule, are counted in the row of that
                value, and sizes have no rows. None folds them in a table of more than 60 rows.
            constants: Whether to include rows for parameters and for values that are computed from parameters alone.

        Returns:
            The table, a string that notebooks show as HTML.

        Raises:
            InputError: The model is not captured yet, a name does not exist, or the width is too small.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> print(fxlrp.compile(model).table(only="1", hide=["shape", "why"]).splitlines()[2])
            _1      relu         1         PassThrough()  yes
        """
        made = self._explanation.require("the annotated graph")
        view = view_of(
            made.program,
            made.nodes,
            only=only,
            relevance=relevance,
            hide=hide,
            width=width,
            fold=fold,
            constants=constants,
        )
        shapes = infer_shapes(made.graph_module, made.main.annotated, self._seen) if self._seen else {}
        rows = table.render(made.nodes, made.vocabulary, shapes, view)
        question, start = made.main.question, start_inside(made.program.graph)
        where = f", starting at {start.name}" if start is not None else ""
        return rows.with_note(f"the question: {question}{where}") if question.names or where else rows

    def _repr_html_(self) -> str:
        return self.table().html if self._explanation.is_made else f"<pre>{escape(repr(self))}</pre>"

    def __str__(self) -> str:
        """The annotated graph as a table, or a single line before the model is captured."""
        return self.table() if self._explanation.is_made else repr(self)

    def __repr__(self) -> str:
        """A single line with the class of the model and the number of relevance steps."""
        name = type(self._model).__name__
        if not self._explanation.is_made:
            return f"Explainer({name}, captured at the first call)"
        steps = sum(annotation(node) is not None for node in self.nodes)
        return f"Explainer({name}, {steps} relevance steps)"
