"""A NAS-Bench-201 network as an ONNX graph, written node by node.

Writing the graph directly depends on no exporter, gives the batch a symbolic size and takes milliseconds a
network. Batch norms that follow a convolution are folded into its weights, as any deployment does; the last
one stays.
"""

from __future__ import annotations

import functools

import numpy as np
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nbpkg.nb201.network import OUTPUT_NODE, Cell, Network, Reduction

OPSET = 17
# A version that runtimes of recent years read, whatever the installed onnx would write by default.
IR_VERSION = 8


class GraphWriter:
    """Collects nodes and weights; the methods add to a graph and return the name of the new tensor.

    With `int8`, every tensor passes through a quantise-dequantise pair, from which the runtime makes
    integer kernels. The scales are constants, not calibrated: outputs are coarse, and the time does not
    depend on them.
    """

    def __init__(self, int8: bool = False):
        import onnx

        self.onnx, self.int8 = onnx, int8
        self.nodes: list = []
        self.weights: list = []

    def constant(self, value) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def quantised(self, x: str, scale: float = 0.05, zero: int = 128) -> str:
        if not self.int8:
            return x
        pair = self.constant(np.float32(scale)), self.constant(np.uint8(zero))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *pair), *pair)

    def add(self, x: str, y: str) -> str:
        return self.quantised(self.node("Add", x, y))

    def conv(self, x: str, conv: nn.Conv2d) -> str:
        weight = conv.weight.detach().numpy()
        bias = np.zeros(len(weight), np.float32) if conv.bias is None else conv.bias.detach().numpy()
        if self.int8:
            scale = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-12) / 127
            integers = np.round(weight / scale[:, None, None, None]).astype(np.int8)
            parts = integers, scale.astype(np.float32), np.zeros(len(scale), np.int8)
            w = self.node("DequantizeLinear", *map(self.constant, parts), axis=0)
        else:
            w = self.constant(weight)
        shape = {"kernel_shape": conv.kernel_size, "strides": conv.stride, "pads": conv.padding * 2}
        return self.quantised(self.node("Conv", x, w, self.constant(bias), **shape))

    def pool(self, x: str, pool: nn.AvgPool2d) -> str:
        attributes = {
            "kernel_shape": [pool.kernel_size] * 2,
            "strides": [pool.stride] * 2,
            "pads": [pool.padding] * 4,
            "count_include_pad": int(pool.padding != 0 and pool.count_include_pad),
        }
        return self.quantised(self.node("AveragePool", x, **attributes))

    def norm(self, x: str, norm: nn.BatchNorm2d) -> str:
        arrays = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        names = [self.constant(array.detach().numpy()) for array in arrays]
        return self.node("BatchNormalization", x, *names, epsilon=norm.eps)

    def cell(self, x: str, cell: Cell) -> str:
        nodes = {0: x}
        for (start, end), module in zip(cell.plan, cell.edges.values(), strict=True):
            value = self.apply(nodes[start], module)
            nodes[end] = self.add(nodes[end], value) if end in nodes else value
        if OUTPUT_NODE not in nodes:
            return self.quantised(self.node("Mul", x, self.constant(np.float32(0))))
        return nodes[OUTPUT_NODE]

    def apply(self, x: str, module: nn.Module) -> str:
        """Any module that a network holds before its linear layer."""
        if isinstance(module, nn.ReLU):
            # With a zero point of 0 the clipping at zero is the quantisation's own.
            return self.quantised(self.node("Relu", x), scale=0.025, zero=0)
        if isinstance(module, nn.Sequential):
            return functools.reduce(self.apply, _fused(module), x)
        if isinstance(module, Reduction):
            return self.add(self.apply(x, module.shortcut), self.apply(x, module.body))
        if isinstance(module, nn.Identity):
            return x
        writers = {Cell: self.cell, nn.Conv2d: self.conv, nn.AvgPool2d: self.pool, nn.BatchNorm2d: self.norm}
        if type(module) not in writers:
            raise TypeError(f"no ONNX form for {type(module).__name__}")
        return writers[type(module)](x, module)


def _fused(modules: nn.Sequential) -> list[nn.Module]:
    """The modules, each batch norm that follows a convolution folded into it."""
    found: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.BatchNorm2d) and found and isinstance(found[-1], nn.Conv2d):
            found[-1] = fuse_conv_bn_eval(found[-1], module)
        else:
            found.append(module)
    return found


def onnx_bytes(network: Network, resolution: int = 32, int8: bool = False) -> bytes:
    """The serialised ONNX model of a network: evaluation mode, float32, on the CPU, no dead edges kept.

    Input "images" (batch, 3, resolution, resolution) float32, output "logits" (batch, classes). int8: with
    quantise-dequantise pairs, see `GraphWriter`. Raises ImportError without the `onnx` package, and TypeError
    for operations that have no ONNX form here.
    """
    from onnx import TensorProto, helper

    writer, linear = GraphWriter(int8), network.classifier
    x = writer.apply(writer.quantised("images"), nn.Sequential(network.stem, *network.body, network.last))
    x = writer.node("Flatten", writer.node("GlobalAveragePool", x))
    weights = [writer.constant(array.detach().numpy()) for array in (linear.weight, linear.bias)]
    x = writer.node("Gemm", x, *weights, transB=1)
    writer.nodes.append(helper.make_node("Identity", [x], ["logits"]))
    shapes = {"images": [3, resolution, resolution], "logits": [linear.out_features]}
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(writer.nodes, "nas_bench_201", *ends, writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()
