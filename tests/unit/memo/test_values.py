"""Hashes of configurations by content."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from nbpkg.errors import NbpkgError
from nbpkg.memo.fingerprint import content_hash


@dataclass
class Size:
    width: int
    rates: tuple = (0.1,)


VALUES = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    -1,
    0.1,
    "1",
    "",
    b"1",
    1j,
    [1],
    (1,),
    {1},
    {"a": 1},
    {"a": 2},
    {"b": 1},
    [],
    {},
    [[]],
    [1, [2]],
    [[1], 2],
    float("nan"),
    float("inf"),
    "a\0b",
    ["a", "b"],
    ["ab"],
    range(3),
    Size(1),
    Size(2),
    Size(1, (0.2,)),
    np.arange(3),
    np.arange(3.0),
    np.arange(3).astype("int32"),
    np.arange(4).reshape(2, 2),
    np.arange(4).reshape(4, 1),
    np.array(["a"]),
    torch.arange(3),
    torch.arange(3.0),
    torch.arange(3.0).bfloat16(),
    torch.zeros(0),
    torch.zeros(0, 1),
    torch.device("cpu"),
    torch.float32,
    np.dtype("f4"),
    Size,
    print,
    sum,
]


def test_different_values_have_different_hashes_and_equal_ones_the_same():
    hashes = [content_hash(value) for value in VALUES]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [content_hash(value) for value in VALUES]


@pytest.mark.parametrize(
    "a, b",
    [
        (np.float64(0.1), 0.1),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(6)[::2], np.array([0, 2, 4])),
        (torch.arange(6).reshape(2, 3).T.contiguous(), torch.arange(6).reshape(2, 3).T),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        (Size(1), Size(1)),
    ],
)
def test_how_a_value_is_kept_does_not_matter(a, b):
    assert content_hash(a) == content_hash(b)


@pytest.mark.parametrize("value", [object(), torch.Generator(), np.random.default_rng(0), open, iter([1])])
def test_what_has_no_content_is_refused_unless_it_is_code(value):
    if value is open:
        assert content_hash(value) == content_hash(open)
    else:
        with pytest.raises(NbpkgError, match="no hash by content") as error:
            content_hash({"x": [value]})
        assert "\n" not in str(error.value)


def test_a_value_that_holds_itself_ends():
    loop = [1]
    loop.append(loop)
    other = [2]
    other.append(other)
    assert content_hash(loop) != content_hash(other)
