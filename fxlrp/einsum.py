"""The equations of :func:`torch.einsum`."""

from __future__ import annotations


def subscripts(equation: str) -> tuple[list[str], str]:
    """The indices of each operand and of the result."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = "..." * ("..." in left) + "".join(sorted(each for each in set(letters) if letters.count(each) == 1))
    return left.split(","), output


def repeated(indices: str) -> str | None:
    """The first index that an operand has twice, which takes a diagonal; None if it has none."""
    return next((each for each in indices if each != "." and indices.count(each) > 1), None)


def axis(indices: str, letter: str) -> int:
    """The first dimension of an operand that has an index: from the end if it is behind an ellipsis."""
    before, ellipsis, behind = indices.partition("...")
    if letter in before or not ellipsis:
        return before.index(letter)
    return behind.index(letter) - len(behind)
