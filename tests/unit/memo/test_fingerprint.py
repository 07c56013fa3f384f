"""Fingerprints: what changes them, what does not, and that they agree wherever the code lives."""

import importlib
import types

import numpy as np
import pytest
import torch
from livecode import BASE, build, print_of

from nbpkg.errors import NbpkgError
from nbpkg.memo.fingerprint import content_hash, fingerprint

SAME = {
    "a comment": ("    # a comment\n", "    # another\n\n"),
    "a docstring": ("    At length.\n", "    Differently.\n"),
    "no docstring": ('    """A helper."""\n', ""),
    "a class docstring": ('    """A network."""\n\n', ""),
    "formatting": ("config = Config()", "config = ( Config(\n    ) )"),
    "quotes": ('TABLE["a"]', "TABLE['a']"),
    "an unrelated function": ("return x + 1", "return x + 2"),
    "an unrelated constant": ("unrelated_constant = 1", "unrelated_constant = 2"),
    "a new function": ("def unrelated(x):", "def newcomer():\n    pass\n\n\ndef unrelated(x):"),
    "how a constant is written": ("RATE = 0.1", "RATE = 1 / 10"),
}
DIFFERENT = {
    "the body": ("for step in range(steps)]", "for step in range(steps + 1)]"),
    "a default": ("steps=3", "steps=4"),
    "a constant in a default": ("RATE = 0.1", "RATE = 0.2"),
    "the type of a constant": ("RATE = 0.1", "RATE = '0.1'"),
    "a constant in a nested list": ("[1, 2]", "[1, 3]"),
    "a list for a tuple": ("(3.0, None)", "[3.0, None]"),
    "an array": ("np.arange(4.0)", "np.arange(4.0) + 1"),
    "an array's dtype": ("np.arange(4.0)", "np.arange(4)"),
    "a helper of a helper": ("return x * 2", "return x * 3"),
    "a method": ("self.layer(x)", "-self.layer(x)"),
    "a class constant": ("depth = 3", "depth = 4"),
    "a property": ("self.depth * 2", "self.depth * 3"),
    "a static method": ("return 5", "return 6"),
    "__init__": ("Linear(2, 2)", "Linear(2, 3)"),
    "a base class": ("class Net(torch.nn.Module)", "class Net(torch.nn.Identity)"),
    "a field's default": ("width: int = 8", "width: int = 9"),
    "a field's factory": ("default_factory=list", "default_factory=dict"),
    "a new field": ("width: int = 8", "width: int = 8\n    height: int = 8"),
    "a dataclass's method": ("math.pi", "math.e"),
    "a dataclass's options": ("@dataclass\n", "@dataclass(frozen=True)\n"),
    "a closure cell": ("make_loss(2)", "make_loss(3)"),
    "the function around a closure cell": ("return x ** power", "return power ** x"),
    "behind lru_cache": ("return n + 1", "return n + 2"),
    "behind a decorator of torch": ("return net(x)", "return net(-x)"),
    "a decorator": ("@torch.no_grad()\ndef", "def"),
    "another function of nbpkg": ("stats.spearman", "stats.kendall_tau_b"),
    "another package's function": ("math.pi", "torch.pi"),
}


@pytest.mark.parametrize("old, new", SAME.values(), ids=SAME)
def test_what_does_not_matter_keeps_it(old, new):
    assert old in BASE
    assert print_of(BASE.replace(old, new)) == print_of(BASE)


@pytest.mark.parametrize("old, new", DIFFERENT.values(), ids=DIFFERENT)
def test_what_matters_changes_it(old, new):
    assert old in BASE
    assert print_of(BASE.replace(old, new)) != print_of(BASE)


def test_module_names_and_repetition_do_not_matter():
    assert print_of(BASE) == print_of(BASE, "nbpkg_chapter_03_help")
    scope = build(BASE)
    before = fingerprint(scope["train"])
    (
        scope["cached"](3),
        scope["Net"](),
        scope["loss"](2),
        scope["train"](0),
    )  # running it changes nothing either
    assert fingerprint(scope["train"]) == before


# ------------------------------------------------------------------ code of nbpkg


def test_code_of_nbpkg_counts_however_it_is_reached(monkeypatch):
    ways = {
        "module": "from nbpkg.report import stats\ndef train(x):\n    return stats.spearman(x, x)\n",
        "package": "import nbpkg.report.stats\ndef train(x):\n    return nbpkg.report.stats.spearman(x, x)\n",
        "name": "from nbpkg.report.stats import spearman\ndef train(x):\n    return spearman(x, x)\n",
        "inside": "def train(x):\n    from nbpkg.report import stats\n    return stats.spearman(x, x)\n",
        "inside, dotted": "def train(x):\n    import nbpkg.report.stats as s\n    return s.spearman(x, x)\n",
        "as a value": (
            "from nbpkg.report import stats\ndef train(x):\n    return getattr(stats, 'spearman')(x, x)\n"
        ),
    }
    scopes = {way: build(source) for way, source in ways.items()}
    before = {way: fingerprint(scope["train"]) for way, scope in scopes.items()}
    from nbpkg.report import stats

    # rankdata is two calls away from what the chapters above name
    monkeypatch.setattr(stats, "rankdata", build("def rankdata(x):\n    return -x\n")["rankdata"])
    for way, scope in scopes.items():
        assert fingerprint(scope["train"]) != before[way], way
    monkeypatch.undo()
    monkeypatch.setattr(stats, "kendall_tau_b", int)  # which only other functions of the module use
    for way, scope in scopes.items():
        assert (fingerprint(scope["train"]) == before[way]) == (way != "as a value"), way


def test_a_module_of_nbpkg_as_a_value_counts_as_a_whole():
    scope = build("from nbpkg.report import stats\ndef train():\n    return stats\n")
    before = fingerprint(scope["train"])
    scope["stats"].kendall_tau_b.__defaults__ = (1,)
    try:
        assert fingerprint(scope["train"]) != before
    finally:
        scope["stats"].kendall_tau_b.__defaults__ = None
    assert fingerprint(scope["train"]) == before


def test_caches_of_nbpkg_are_not_constants():
    source = """
        LIMITS = {"a": 1}
        _seen = {}
        _last = None

        def remember(x):
            global _last
            _last = x
            _seen[x] = LIMITS["a"]
            return _seen
    """
    scope = build(source, "nbpkg.invented")
    before = fingerprint(scope["remember"])
    scope["remember"](3)
    assert fingerprint(scope["remember"]) == before
    scope["LIMITS"]["a"] = 2
    assert fingerprint(scope["remember"]) != before
    # In a chapter there are no such exceptions: its globals are what its method is made of.
    scope = build(source)
    before = fingerprint(scope["remember"])
    scope["remember"](3)
    assert fingerprint(scope["remember"]) != before


def test_sessions_are_ignored():
    from nbpkg.session import Session

    scope = build("def train():\n    return s.profile\n")
    scope["s"] = Session("03_help", device="cpu")
    before = fingerprint(scope["train"])
    scope["s"].metric("x", 1.0)
    assert fingerprint(scope["train"]) == before
    with pytest.raises(NbpkgError, match="session"):
        content_hash({"s": scope["s"]})


def test_the_versions_of_torch_and_numpy_count_and_no_others(monkeypatch):
    import scipy

    used = {
        name: build(f"import {name}\ndef train():\n    return {name}.float32\n")
        for name in ("torch", "numpy")
    }
    used["scipy"] = build("import scipy\ndef train():\n    return scipy.stats\n")
    before = {name: fingerprint(scope["train"]) for name, scope in used.items()}
    for name, package in (("torch", torch), ("numpy", np), ("scipy", scipy)):
        monkeypatch.setattr(package, "__version__", "99.0")
        assert (fingerprint(used[name]["train"]) != before[name]) == (name != "scipy")


REACHABLE = (
    "chapters.catalogue data data.read data.store nb201.space paths report.first_edition report.looks "
    "report.plots report.record report.stats report.verdicts"
)


@pytest.mark.parametrize("name", REACHABLE.split())
def test_whatever_a_chapter_may_use_of_the_package_has_a_fingerprint(name):
    module = importlib.import_module(f"nbpkg.{name}")
    own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    code = [value for value in own if isinstance(value, (types.FunctionType, type))]
    prints = {fingerprint(value) for value in code}
    assert len(prints) == len(code) > 1


def test_an_import_that_cannot_be_had_does_not_stop_the_fingerprint():
    source = """
        def train():
            from nbpkg.nowhere import nothing
            from nbpkg.report.stats import neither
            return nothing, neither
    """
    assert print_of(source) == print_of(source)
