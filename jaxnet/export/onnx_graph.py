"""A network with its encoding as an ONNX graph, written by hand (extra `onnx`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import checker, helper, numpy_helper

OPSET, IR_VERSION = 13, 8  # old enough for every runtime in use, new enough for every node below


class Graph:
    """Nodes and constants as they are added; `add` returns the name of a node's output."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str | np.ndarray, output: str = "", **attributes) -> str:
        """Add a node; an array among its inputs becomes a constant."""
        names = [self.constant(i) if isinstance(i, np.ndarray) else i for i in inputs]
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def relu(graph: Graph, h: str, dtype: np.dtype) -> str:
    return graph.add("Relu", h)


def tanh(graph: Graph, h: str, dtype: np.dtype) -> str:
    return graph.add("Tanh", h)


def gelu(graph: Graph, h: str, dtype: np.dtype) -> str:
    # Erf in float32, also for float64: onnxruntime has no other
    scaled = graph.add("Mul", h, np.asarray(math.sqrt(0.5), dtype))
    single = graph.add("Cast", scaled, to=onnx.TensorProto.FLOAT)
    erf = graph.add("Cast", graph.add("Erf", single), to=_type(dtype))
    half = graph.add("Mul", h, np.asarray(0.5, dtype))
    return graph.add("Mul", half, graph.add("Add", erf, np.asarray(1, dtype)))


def silu(graph: Graph, h: str, dtype: np.dtype) -> str:
    return graph.add("Mul", h, graph.add("Sigmoid", h))


ACTIVATIONS: dict[str, Callable[[Graph, str, np.dtype], str]] = {
    "relu": relu,
    "my_relu": relu,  # they differ in the derivative only
    "tanh": tanh,
    "gelu": gelu,
    "silu": silu,
}


def build(
    *,
    numbers: tuple[np.ndarray, np.ndarray],
    codes: tuple[np.ndarray, np.ndarray],
    members: Sequence[Sequence[tuple[np.ndarray, np.ndarray | None]]],
    activation: str,
    output: tuple[np.ndarray, np.ndarray] | None,
) -> bytes:
    """The ONNX file of a network on `numbers` (N, n), standardised, beside `codes`, one-hot.

    numbers: mean and std (n,). codes: for each one-hot input, its column of `codes` and the code
    that sets it. members: the layers of each network of an ensemble, weight (in, out) and bias,
    whose probabilities or predictions are averaged. output: mean and std (D_out,) of `prediction`
    (N, D_out); without them, `probabilities` (N, D_out). All floats have the dtype of the weights.
    """
    graph, inputs, dtype = Graph(), [], members[0][0][0].dtype
    x = _encode(graph, inputs, numbers, codes, dtype)
    found = [_forward(graph, x, layers, activation) for layers in members]
    last = "probabilities" if output is None else ""
    if output is None:
        named = last if len(members) == 1 else ""
        found = [graph.add("Softmax", h, output=named, axis=1) for h in found]
    name = graph.add("Mean", *found, output=last) if len(members) > 1 else found[0]
    if output is not None:
        name = graph.add("Add", graph.add("Mul", name, output[1]), output[0], output="prediction")
    width = members[0][-1][0].shape[1]
    outputs = [helper.make_tensor_value_info(name, _type(dtype), ["N", width])]
    proto = helper.make_graph(graph.nodes, "jaxnet", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        proto, producer_name="jaxnet", opset_imports=opsets, ir_version=IR_VERSION
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _forward(graph: Graph, h: str, layers: Sequence, activation: str) -> str:
    """Add a network on h; return the name of its outputs."""
    for k, (w, b) in enumerate(layers):
        if k:
            h = ACTIVATIONS[activation](graph, h, w.dtype)
        h = graph.add("MatMul", h, w)
        h = h if b is None else graph.add("Add", h, b)
    return h


def _encode(
    graph: Graph,
    inputs: list[onnx.ValueInfoProto],
    numbers: tuple[np.ndarray, np.ndarray],
    codes: tuple[np.ndarray, np.ndarray],
    dtype: np.dtype,
) -> str:
    """Add the graph's inputs to `inputs`; return the name of x, which they become (`build`)."""
    parts = []
    mean, std = numbers
    if len(mean):
        inputs.append(helper.make_tensor_value_info("numbers", _type(dtype), ["N", len(mean)]))
        parts.append(graph.add("Div", graph.add("Sub", "numbers", mean), std))
    column, code = codes
    if len(column):
        shape = ["N", int(column.max()) + 1]
        inputs.append(helper.make_tensor_value_info("codes", onnx.TensorProto.INT32, shape))
        chosen = graph.add("Gather", "codes", column.astype(np.int64), axis=1)
        equal = graph.add("Equal", chosen, code.astype(np.int32))
        parts.append(graph.add("Cast", equal, to=_type(dtype)))
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _type(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
