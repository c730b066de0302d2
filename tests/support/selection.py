"""Which cases of a product of parameters are quick: enough to show each value once."""

from collections import defaultdict

import pytest

LIBRARIES = ("backend", "backend64")
"""Fixtures of array libraries; on each, every value of the other parameters is shown."""


def slow(values):
    """Values of a parameter, or of several together as tuples, that no quick case shows."""
    sets = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, marks=pytest.mark.slow) for each in sets]


def shown(item):
    """The values that a case shows, each with its library."""
    marks = item.iter_markers("parametrize")
    together = [[m.args[0]] if isinstance(m.args[0], str) else m.args[0] for m in marks]
    values = item.callspec.params
    library = tuple(id(values[name]) for name in LIBRARIES if name in values)
    others = set(values).difference(LIBRARIES, *together)
    return {
        (library, *((name, id(values[name])) for name in group))
        for group in [*together, *([name] for name in others), []]
    }


def covering(cases):
    """Few cases, chosen greedily, that show what all of them show."""
    left, chosen = {case: shown(case) for case in cases}, []
    missing = set().union(*left.values())
    while missing:
        best = max(left, key=lambda case: len(left[case] & missing))  # the first of the best
        missing -= left.pop(best)
        chosen.append(best)
    return chosen


def redundant(items):
    """Cases that show nothing which the quick ones do not."""
    products = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("slow"):
            products[item.nodeid.partition("[")[0]].append(item)
    for cases in products.values():
        if cases[0].get_closest_marker("whole") is None:
            quick = set(covering(cases))
            yield from (case for case in cases if case not in quick)
