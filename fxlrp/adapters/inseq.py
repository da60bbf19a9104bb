"""LRP as an attribution method of inseq: importing this module registers the method ``"lrp"``.

``inseq.load_model(model, "lrp", tokenizer=tokenizer).attribute(texts, attributed_fn="logit")`` explains the tokens that
a language model generates.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from fxlrp.compiler import compile
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.extras import require
from fxlrp.rules.presets import Rules

require("inseq", "inseq")  # an error that names the extra

from inseq.attr.feat import FeatureAttribution  # noqa: E402
from inseq.attr.step_functions import logit_fn  # noqa: E402
from inseq.data import CoarseFeatureAttributionStepOutput  # noqa: E402

__all__ = ["LRPAttribution", "TokenRelevance"]


class TokenRelevance:
    """The relevance of the tokens of a language model, in the form of a method of captum.

    Args:
        model: A language model of transformers in eval mode, without an encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the model; it is compiled at the first call."""
        self._model = model
        self._made: list[tuple[Any, Explainer]] = []

    def attribute(self, inputs: Any, additional_forward_args: Any, rules: Rules = "attnlrp") -> Tensor:
        """Explain the logit of the next token of each sample.

        Args:
            inputs: The tokens, in a tuple.
            additional_forward_args: What inseq passes: the tokens, those that are explained, the function of the output
                that is explained, the mask of the tokens, and others.
            rules: The rules, as for :func:`fxlrp.compile`: an argument of the ``attribute`` of inseq's model.

        Returns:
            The relevance of the tokens, ``(batch, length)``.

        Raises:
            InputError: Another function than "logit" is to be explained.
        """
        (ids,) = inputs if isinstance(inputs, tuple) else (inputs,)
        _, target, explained, mask, *_ = additional_forward_args
        if explained is not logit_fn:
            raise InputError(
                f"relevance explains logits, not {getattr(explained, '__name__', explained)!r}: pass "
                "attributed_fn='logit'"
            )
        relevance = self._explainer(rules, ids, mask)(
            input_ids=ids, attention_mask=mask, target=(-1, target.reshape(len(ids)))
        )
        assert isinstance(relevance, Tensor)
        return relevance

    @staticmethod
    def has_convergence_delta() -> bool:
        """Return False."""
        return False

    def _explainer(self, rules: Rules, ids: Tensor, mask: Tensor) -> Explainer:
        for known, explain in self._made:
            if type(known) is type(rules) and known == rules:
                return explain
        explain = compile(
            self._model,
            rules,
            example_inputs={"input_ids": ids, "attention_mask": mask, "use_cache": False},
            constants=["attention_mask"],
            output="logits",
        )
        # A copy, because a list of rules may change before the next call.
        self._made.append((copy.copy(rules), explain))
        return explain


class LRPAttribution(FeatureAttribution):  # type: ignore[misc]
    """The method ``"lrp"`` of inseq: the relevance of each token for each generated token, with its sign."""

    method_name = "lrp"

    def __init__(self, attribution_model: Any, **kwargs: Any) -> None:
        """Attach the method to a model of inseq, which is not changed.

        Args:
            attribution_model: The model of inseq.
            kwargs: What inseq passes to every method.

        Raises:
            InputError: The model has an encoder.
        """
        if attribution_model is not None and attribution_model.is_encoder_decoder:
            raise InputError("the method 'lrp' explains language models without an encoder")
        super().__init__(attribution_model, **kwargs)
        self.attribute_batch_ids, self.forward_batch_embeds = True, False
        self.method = TokenRelevance(attribution_model.model)

    def attribute_step(
        self, attribute_fn_main_args: dict[str, Any], attribution_args: dict[str, Any] | None = None
    ) -> Any:
        """Explain one generated token of each sample.

        Args:
            attribute_fn_main_args: The arguments of the method that inseq makes.
            attribution_args: The arguments of the method that the user passes.

        Returns:
            A step of inseq, with the relevance of the tokens.
        """
        relevance = self.method.attribute(**attribute_fn_main_args, **(attribution_args or {}))
        return CoarseFeatureAttributionStepOutput(
            source_attributions=None, target_attributions=relevance, step_scores={}
        )
