"""What a run ran on: device, threads, memory, versions."""

import math
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbpkg
from nbpkg.errors import NbpkgError

DEVICES = ("auto", "cpu", "cuda")


def device(name: Any):
    """The torch.device of "auto" (the first GPU where there is one, else the CPU), "cpu" or "cuda", or of a
    torch.device. Raises NbpkgError for others and absent CUDA.

    Sessions and commands ask here once; what they call is given the answer.
    """
    import torch

    kind = getattr(name, "type", name)
    if kind not in DEVICES:
        raise NbpkgError(f"DEVICE {name!r} is none of {', '.join(DEVICES)}")
    available = kind != "cpu" and torch.cuda.is_available()
    if kind == "cuda" and not available:
        raise NbpkgError("DEVICE cuda: torch finds no CUDA device here; use auto or cpu")
    return torch.device("cuda", 0) if available else torch.device("cpu")


def device_name(device) -> str:
    """The kind of a torch.device with the model of the processor, such as "cpu (AMD EPYC)"."""
    if device.type == "cuda":
        import torch

        return f"cuda ({torch.cuda.get_device_name(device)})"
    name = platform.processor() or platform.machine() or "unknown"
    with suppress(OSError, TypeError):  # not Linux, or an architecture that names no model
        name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    return f"cpu ({name})"


def device_key(name: Any) -> str:
    """What results depend on of a device: "cpu" or "cuda (NAME OF CARD)".

    name: as for `device`, or a torch.device.
    """
    if str(name) == "cpu":
        return "cpu"
    found = device(name)
    return "cpu" if found.type == "cpu" else device_name(found)


def gpus() -> list[str]:
    """The cards that this process may use, by the names that `CUDA_VISIBLE_DEVICES` takes."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else list(map(str, range(count)))


def usable_cpus() -> list[int]:
    """Numbers of the processor cores that this process may use, no more than its container's quota allows."""
    whole = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return sorted(whole)[: max(1, int(min(len(whole), quota())))]


def quota(groups: Path = Path("/proc/self/cgroup"), home: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores by which control groups of either version limit this process; infinite without a limit."""
    least = math.inf
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, kinds, place = line.split(":", 2)
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if kinds else ("cpu.max",)
        folder = home / ("cpu" if kinds else "") / place.strip("/")
        for group in (folder, *folder.parents) if not kinds or "cpu" in kinds.split(",") else ():
            with suppress(OSError, ValueError):  # there is none, or it says "max"
                allowed, period = map(int, " ".join((group / name).read_text() for name in names).split())
                least = min(least, allowed / period) if allowed > 0 else least
    return least


def threads() -> int:
    """The threads of one execution: `$NBPKG_THREADS`, or 1. Raises NbpkgError for what is no such number."""
    text = os.environ.get("NBPKG_THREADS") or "1"
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise NbpkgError(f"NBPKG_THREADS={text} is not a number of threads")
    return int(text)


def peak_memory_mb() -> float:
    """The peak resident memory of this process in MB (10^6 bytes)."""
    with suppress(OSError, TypeError):
        # Linux counts this from the start of the program, whereas getrusage carries the parent's peak over.
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    import psutil

    peak = getattr(psutil.Process().memory_info(), "peak_wset", 0)  # Windows
    if not peak:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak / 1e6


def synchronise(device) -> None:
    """Waits until a GPU has done what it was given: a clock that is read before speaks of launching only."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def gpu_memory_mb(device) -> tuple[float, float]:
    """MB (10^6 bytes) of torch's tensors on a GPU: all that this process made so far, freed ones too, and the
    most at a time since `start`. Zeros on a CPU.
    """
    if device.type != "cuda":
        return 0.0, 0.0
    import torch

    made = torch.cuda.memory_stats(device).get("allocated_bytes.all.allocated", 0)
    return made / 1e6, torch.cuda.max_memory_allocated(device) / 1e6


def start(device) -> None:
    """Readies torch for a session: its threads; a device's float32, no TF32, and its peak of memory."""
    import torch

    torch.set_num_threads(threads())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def versions(device=None) -> dict[str, str]:
    """The versions of python, torch, numpy and nbpkg, and of a GPU what its multiplications round to."""
    import numpy
    import torch

    rounding = {}
    if getattr(device, "type", "cpu") == "cuda":
        tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        rounding = {"float32": "TF32" if tf32 else "whole", "bfloat16": "native" if bfloat16 else "none"}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "nbpkg": nbpkg.__version__,
        **rounding,
    }
