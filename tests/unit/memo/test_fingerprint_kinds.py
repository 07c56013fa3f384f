"""Fingerprints of every kind of code that a chapter may hold."""

import pickle
from dataclasses import dataclass

import pytest
from livecode import build, print_of

from nbpkg.memo.fingerprint import fingerprint

KINDS = {
    "recursion": (
        """
        def train(n):
            return n and other(n)
        def other(n):
            return train(n - 1)
        """,
        "n - 1",
        "n - 2",
    ),
    "a lambda": (
        """
        train = lambda x: x + 1
        """,
        "x + 1",
        "x + 2",
    ),
    "the first of two lambdas": (
        """
        train, b = (lambda x: x + 1), (lambda x: x + 9)
        """,
        "x + 1",
        "x + 2",
    ),
    "the inner of two lambdas": (
        """
        train = (lambda x: lambda x: x + 1)(0)
        """,
        "x + 1",
        "x + 2",
    ),
    "a lambda in a global": (
        """
        f = {
        "g": lambda x: x + 1}
        def train():
            return f["g"](1)
        """,
        "x + 1",
        "x + 2",
    ),
    "a partial": (
        """
        import functools
        train = functools.partial(max, 1)
        """,
        "max, 1",
        "max, 2",
    ),
    "a bound method": (
        """
        class A:
            x = 1
            def f(self):
                return self.x
        train = A().f
        """,
        "x = 1",
        "x = 2",
    ),
    "an object's attribute": (
        """
        class A:
            def __init__(self):
                self.x = 1
        a = A()
        def train():
            return a.x
        """,
        "x = 1",
        "x = 2",
    ),
    "slots": (
        """
        class A:
            __slots__ = ("x",)
            def __init__(self):
                self.x = 1
        a = A()
        train = lambda: a
        """,
        "x = 1",
        "x = 2",
    ),
    "a callable object": (
        """
        class A:
            def __call__(self):
                return 1
        train = A()
        """,
        "return 1",
        "return 2",
    ),
    "an inherited method": (
        """
        class A:
            def f(self):
                return 1
        class B(A):
            pass
        def train():
            return B().f()
        """,
        "return 1",
        "return 2",
    ),
    "a metaclass": (
        """
        class M(type):
            def f(cls):
                return 1
        class A(metaclass=M):
            pass
        train = lambda: A.f()
        """,
        "return 1",
        "return 2",
    ),
    "a class method": (
        """
        class A:
            @classmethod
            def f(cls):
                return 1
        def train():
            return A.f()
        """,
        "return 1",
        "return 2",
    ),
    "a cached property": (
        """
        import functools
        class A:
            @functools.cached_property
            def f(self):
                return 1
        train = lambda: A().f
        """,
        "return 1",
        "return 2",
    ),
    "a super call": (
        """
        class A:
            def f(self):
                return 1
        class B(A):
            def f(self):
                return super().f()
        train = B().f
        """,
        "return 1",
        "return 2",
    ),
    "a decorator of one's own": (
        """
        import functools
        def twice(f):
            @functools.wraps(f)
            def g(x):
                return 2 * f(x)
            return g
        @twice
        def train(x):
            return x
        """,
        "2 * f",
        "3 * f",
    ),
    "under a decorator of one's own": (
        """
        import functools
        def twice(f):
            @functools.wraps(f)
            def g(x):
                return 2 * f(x)
            return g
        @twice
        def train(x):
            return x + 1
        """,
        "x + 1",
        "x + 2",
    ),
    "a global of an inner function": (
        """
        N = 1
        def train():
            def inner():
                return [N for _ in range(3)]
            return inner
        """,
        "N = 1",
        "N = 2",
    ),
    "an enum's value": (
        """
        import enum
        class E(enum.Enum):
            A = 1
        train = lambda: E.A
        """,
        "A = 1",
        "A = 2",
    ),
    "an enum's method": (
        """
        import enum
        class E(enum.Enum):
            A = 1
            def f(self):
                return 1
        train = lambda: E.A.f()
        """,
        "return 1",
        "return 2",
    ),
    "a named tuple's default": (
        """
        from typing import NamedTuple
        class P(NamedTuple):
            x: int = 1
        train = lambda: P()
        """,
        "= 1",
        "= 2",
    ),
    "a named tuple's method": (
        """
        from typing import NamedTuple
        class P(NamedTuple):
            x: int = 1
            def f(self):
                return 7
        train = lambda: P().f()
        """,
        "return 7",
        "return 8",
    ),
    "a tensor": (
        """
        import torch
        T = torch.arange(3)
        train = lambda: T
        """,
        "arange(3)",
        "arange(3) + 1",
    ),
    "a network's weights": (
        """
        import torch
        net = torch.nn.Linear(1, 1)
        net.weight.data.fill_(1.0)
        net.bias.data.fill_(0.0)
        train = lambda: net
        """,
        "fill_(1.0)",
        "fill_(2.0)",
    ),
    "a network's attribute": (
        """
        import torch
        class N(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.s = 1
        net = N()
        train = lambda: net
        """,
        "s = 1",
        "s = 2",
    ),
    "a pattern": (
        """
        import re
        P = re.compile('a')
        train = lambda: P
        """,
        "'a'",
        "'b'",
    ),
    "a ufunc": (
        """
        import numpy as np
        f = np.exp
        train = lambda: f(1)
        """,
        "np.exp",
        "np.log",
    ),
    "a builtin by another name": (
        """
        f = min
        train = lambda: f(1, 2)
        """,
        "f = min",
        "f = max",
    ),
    "a function of torch by another name": (
        """
        import torch
        f = torch.exp
        train = lambda: f
        """,
        "torch.exp",
        "torch.log",
    ),
    "an import inside the function": (
        """
        def train():
            from nbpkg.report.stats import spearman as f
            return f
        """,
        "spearman",
        "kendall_tau_b",
    ),
    "a set": (
        """
        S = {'a', 'b'}
        train = lambda: S
        """,
        "'b'",
        "'c'",
    ),
    "an object array": (
        """
        import numpy as np
        A = np.array([1, 'x'], dtype=object)
        train = lambda: A
        """,
        "'x'",
        "'y'",
    ),
    "a coroutine": (
        """
        async def train():
            return 1
        """,
        "return 1",
        "return 2",
    ),
    "a generator": (
        """
        def train():
            yield 1
        """,
        "yield 1",
        "yield 2",
    ),
}


@pytest.mark.parametrize("source, old, new", KINDS.values(), ids=KINDS)
def test_kinds_of_code(source, old, new):
    assert source.count(old) == 1
    assert print_of(source) == print_of(source) != print_of(source.replace(old, new))


def test_the_second_lambda_of_a_line_is_told_from_the_first():
    scope = build("a, b = (lambda x: x + 1), (lambda x: x + 9)\nc, d = (lambda x: x), (lambda x: x)\n")
    assert fingerprint(scope["a"]) != fingerprint(scope["b"])
    assert fingerprint(scope["c"]) == fingerprint(scope["d"])


def test_a_dataclass_without_methods_in_a_namespace_without_source_for_its_generated_ones():
    @dataclass(order=True)
    class Point:
        x: int = 0

    assert fingerprint(Point) == fingerprint(Point)
    assert fingerprint(Point) != fingerprint(
        dataclass(type("Point", (), {"__annotations__": {"x": int}, "x": 1}))
    )


@dataclass(frozen=True)
class Pickled:
    x: int = 0


def test_what_pickle_leaves_in_a_class_does_not_matter():
    before = fingerprint(Pickled)
    pickle.dumps(Pickled())
    assert "__slotnames__" in vars(Pickled) and fingerprint(Pickled) == before


def test_sharing_of_equal_constants_does_not_matter():
    # Compiled together, equal tuples become one object; in cells of their own they stay two.
    source = (
        "A = (1, (2, 3))\nB = {}\ndef g():\n    return f, A, B\ndef f():\n    return g, A, B\ntrain = f\n"
    )
    shared, apart = build(source), build(source)
    apart["B"] = ((2, 3), (2, 3))
    shared["B"] = (apart["B"][0],) * 2
    apart["B"] = (tuple([2, 3]), tuple([2, 3]))
    assert fingerprint(shared["train"]) == fingerprint(apart["train"])
