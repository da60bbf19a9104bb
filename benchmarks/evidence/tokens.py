"""Sequences of tokens, some of which decide the class by construction.

``negation`` follows the sentences by which LRP for recurrent networks was first studied (Arras et al., 2017),
``recall`` the associative recall by which induction is studied in transformers (Olsson et al., 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.evidence.samples import Samples, distinct, integers

LENGTH = 12
WORDS = 40  # what fills the sequences of the first three problems; the special tokens follow


def keyword(count: int, generator: torch.Generator) -> Samples:
    """Four classes of three words each, one of which is somewhere among words without meaning."""
    tokens = integers(0, WORDS, (count, LENGTH), generator)
    labels = integers(0, 4, (count,), generator)
    word = WORDS + 3 * labels + integers(0, 3, (count,), generator)
    place = integers(0, LENGTH, (count,), generator)[:, None]
    return Samples((tokens.scatter(1, place, word[:, None]),), labels, _masks(place, LENGTH))


def order(count: int, generator: torch.Generator) -> Samples:
    """Which of two words comes first."""
    tokens = integers(0, WORDS, (count, LENGTH), generator)
    labels = integers(0, 2, (count,), generator)
    places = distinct(LENGTH, 2, count, generator).sort(1).values
    words = torch.stack([WORDS + labels, WORDS + 1 - labels], 1)
    return Samples((tokens.scatter(1, places, words),), labels, _masks(places, LENGTH))


def negation(count: int, generator: torch.Generator) -> Samples:
    """A good or a bad word, which ``not`` directly before it turns around; ``not`` elsewhere means nothing.

    The word before decides also where it is not ``not``.
    """
    tokens = integers(0, WORDS, (count, LENGTH), generator)
    good, negated = integers(0, 2, (count,), generator), integers(0, 2, (count,), generator)
    place = integers(1, LENGTH, (count,), generator)[:, None]
    word = WORDS + 1 + 4 * good + integers(0, 4, (count,), generator)
    elsewhere = (place + integers(1, LENGTH - 1, (count, 1), generator)) % LENGTH  # never directly before the word
    tokens = tokens.scatter(1, elsewhere, WORDS).scatter(1, place, word[:, None])
    before = torch.where(negated.bool(), WORDS, integers(0, WORDS, (count,), generator))[:, None]
    tokens = tokens.scatter(1, place - 1, before)
    return Samples((tokens,), good ^ negated, _masks(torch.cat([place - 1, place], 1), LENGTH))


KEYS, VALUES, PAIRS = 6, 4, 3


def recall(count: int, generator: torch.Generator) -> Samples:
    """Pairs of a key and a value, then one of the keys again: which value followed it?

    The last key, the same key in its pair, and the value that follows decide.
    """
    keys = distinct(KEYS, PAIRS, count, generator)
    values = integers(0, VALUES, (count, PAIRS), generator)
    asked = integers(0, PAIRS, (count, 1), generator)
    pairs = torch.stack([keys, KEYS + values], -1).flatten(1)
    tokens = torch.cat([pairs, keys.gather(1, asked)], 1)
    places = torch.cat([2 * asked, 2 * asked + 1, torch.full_like(asked, 2 * PAIRS)], 1)
    return Samples((tokens,), values.gather(1, asked)[:, 0], _masks(places, 2 * PAIRS + 1))


def _masks(places: Tensor, length: int) -> Tensor:
    return torch.zeros(len(places), length, dtype=torch.bool).scatter(1, places, True)
