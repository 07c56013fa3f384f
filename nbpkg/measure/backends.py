"""Settings of the machine at hand that act as devices: how each turns a network into something to time.

One machine runs the same network in many ways: other batch sizes, number types, memory layouts, kernels,
runtimes, thread counts. Each way ranks architectures differently, which is all that latency prediction
across devices needs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nbpkg.errors import NbpkgError
from nbpkg.measure.onnx_export import onnx_bytes


@dataclass(frozen=True)
class Setting:
    """One device. Per visit to a cell, `warmup` untimed calls come before `repeats` timed ones.

    runtime: "eager" (PyTorch), "native" (PyTorch without oneDNN), "script" (TorchScript, frozen), "onnx",
    "onnx-plain" (no graph optimisation) or "onnx-int8" (ONNX Runtime, CPU). width: channels of the first
    stage; resolution: pixels a side.
    """

    name: str
    runtime: str = "eager"
    dtype: str = "float32"
    batch: int = 1
    threads: int = 1
    channels_last: bool = False
    device: str = "cpu"
    warmup: int = 1
    repeats: int = 1
    width: int = 16
    resolution: int = 32

    @property
    def words(self) -> str:
        """The device in words, for readers."""
        parts = [
            RUNTIMES.get(self.runtime, self.runtime),
            "8-bit integers" if self.runtime == "onnx-int8" else self.dtype,
            "channels last" if self.channels_last else "",
            f"{self.width} channels" if self.width != 16 else "",
            f"{self.resolution} pixels" if self.resolution != 32 else "",
            f"batch {self.batch}",
            "GPU" if self.device == "cuda" else f"{self.threads} thread{'s' * (self.threads > 1)}",
        ]
        return ", ".join(filter(None, parts))


RUNTIMES = {
    "eager": "PyTorch eager",
    "native": "PyTorch eager without oneDNN",
    "script": "TorchScript, frozen",
    "onnx": "ONNX Runtime",
    "onnx-plain": "ONNX Runtime without graph optimisation",
    "onnx-int8": "ONNX Runtime",
}
CPU_SETTINGS = (
    Setting("torch_b1", repeats=2),
    Setting("torch_b8", batch=8),
    Setting("torch_last_b1", channels_last=True, repeats=2),
    Setting("torch_last_b8", channels_last=True, batch=8),
    Setting("torch_bf16_b1", dtype="bfloat16", warmup=0),
    Setting("torch_f64_b1", dtype="float64", repeats=2),
    Setting("native_b2", runtime="native", batch=2, repeats=2),
    Setting("onnx_b1", runtime="onnx", warmup=2, repeats=4),
    Setting("onnx_b32", runtime="onnx", batch=32),
    Setting("onnx_int8_b1", runtime="onnx-int8", repeats=3),
    Setting("onnx_int8_b8", runtime="onnx-int8", batch=8),
    Setting("torch_b8_t2", batch=8, threads=2, repeats=2),
    Setting("onnx_b32_t2", runtime="onnx", batch=32, threads=2, repeats=2),
)
#: Settings that no other table holds: chapter 03 judges its methods on them.
NEW_SETTINGS = (
    Setting("torch_b64", batch=64),
    Setting("torch_w64_b1", width=64),
    Setting("torch_r96_b1", resolution=96),
    Setting("torch_last_b32", channels_last=True, batch=32),
    Setting("torch_f64_b8", dtype="float64", batch=8),
    Setting("native_b16", runtime="native", batch=16),
    Setting("script_b1", runtime="script", warmup=3, repeats=3),
    Setting("onnx_plain_b4", runtime="onnx-plain", batch=4, repeats=2),
    Setting("onnx_w64_b1", runtime="onnx", width=64, repeats=2),
    Setting("onnx_r96_b1", runtime="onnx", resolution=96, repeats=2),
    Setting("onnx_int8_w64_b1", runtime="onnx-int8", width=64, repeats=2),
    Setting("onnx_int8_b32", runtime="onnx-int8", batch=32),
    Setting("torch_w32_b2_t2", batch=2, threads=2, width=32, repeats=2),
    Setting("onnx_w64_b2_t2", runtime="onnx", batch=2, threads=2, width=64, repeats=2),
)
CUDA_SETTINGS = (
    Setting("cuda_b1", device="cuda", warmup=5, repeats=10),
    Setting("cuda_b256", device="cuda", batch=256, warmup=2, repeats=10),
    Setting("cuda_f16_b256", "eager", "float16", 256, 1, True, device="cuda", warmup=2, repeats=10),
)


def default_settings(cpus: int) -> tuple[Setting, ...]:
    """Those with no more threads than there are usable cores, and the GPU's where CUDA is available."""
    settings = tuple(s for s in CPU_SETTINGS if s.threads <= cpus)
    return settings + CUDA_SETTINGS if torch.cuda.is_available() else settings


class Runs:
    """Callables that run one network once, one for each setting; what two settings share is made once.

    network: in evaluation mode, float32, on the CPU. resolution: pixels.
    """

    def __init__(self, network: torch.nn.Module, resolution: int = 32):
        self.network = network
        self.resolution = resolution
        self._session = functools.cache(self._make_session)
        self._model = functools.cache(self._make_model)

    def __call__(self, setting: Setting) -> Callable[[], object]:
        """A callable without arguments. NbpkgError for an unknown runtime or without ONNX Runtime."""
        if setting.runtime in ("onnx", "onnx-plain", "onnx-int8"):
            session = self._session(setting.runtime, setting.threads)
            images = self.images(setting).numpy()
            return lambda: session.run(None, {"images": images})
        if setting.runtime == "script":
            return self._script(self.images(setting))
        if setting.runtime not in ("eager", "native"):
            raise NbpkgError(f"setting {setting.name}: unknown runtime {setting.runtime!r}")
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        place = (setting.device, getattr(torch, setting.dtype), layout)
        model = self._model(*place)
        images = self.images(setting).to(place[0], place[1], memory_format=layout)

        def run():
            output = model(images)
            if setting.device == "cuda":
                torch.cuda.synchronize()
            return output

        def run_native():
            with torch.backends.mkldnn.flags(enabled=False):
                return run()

        return run_native if setting.runtime == "native" else run

    def images(self, setting: Setting) -> torch.Tensor:
        """Seeded normal noise, (batch, 3, resolution, resolution) float32."""
        shape = (setting.batch, 3, self.resolution, self.resolution)
        return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))

    def _make_model(self, device: str, dtype: torch.dtype, layout: torch.memory_format) -> torch.nn.Module:
        return copy.deepcopy(self.network).to(device=device, dtype=dtype, memory_format=layout)

    def _script(self, images: torch.Tensor) -> Callable[[], object]:
        traced = torch.jit.trace(self._model("cpu", torch.float32, torch.contiguous_format), images)
        frozen = torch.jit.freeze(traced.eval())
        return lambda: frozen(images)

    def _make_session(self, runtime: str, threads: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise NbpkgError(
                f"the ONNX Runtime settings need more: pip install 'nbpkg[measure]' ({error})"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Or the waiting threads of one session keep those of the next off their cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if runtime == "onnx-plain":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        graph = onnx_bytes(self.network, self.resolution, runtime == "onnx-int8")
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
