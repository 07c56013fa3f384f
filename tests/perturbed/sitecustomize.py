"""Put on PYTHONPATH, flips the last bit of about half of all normal draws and initial weights.

What a training draws then differs from the plain run by one rounding, as another processor's arithmetic would
make it differ. Which bits flip follows from the drawn numbers and `$NBPKG_PERTURB` (a whole number), so that
equal draws stay equal and no random stream moves on.
"""

import importlib.abc
import importlib.util
import os
import sys

SALT = int(os.environ.get("NBPKG_PERTURB", "0"))
MIX = SALT * 374_761_393 % 2**31


def flip(torch, drawn):
    """`drawn` (any shape), in place, with the last bit of about half of its numbers flipped."""
    whole = {torch.float32: torch.int32, torch.float64: torch.int64}.get(drawn.dtype)
    if whole is not None and drawn.numel():
        with torch.no_grad():
            bits = drawn.detach().view(whole)
            bits ^= ((bits ^ MIX) * 1_103_515_245 >> 16) & 1
    return drawn


def perturb(torch):
    """Wrap the functions of torch that draw initial weights and noise."""

    def wrapped(function, wanted):
        def draw(*args, **options):
            drawn = function(*args, **options)
            return flip(torch, drawn) if wanted(args, options) else drawn

        return draw

    def centred(args, options):  # what is drawn between 0 and 1 may be compared or floored: left alone
        return (args[1] if len(args) > 1 else options.get("from", 0.0)) < 0

    torch.randn = wrapped(torch.randn, lambda args, options: True)
    torch.Tensor.normal_ = wrapped(torch.Tensor.normal_, lambda args, options: True)
    torch.Tensor.uniform_ = wrapped(torch.Tensor.uniform_, centred)


class AfterTorch(importlib.abc.MetaPathFinder):
    """Finds torch as everybody does, and perturbs it once it has been imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            perturb(module)

        spec.loader.exec_module = exec_module
        return spec


if SALT:
    sys.meta_path.insert(0, AfterTorch())
