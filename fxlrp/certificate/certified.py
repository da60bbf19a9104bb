"""The part of an explainer that certifies its explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxlrp.asked import Asked
from fxlrp.errors import InputError
from fxlrp.held_model import HeldModel
from fxlrp.question import Question
from fxlrp.relevance.initial_relevance import Seed, Target

if TYPE_CHECKING:
    from fxlrp.certificate.certificate import Certificate


class Certified(HeldModel):
    """The part of an explainer that certifies its explanations."""

    def certify(
        self, *inputs: Any, target: Target = None, seed: Seed = None, tolerance: float = 1e-12, **named: Any
    ) -> Certificate:
        """Certify that coefficients times inputs, and the constants, are exactly the output.

        A preset such as ``fxlrp.presets.cplrp(0.0)`` holds gates, attention weights, statistics of norms and the ratios
        of activations to their operands constant, and divides everything else in proportion without a stabilizer. The
        model with these constants is an affine function, and the explanation is this function: its coefficients times
        the inputs, and what biases and other constants contribute, add up to the output. The certificate shows both in
        double precision, and lists what is held constant. With other rules it lists the nodes that absorb or create
        relevance.

        The model is not changed, and parameters are converted one by one. The program without optimizations runs once
        for each sample.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`, without several targets.
            seed: As for :meth:`forward`, without several seeds.
            tolerance: The largest error of an exact explanation, relative to the output.
            named: As for :meth:`forward`.

        Returns:
            The certificate. Where tokens are inputs, the vectors that they select are in place of them.

        Raises:
            InputError: An input, the target or the seed does not fit, or a rule does not pass on multiples of its
                operand, so that there are no coefficients.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).eval()
            >>> certificate = fxlrp.compile(model, fxlrp.presets.cplrp(0.0)).certify(torch.ones(2, 4), target=1)
            >>> certificate.is_exact
            True
            >>> [(each.location.node, each.what) for each in certificate.frozen]
            [('_1', 'the ratio of the result to the operand')]
        """
        # What a compilation does not need is imported when it is asked for.
        from fxlrp.certificate.certify import certify, question_at_ends

        if not isinstance(tolerance, int | float) or isinstance(tolerance, bool) or not tolerance >= 0:
            raise InputError(f"tolerance must be a number of at least 0, not {tolerance!r}")
        made, values = self._on_call(inputs, named)
        asked = Asked(target, seed)
        if asked.question(Question()).stacked:
            raise InputError("one explanation is certified at a time: give one target and seed")
        question = question_at_ends(made.program)
        try:
            steps = made.step_by_step(question)
        except InputError as error:
            raise InputError(
                f"{error}. For a certificate compile with rules=fxlrp.presets.cplrp(0.0), and explain logits, with "
                "output='<module>' if probabilities follow"
            ) from error
        with made.explained_failures(made.main, values):
            return certify(steps, values, asked.controls, tolerance)
