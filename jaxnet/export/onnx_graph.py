"""A network with its encoding as an ONNX graph, written by hand (extra `onnx`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import checker, helper, numpy_helper

from jaxnet.export.description import Inputs

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
    inputs: Inputs,
    *,
    members: Sequence[Sequence[tuple[np.ndarray, np.ndarray | None]]],
    activation: str,
    output: tuple[np.ndarray, np.ndarray] | None,
) -> bytes:
    """The ONNX file of a network on `numbers` (N, n) and `codes` (N, m), encoded as `inputs` says.

    members: the layers of each network of an ensemble, weight (in, out) and bias, whose
    probabilities or predictions are averaged. output: mean and std (D_out,) of `prediction`
    (N, D_out); without them, `probabilities` (N, D_out). All floats have the dtype of the weights.
    """
    graph, given, dtype = Graph(), [], members[0][0][0].dtype
    x = _encode(graph, given, inputs)
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
    proto = helper.make_graph(graph.nodes, "jaxnet", given, outputs, graph.constants)
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


def _encode(graph: Graph, given: list[onnx.ValueInfoProto], inputs: Inputs) -> str:
    """Add the graph's inputs to `given`; return the name of x, which they become (`Inputs`)."""
    dtype, parts = inputs.mean.dtype, []
    if len(inputs.mean):
        shape = ["N", len(inputs.mean)]
        given.append(helper.make_tensor_value_info("numbers", _type(dtype), shape))
        absent = graph.add("IsNaN", "numbers")
        numbers = graph.add("Where", absent, inputs.fill, "numbers")
        parts.append(graph.add("Div", graph.add("Sub", numbers, inputs.mean), inputs.std))
        if len(inputs.binned):
            binned = graph.add("Gather", numbers, inputs.binned, axis=1)
            above = graph.add("Sub", binned, inputs.lower)
            share = graph.add("Div", above, inputs.upper - inputs.lower)
            parts.append(graph.add("Clip", share, np.zeros((), dtype), np.ones((), dtype)))
        if len(inputs.turned):
            turned = graph.add("Gather", numbers, inputs.turned, axis=1)
            rest = graph.add("Mod", turned, inputs.period, fmod=1)
            angle = graph.add("Mul", rest, 2 * math.pi * inputs.times / inputs.period)
            quarter = np.asarray(math.pi / 2, dtype)  # some runtimes have no cosine of doubles
            parts.append(graph.add("Sin", angle))
            parts.append(graph.add("Sin", graph.add("Add", angle, quarter)))
        if len(inputs.missing):
            missing = graph.add("Gather", absent, inputs.missing, axis=1)
            parts.append(graph.add("Cast", missing, to=_type(dtype)))
    if len(inputs.column):
        shape = ["N", int(inputs.column.max()) + 1]
        given.append(helper.make_tensor_value_info("codes", onnx.TensorProto.INT32, shape))
        chosen = graph.add("Gather", "codes", inputs.column.astype(np.int64), axis=1)
        equal = graph.add("Equal", chosen, inputs.code)
        parts.append(graph.add("Cast", equal, to=_type(dtype)))
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _type(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
