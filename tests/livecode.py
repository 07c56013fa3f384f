"""Modules made of text, for the tests of fingerprints."""

import linecache
import textwrap
import types
from itertools import count

from nbpkg.memo.fingerprint import fingerprint

_NUMBERS = count()

# A method as a chapter might have it; train reaches all of it but what is called unrelated.
BASE = '''
import functools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from nbpkg.report import stats

RATE = 0.1
TABLE = {"a": [1, 2], "b": (3.0, None)}
WEIGHTS = np.arange(4.0)
unrelated_constant = 1


def unrelated(x):
    return x + 1


def deep_helper(x):
    return x * 2


def helper(x):
    """A helper."""
    return deep_helper(x) + TABLE["a"][0]


@dataclass
class Config:
    width: int = 8
    names: list = field(default_factory=list)

    def size(self):
        return self.width * math.pi


class Net(torch.nn.Module):
    """A network."""

    depth = 3

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    @property
    def double(self):
        return self.depth * 2

    @staticmethod
    def fixed():
        return 5

    def forward(self, x):
        return helper(self.layer(x))


def make_loss(power):
    def loss(x):
        return x ** power

    return loss


loss = make_loss(2)


@functools.lru_cache(maxsize=None)
def cached(n):
    return n + 1


@torch.no_grad()
def evaluate(net, x):
    return net(x)


def train(seed, steps=3, *, rate=RATE):
    """Trains.

    At length.
    """
    # a comment
    config = Config()
    net = Net()
    return [loss(step) * cached(step) for step in range(steps)], WEIGHTS, evaluate, stats.spearman
'''


def build(source: str, name: str = "__main__", registered: bool = True) -> dict:
    """The globals of `source` executed as a module; linecache knows its text, as in `nbpkg.chapters.load`."""
    source = textwrap.dedent(source)
    filename = f"<chapter {next(_NUMBERS)}>"
    if registered:
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(name)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module.__dict__


def print_of(source: str, name: str = "__main__") -> str:
    """The fingerprint of what `source` calls `train`."""
    return fingerprint(build(source, name)["train"])
