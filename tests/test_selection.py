"""Which cases of a product are quick: together they show every value on every library."""

from itertools import product
from types import SimpleNamespace

import pytest

from tests.support.selection import redundant, shown, slow

VALUES = {"backend": ("numpy", "torch"), "kind": ("relu", "pe", "siren"), "depth": (1, 3)}


class Item:
    """As much of a test's case as the choice looks at."""

    def __init__(self, name, params, marks=()):
        self.nodeid, self.callspec = f"{name}[{params}]", SimpleNamespace(params=params)
        self.marks = list(marks)

    def iter_markers(self, name):
        return (mark for mark in self.marks if mark.name == name)

    def get_closest_marker(self, name):
        return next(self.iter_markers(name), None)


def cases(*marks, name="test"):
    params = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
    return [Item(name, each, marks) for each in params]


def test_the_quick_cases_show_all_that_all_show():
    items = cases()
    left_out = list(redundant(items))
    quick = [item for item in items if item not in left_out]
    assert len(quick) == 2 * 3
    assert set().union(*map(shown, quick)) == set().union(*map(shown, items))
    found = {(i.callspec.params["backend"], i.callspec.params["depth"]) for i in quick}
    assert found == set(product(VALUES["backend"], VALUES["depth"]))


def test_values_given_together_are_one():
    pairs = pytest.mark.parametrize(("kind", "depth"), []).mark
    assert list(redundant(cases(pairs))) == []


def test_each_test_has_quick_cases_of_its_own():
    items = cases(name="one") + cases(name="other")
    assert len(list(redundant(items))) == 2 * len(list(redundant(cases())))


def test_what_is_whole_or_slow_already_is_left_alone():
    for mark in (pytest.mark.whole.mark, pytest.mark.slow.mark):
        assert list(redundant(cases(mark))) == []


def test_slow_values():
    one, pair = slow(["a", (1, 2)])
    assert (one.values, pair.values) == (("a",), (1, 2))
    assert [mark.name for mark in one.marks] == ["slow"]
