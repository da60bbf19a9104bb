"""A test that runs some of its cases runs one of each value of the parameter that its marker names."""

from collections import Counter

import pytest

from sampling import kept_by_name, kept_of_each


def test_cases_of_each_value_take_turns() -> None:
    # Three values of four cases each.
    assert kept_of_each([*"aaaabbbbcccc"], 2) == [bool(int(digit)) for digit in "101001011010"]
    assert kept_of_each([*"abcabcabcabc"], 4) == [bool(int(digit)) for digit in "100010001000"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_value_is_left_out(count: int) -> None:
    values = [value for value in range(20) for _ in range(1 + value % 4)]
    cases = Counter(value for value, is_kept in zip(values, kept_of_each(values, count), strict=True) if is_kept)
    assert sorted(cases) == list(range(20))
    assert all(cases[value] <= -(-(1 + value % 4) // count) for value in range(20))


def test_a_choice_by_name_does_not_depend_on_the_order() -> None:
    names = [f"tests/a.py::test[{number}]" for number in range(300)]
    kept = dict(zip(names, kept_by_name(names, 3), strict=True))
    assert dict(zip(names[::-1], kept_by_name(names[::-1], 3), strict=True)) == kept
    assert 70 < sum(kept.values()) < 130
