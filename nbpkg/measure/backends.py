"""Settings of the machine at hand that act as devices: how each turns a network into something to time.

One machine runs the same network in many ways: other batch sizes, number types, memory layouts, kernels,
runtimes, thread counts. Each way ranks architectures differently, which is all that latency prediction
across devices needs.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nbpkg.errors import NbpkgError


@dataclass(frozen=True)
class Setting:
    """One device. repeats: timed calls of a network in a row.

    runtime: "eager" (PyTorch), "native" (PyTorch without oneDNN), "script" (TorchScript, frozen), "onnx",
    "onnx-plain" (no graph optimisation) or "onnx-int8" (ONNX Runtime, CPU). width: channels of the first
    stage; resolution: pixels a side. keep_dead: edges that lead nowhere are part of the network.
    """

    name: str
    runtime: str = "eager"
    dtype: str = "float32"
    batch: int = 1
    threads: int = 1
    channels_last: bool = False
    device: str = "cpu"
    repeats: int = 1
    width: int = 16
    resolution: int = 32
    keep_dead: bool = False

    @property
    def words(self) -> str:
        """The device in words, for readers."""
        parts = [
            RUNTIMES[self.runtime],
            "8-bit integers" if self.runtime == "onnx-int8" else self.dtype,
            "channels last" if self.channels_last else "",
            f"{self.width} channels" if self.width != 16 else "",
            f"{self.resolution} pixels" if self.resolution != 32 else "",
            "all edges" if self.keep_dead else "",
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
_GROUPS = tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))
CPU_SETTINGS, NEW_SETTINGS, CUDA_SETTINGS = (
    tuple(Setting(name, **entry) for name, entry in group.items()) for group in _GROUPS.values()
)


def default_settings(cpus: int) -> tuple[Setting, ...]:
    """Those with no more threads than there are usable cores, and the GPU's where CUDA is available."""
    settings = tuple(s for s in CPU_SETTINGS if s.threads <= cpus)
    return settings + CUDA_SETTINGS if torch.cuda.is_available() else settings


def runner(network: nn.Module, setting: Setting) -> Callable[[], object]:
    """A callable without arguments that runs a network once, on a batch of noise.

    network: of the setting's width, in evaluation mode, float32, on the CPU; it stays as it is. Raises
    NbpkgError for the settings of ONNX Runtime where that is not installed.
    """
    images = noise(setting.batch, setting.resolution)
    if setting.runtime.startswith("onnx"):
        session, inputs = _session(network, setting), {"images": images.numpy()}
        return lambda: session.run(None, inputs)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    place = {"device": setting.device, "dtype": getattr(torch, setting.dtype), "memory_format": layout}
    model, images = copy.deepcopy(network).to(**place), images.to(**place)
    if setting.runtime == "script":
        model = torch.jit.freeze(torch.jit.trace(model, images).eval())

    def run_native():
        with torch.backends.mkldnn.flags(enabled=False):
            return model(images)

    return run_native if setting.runtime == "native" else lambda: model(images)


def noise(batch: int, resolution: int) -> Tensor:
    """Seeded normal noise, (batch, 3, resolution, resolution) float32."""
    shape = (batch, 3, resolution, resolution)
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


def _session(network: nn.Module, setting: Setting):
    """The network in ONNX Runtime."""
    try:
        import onnx  # noqa: F401, what torch writes the graph with
        import onnxruntime
    except ImportError as error:
        raise NbpkgError(f"ONNX Runtime settings need more: pip install 'nbpkg[measure]' ({error})") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Or the waiting threads of one session keep those of the next off their cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if setting.runtime == "onnx-plain":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = onnx_bytes(network, setting.resolution, setting.runtime == "onnx-int8")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@functools.lru_cache(maxsize=2)  # several settings of one network follow each other
def onnx_bytes(network: nn.Module, resolution: int, int8: bool = False) -> bytes:
    """The network as an ONNX file: "images" (batch, 3, resolution, resolution) float32 to logits."""
    images, batch = noise(8, resolution), {"images": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        # The newer exporter needs further packages and takes seconds a network.
        torch.onnx.export(network, (images,), path, dynamo=False, input_names=["images"], dynamic_axes=batch)
        if int8:
            _quantise(path, images)
        return path.read_bytes()


def _quantise(path: Path, images: Tensor) -> None:
    """Make the network in an ONNX file one of 8-bit integers, calibrated on `images`."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(quantization.CalibrationDataReader):
        batches = iter([{"images": images.numpy()}])

        def get_next(self) -> dict | None:
            return next(self.batches, None)

    quant_pre_process(path, path, skip_symbolic_shape=True)
    # Signed activations would leave some convolutions without an integer kernel.
    unsigned = quantization.QuantType.QUInt8
    quantization.quantize_static(path, path, Calibration(), activation_type=unsigned)
