"""A NAS-Bench-201 network as an ONNX graph, written node by node.

Writing the graph directly depends on no exporter, gives the batch a symbolic size and takes milliseconds a
network. Batch norms that follow a convolution are folded into its weights, as any deployment does; the last
one stays.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from nbpkg.nb201.network import OUTPUT_NODE, Cell, Network, Reduction

OPSET = 17
# A version that runtimes of recent years read, whatever the installed onnx would write by default.
IR_VERSION = 8


class GraphWriter:
    """Collects nodes and weights.

    With `int8`, every tensor passes through a quantise-dequantise pair, from which the runtime makes
    integer kernels. The scales are constants, not calibrated: outputs are coarse, and the time does not
    depend on them.
    """

    def __init__(self, int8: bool = False):
        self.int8 = int8
        self.nodes: list = []
        self.weights: list = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, stem: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = self.name(stem)
        self.weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes) -> str:
        from onnx import helper

        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def quantised(self, x: str, scale: float = 0.05, zero: int = 128) -> str:
        if not self.int8:
            return x
        pair = [self.constant("scale", np.float32(scale)), self.constant("zero", np.uint8(zero))]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *pair]), *pair])

    def relu(self, x: str) -> str:
        # With a zero point of 0 the clipping at zero is the quantisation's own.
        return self.quantised(self.node("Relu", [x]), scale=0.025, zero=0)

    def conv(self, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> str:
        weight = conv.weight.detach().double().numpy()
        bias = np.zeros(len(weight))
        if norm is not None:
            gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()
            bias = norm.bias.detach().double().numpy() - norm.running_mean.double().numpy() * gain
            weight = weight * gain[:, None, None, None]
        if self.int8:
            scale = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-12) / 127
            integers = np.round(weight / scale[:, None, None, None]).astype(np.int8)
            zero = np.zeros(len(scale), np.int8)
            pair = [self.constant("scale", scale.astype(np.float32)), self.constant("zero", zero)]
            w = self.node("DequantizeLinear", [self.constant("weight", integers), *pair], axis=0)
        else:
            w = self.constant("weight", weight.astype(np.float32))
        b = self.constant("bias", bias.astype(np.float32))
        pad = conv.padding[0]
        shape = {"kernel_shape": conv.kernel_size, "strides": conv.stride, "pads": [pad] * 4}
        return self.quantised(self.node("Conv", [x, w, b], **shape))

    def pool(self, x: str, pool: nn.AvgPool2d) -> str:
        attributes = {
            "kernel_shape": [pool.kernel_size] * 2,
            "strides": [pool.stride] * 2,
            "pads": [pool.padding] * 4,
            "count_include_pad": int(pool.padding != 0 and pool.count_include_pad),
        }
        return self.quantised(self.node("AveragePool", [x], **attributes))

    def add(self, x: str, y: str) -> str:
        return self.quantised(self.node("Add", [x, y]))

    def sequence(self, x: str, modules) -> str:
        """ReLU, pooling and convolutions (with the batch norm that follows each, if any) in order."""
        modules = list(modules)
        for position, module in enumerate(modules):
            if isinstance(module, nn.ReLU):
                x = self.relu(x)
            elif isinstance(module, nn.AvgPool2d):
                x = self.pool(x, module)
            elif isinstance(module, nn.Conv2d):
                following = modules[position + 1] if position + 1 < len(modules) else None
                x = self.conv(x, module, following if isinstance(following, nn.BatchNorm2d) else None)
            elif isinstance(module, nn.Sequential):
                x = self.sequence(x, module)
            elif not isinstance(module, (nn.BatchNorm2d, nn.Identity)):
                raise TypeError(f"no ONNX form for {type(module).__name__}")
        return x

    def zeros_like(self, x: str) -> str:
        return self.quantised(self.node("Mul", [x, self.constant("zero", np.float32(0))]))

    def cell(self, x: str, cell: Cell) -> str:
        nodes = {0: x}
        for (start, end), module in zip(cell.plan, cell.edges.values(), strict=True):
            value = self.sequence(nodes[start], [module])
            nodes[end] = self.add(nodes[end], value) if end in nodes else value
        return nodes[OUTPUT_NODE] if OUTPUT_NODE in nodes else self.zeros_like(x)

    def network(self, x: str, network: Network) -> str:
        x = self.sequence(self.quantised(x), network.stem)
        for block in network.body:
            if isinstance(block, Cell):
                x = self.cell(x, block)
            elif isinstance(block, Reduction):
                x = self.add(self.sequence(x, block.shortcut), self.sequence(x, block.body))
        norm = network.last[0]
        arrays = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        names = [self.constant("norm", a.detach().float().numpy()) for a in arrays]
        x = self.relu(self.node("BatchNormalization", [x, *names], epsilon=norm.eps))
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        linear = network.classifier
        w = self.constant("weight", linear.weight.detach().float().numpy())
        b = self.constant("bias", linear.bias.detach().float().numpy())
        return self.node("Gemm", [x, w, b], transB=1)


def onnx_bytes(network: Network, resolution: int = 32, int8: bool = False) -> bytes:
    """The serialised ONNX model of a network: evaluation mode, float32, on the CPU, no dead edges kept.

    Input "images" (batch, 3, resolution, resolution) float32, output "logits" (batch, classes). int8: with
    quantise-dequantise pairs, see `GraphWriter`. Raises ImportError without the `onnx` package, and TypeError
    for operations that have no ONNX form here.
    """
    from onnx import TensorProto, helper

    writer = GraphWriter(int8)
    writer.nodes.append(helper.make_node("Identity", [writer.network("images", network)], ["logits"]))
    shapes = {"images": [3, resolution, resolution], "logits": [network.classifier.out_features]}
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(writer.nodes, "nas_bench_201", *ends, writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()
