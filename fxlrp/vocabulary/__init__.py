"""The canonical operations: the one list that keys rules, passes and printing, with a file for each kind.

A model may write the same operation in many ways (``x + y``, ``x += y``, ``torch.add``, ``x.add_(y)``); after
normalization there is one. Names are those of ATen at the level that ``torch.export`` keeps before decomposition.
To add an operation, add a row; if its family already has rules, that is all. The row states the facts about it.
"""

from __future__ import annotations

from fxlrp.vocabulary.activations import activations
from fxlrp.vocabulary.arithmetic import arithmetic
from fxlrp.vocabulary.attention import attention
from fxlrp.vocabulary.composites import composites
from fxlrp.vocabulary.identities import checks, identities
from fxlrp.vocabulary.layouts import layouts
from fxlrp.vocabulary.linear import linear
from fxlrp.vocabulary.lookup import Spelling, Vocabulary
from fxlrp.vocabulary.no_relevance import SHAPE_ATTRIBUTES, no_relevance
from fxlrp.vocabulary.nonlinear import matrix_functions, nonlinear
from fxlrp.vocabulary.normalization import normalization
from fxlrp.vocabulary.recurrent import recurrent
from fxlrp.vocabulary.reductions import averages, max_pooling
from fxlrp.vocabulary.selections import selections
from fxlrp.vocabulary.shape import casts, copies, fills, joins, views
from fxlrp.vocabulary.transforms import transforms

__all__ = ["CANONICAL", "SHAPE_ATTRIBUTES", "Spelling", "Vocabulary"]

CANONICAL = Vocabulary(
    [
        *linear(),
        *composites(),
        *arithmetic(),
        *activations(),
        *attention(),
        *recurrent(),
        *max_pooling(),
        *averages(),
        *normalization(),
        *views(),
        *layouts(),
        *casts(),
        *copies(),
        *fills(),
        *joins(),
        *transforms(),
        *selections(),
        *nonlinear(),
        *matrix_functions(),
        *checks(),
        *identities(),
        *no_relevance(),
    ]
)
