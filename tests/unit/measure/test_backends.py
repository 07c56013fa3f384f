"""The settings that act as devices: each of them computes the network that it is given."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from nbpkg.errors import NbpkgError
from nbpkg.measure import backends
from nbpkg.measure.backends import Setting, noise, runner
from nbpkg.nb201 import space
from nbpkg.nb201.network import network


def test_settings_fit_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one, two = backends.default_settings(1), backends.default_settings(2)
    assert {s.threads for s in one} == {1} and {s.threads for s in two} == {1, 2}
    assert len({s.name for s in two}) == len({s.words for s in two}) == len(two) >= 8
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {s.device for s in backends.default_settings(2)} == {"cpu", "cuda"}


TORCH = [
    s
    for s in (*backends.CPU_SETTINGS, *backends.NEW_SETTINGS)
    if s.runtime in ("eager", "native", "script")
]


@pytest.mark.parametrize("setting", TORCH, ids=lambda s: s.name)
def test_pytorch_settings_compute_the_network(setting):
    net = network([3, 2, 4, 1, 3, 2], C=4, N=1).eval()
    with torch.inference_mode():
        output, expected = runner(net, replace(setting, resolution=8))(), net(noise(setting.batch, 8))
    assert output.dtype == getattr(torch, setting.dtype) and output.shape == (setting.batch, 10)
    assert torch.allclose(output.float(), expected, atol=0.05 if setting.dtype == "bfloat16" else 1e-5)
    assert next(net.parameters()).dtype == torch.float32


def trained_like(ops):
    net = network(ops, C=4, N=1).eval()
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return net


@pytest.mark.parametrize("ops", [*space.random(5, 9), np.zeros(6, int)], ids=lambda o: "".join(map(str, o)))
def test_the_onnx_graph_computes_the_network(ops):
    pytest.importorskip("onnx", reason="measuring needs the extra `measure`")
    pytest.importorskip("onnxruntime", reason="measuring needs the extra `measure`")
    net = trained_like(ops)
    with torch.inference_mode():
        expected = net(noise(3, 8)).numpy()
        exact = runner(net, Setting("onnx", runtime="onnx", batch=3, resolution=8))()[0]
        coarse = runner(net, Setting("int8", runtime="onnx-int8", batch=3, resolution=8))()[0]
    assert np.allclose(exact, expected, atol=1e-4)
    assert np.abs(coarse - expected).max() < 0.25 * max(1, np.abs(expected).max())


def test_the_8_bit_graph_becomes_integer_kernels(tmp_path):
    onnx = pytest.importorskip("onnx", reason="measuring needs the extra `measure`")
    ort = pytest.importorskip("onnxruntime", reason="measuring needs the extra `measure`")
    graph = backends.onnx_bytes(network([3, 2, 4, 1, 3, 2], 4, 1).eval(), 8, int8=True)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(graph, options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    convolutions = 1 + 2 * 3 + 3 * 4  # stem, reductions, cells
    assert kinds.count("QLinearConv") == convolutions and "Conv" not in kinds


def test_without_onnx_runtime_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NbpkgError, match=r"nbpkg\[measure\]"):
        runner(network([1] * 6, C=4, N=1), Setting("a", runtime="onnx"))
