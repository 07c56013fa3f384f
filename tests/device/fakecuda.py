"""A CUDA device made of host memory, for finding device faults where there is no GPU.

    import fakecuda; fakecuda.install()      # once, right after `import torch` and before any backward pass
    torch.zeros(3, device="cuda") + torch.zeros(3)      # RuntimeError, as on a GPU

`fakecuda.cpp` says how it works. It is compiled once a torch version (15 CPU seconds) and kept in the user's
cache. It only loads into a torch that was built without CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch.utils import cpp_extension

from nbpkg import paths

_HERE = Path(__file__).parent
_COMPILER = os.environ.get("CXX", "g++")
_library: ctypes.PyDLL | None = None
_scopes: list[str] = ["(outside)"]
_open: list[int] = [0]
synchronised = 0  # calls of torch.cuda.synchronize


def lacking() -> str:
    """Why the device cannot be built here; empty where it can."""
    if torch.version.cuda or torch.version.hip:
        return "this build of torch has a GPU of its own; the simulated one needs a CPU build"
    if not sys.platform.startswith("linux"):
        return "the simulated GPU is built on Linux only"
    if shutil.which(_COMPILER) is None:
        return f"the simulated GPU needs a C++ compiler, and there is no {_COMPILER}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "the simulated GPU needs the headers of Python, and there are none"
    return ""


@functools.cache
def build() -> Path:
    """The compiled device in the user's cache: made once for a torch, a Python and a `fakecuda.cpp`.

    Raises CalledProcessError with the compiler's words when it refuses.
    """
    source = _HERE / "fakecuda.cpp"
    made_of = f"{torch.__version__} {sys.version} {source.read_text(encoding='utf-8')}"
    path = paths.cache_dir() / "fakecuda" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    libraries = cpp_extension.library_paths()
    with paths.replacing(path) as temporary:
        command = [_COMPILER, "-shared", "-fPIC", "-O1", "-DNDEBUG", "-w", "-std=c++20"]
        command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        command += ["-x", "c++", str(source), "-o", str(temporary)]
        command += [f"-I{folder}" for folder in includes]
        command += [flag for folder in libraries for flag in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
        command += ["-lc10", "-ltorch_cpu", "-ltorch"]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return path


def rules() -> tuple[list[str], list[str]]:
    """From torch's own table of operations: those in which CUDA takes a CPU scalar beside its own tensors,
    and those that CUDA does not have.
    """
    import torchgen

    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text()
    lenient, absent = [], []
    for entry in re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]:
        name = "aten::" + re.match(r"[\w.]+", entry)[0]
        keys = re.findall(r"^    ([\w, ]+): \w+", entry, flags=re.MULTILINE)
        kernels = {key.strip() for line in keys for key in line.split(",")}
        if "device_check: NoCheck" in entry:
            lenient.append(name)
        if "CPU" in kernels and not any(k == "CUDA" or k.startswith("Composite") for k in kernels):
            absent.append(name)
    return lenient, absent


def installed() -> bool:
    """Whether this process has the device."""
    return _library is not None


def install() -> None:
    """Put the device in place, in this process and until its end. Twice is once.

    Raises RuntimeError where torch has CUDA.
    """
    global _library
    if _library is not None:
        return
    if torch.version.cuda or torch.cuda.is_available():
        raise RuntimeError("this torch has CUDA: the fake one has no place in it")
    path = str(build())
    torch.ops.load_library(path)
    _library = ctypes.PyDLL(path)
    _library.fakecuda_report.restype = ctypes.c_char_p
    _library.fakecuda_memory.restype = ctypes.c_int64
    for kind, names in enumerate(rules()):
        for name in names:
            _library.fakecuda_rule(name.encode(), kind)
    _library.fakecuda_tf32(int(os.environ.get("FAKECUDA_TF32") == "1"))
    _dress_up()


def _dress_up() -> None:
    """What of `torch.cuda` programs ask for, as if a card of compute capability 9.0 were there."""
    cuda = torch.cuda

    def synchronize(device=None) -> None:
        global synchronised
        synchronised += 1

    cuda._initialized = True  # no driver to look for
    cuda.default_generators = (torch.Generator("cuda"),)
    for name, value in {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_name": "simulated",
        "is_bf16_supported": True, "get_device_capability": (9, 0), "is_current_stream_capturing": False,
    }.items():  # fmt: skip
        setattr(cuda, name, lambda *_, _value=value, **__: _value)
    cuda._exchange_device = cuda._maybe_exchange_device = lambda *_: 0
    cuda.synchronize = synchronize
    cuda.empty_cache = cuda.set_device = lambda *_: None
    cuda.memory_allocated = lambda *_: _library.fakecuda_memory(0)
    cuda.max_memory_allocated = lambda *_: _library.fakecuda_memory(1)
    cuda.memory_stats = lambda *_: {"allocated_bytes.all.allocated": _library.fakecuda_memory(3)}
    cuda.reset_peak_memory_stats = lambda *_: _library.fakecuda_memory(2) and None
    cuda.manual_seed = cuda.manual_seed_all = lambda seed: (
        cuda.default_generators[0].manual_seed(seed) and None
    )
    cuda.get_rng_state = lambda *_: cuda.default_generators[0].get_state()
    cuda.set_rng_state = lambda state, *_: cuda.default_generators[0].set_state(state)

    # Storages of a device that was not compiled in cannot be made by name; through tensors they can.
    storage, move = torch.UntypedStorage, torch.UntypedStorage.to

    def tensor(self):
        return torch.empty(0, dtype=torch.uint8, device=self.device).set_(self)

    storage.clone = lambda self: tensor(self).clone().untyped_storage()
    storage.to = lambda self, *, device, non_blocking=False: (
        tensor(self).to(device).untyped_storage()
        if torch.device(device).type == "cuda"
        else move(self, device=device, non_blocking=non_blocking)
    )


# ------------------------------------------------------------------------------------------- counting


@dataclass
class Tally:
    """device_s: seconds in the kernels of the device; cpu_s: in operations on the CPU; waits: how often the
    host waited for the device. Views are operations and no kernels.
    """

    device_ops: int = 0
    kernels: int = 0
    device_s: float = 0.0
    cpu_ops: int = 0
    cpu_s: float = 0.0
    to_device: int = 0
    to_device_bytes: int = 0
    to_cpu: int = 0
    to_cpu_bytes: int = 0
    waits: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    @property
    def share(self) -> float:
        """Of the seconds in tensor operations, those on the device."""
        return self.device_s / (self.device_s + self.cpu_s) if self.device_s + self.cpu_s else 0.0


def start(folder: str | Path) -> None:
    """Count from now on, by lines of code under `folder`."""
    _library.fakecuda_start(str(folder).encode())


def stop() -> None:
    _library.fakecuda_stop()


@contextmanager
def scope(name: str) -> Iterator[None]:
    """What is counted inside goes under this name; the innermost open one counts."""
    if name not in _scopes:
        _scopes.append(name)
    _open.append(_scopes.index(name))
    _library.fakecuda_scope(_open[-1])
    try:
        yield
    finally:
        _open.pop()
        _library.fakecuda_scope(_open[-1])


def report() -> tuple[dict[tuple[str, str, str, int], Tally], dict[str, Tally]]:
    """Tallies by (scope, file, function, line), and by operation."""
    lines, ops = {}, {}
    for row in _library.fakecuda_report().decode().splitlines():
        kind, where, file, function, line, *numbers = row.split("\t")
        tally = Tally(*(float(n) if "." in n or "e" in n else int(n) for n in numbers))
        if kind == "op":
            ops[file] = tally
        else:
            key = _scopes[int(where)], file, function, int(line)
            lines[key] = lines.get(key, Tally())
            lines[key] += tally
    return lines, ops
