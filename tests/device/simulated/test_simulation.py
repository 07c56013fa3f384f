"""The simulated GPU finds mistakes about devices, and raises no false alarms."""

import warnings

import cases
import pytest
import torch


@pytest.mark.parametrize("case", cases.FAULTS.values(), ids=cases.FAULTS)
def test_a_mistake_is_found(case):
    case("cpu")  # where there is one device it is none
    # TypeError: NumPy's words for it. The match tells a device's refusal from a fault of the case itself.
    with pytest.raises((RuntimeError, TypeError), match=r"device|CUDA"):
        case("cuda")


@pytest.mark.parametrize("case", cases.RIGHT.values(), ids=cases.RIGHT)
def test_what_is_right_gives_the_numbers_of_the_cpu(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, got = case("cpu"), case("cuda")
    if want is not None:
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)
