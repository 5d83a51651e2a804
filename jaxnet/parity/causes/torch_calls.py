"""The catalogue of what ports differ in: each entry changes one call of a torch function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

Change = tuple[str, str, Callable[[], Any]]  # name, remedy, and the call's result with the change

EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)
NORMS = {f"{name.lower()}_norm": f"{name}Norm" for name in ("Layer", "RMS", "Group", "Batch")}
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "ReLU": torch.relu,
    "GELU (erf)": F.gelu,
    "GELU (tanh)": partial(F.gelu, approximate="tanh"),
    "GELU (x * sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": F.silu,
    "ELU": F.elu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
} | {f"leaky ReLU {a:g}": partial(F.leaky_relu, negative_slope=a) for a in (0.01, 0.1, 0.2)}
ACTIVATION_CALLS = "relu gelu silu elu softplus tanh sigmoid leaky_relu"
LOSSES = "cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy"
LOSSES += " binary_cross_entropy_with_logits"
WHOLE = f"{LOSSES} max_pool1d max_pool2d".split()  # Python functions that are changed themselves
REDUCTION = "size_average reduce reduction"
ARGUMENTS = {  # by name; other functions have input and other
    "layer_norm": "input normalized_shape weight bias eps",
    "rms_norm": "input normalized_shape weight eps",
    "group_norm": "input num_groups weight bias eps",
    "batch_norm": "input weight bias running_mean running_var training momentum eps cudnn_enabled",
    "leaky_relu": "input negative_slope",
    "elu": "input alpha",
    "softplus": "input beta threshold",
    "gelu": "input approximate",
    "softmax log_softmax mean sum": "input dim",
    "clamp clamp_min": "input min max",
    "masked_fill": "input mask value",
    "where": "mask value input",
    "linear": "input weight bias",
    "dropout": "input p train",
    "embedding": "weight indices padding_idx",
    "pad": "input pad mode value",
    "conv1d conv2d conv3d": "input weight bias stride padding dilation groups",
    "conv_transpose1d conv_transpose2d": "input weight bias stride padding output_padding groups",
    "max_pool1d max_pool2d": "input kernel_size stride padding dilation",
    "avg_pool1d avg_pool2d": "input kernel_size stride padding ceil_mode count_include_pad",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal scale",
    "cross_entropy": "input target weight size_average ignore_index reduce reduction "
    "label_smoothing",
    "nll_loss": "input target weight size_average ignore_index reduce reduction",
    "mse_loss l1_loss smooth_l1_loss": f"input target {REDUCTION}",
    "huber_loss": "input target reduction",
    "binary_cross_entropy": f"input target weight {REDUCTION}",
    "binary_cross_entropy_with_logits": f"input target weight {REDUCTION} pos_weight",
}
NAMES = {name: names.split() for key, names in ARGUMENTS.items() for name in key.split()}


class Call:
    """One call of a torch function: its arguments by name, and the call again with others."""

    def __init__(self, name: str, func: Callable | None, args: tuple, kwargs: dict, made: dict):
        self.name, self.func, self.args, self.kwargs, self.made = name, func, args, kwargs, made
        self.bound = dict(zip(NAMES.get(name, ("input", "other")), args, strict=False)) | kwargs
        self.result: Any = None

    def __getitem__(self, name: str) -> Any:
        return self.bound.get(name)

    def __call__(self, **changed: Any) -> Any:
        """Call the function with some arguments changed."""
        function = None if self.name in WHOLE else getattr(torch, self.name, None)
        return (function or getattr(F, self.name))(**(self.bound | changed))

    def original(self) -> Any:
        """Call the function as the reference does; one in place leaves its array alone."""
        return self.func(*self.args, **self.kwargs) if self.func else self()

    def made_by(self, value: Any, names: str) -> Call | None:
        """Return the call of one of these functions whose result a value is."""
        call = self.made.get(id(value))
        return call if call is not None and call.name in names.split() else None


Family = Callable[[Call], Iterator[Change]]
TABLE: dict[str, list[Family]] = {}


def family(names: str) -> Callable[[Family], Family]:
    """Enter a function that yields the changes of a call into the table, under these functions."""

    def enter(function):
        for name in names.split():
            TABLE.setdefault(name, []).append(function)
        return function

    return enter


@family(" ".join(NORMS))
def _norm(call):
    kind, eps, weight = NORMS[call.name], call["eps"], call["weight"]
    eps = torch.finfo(call["input"].dtype).eps if eps is None else eps
    changed = partial(_normalize, call, eps)
    remedy = f"set `nnx.{kind}(epsilon={eps:g})`: its default is not torch's"
    for value in EPSILONS:
        if not math.isclose(value, eps):
            yield f"{kind} epsilon {value:g} for {eps:g}", remedy, partial(call, eps=value)
    remedy = "divide by sqrt(variance + epsilon)"
    yield f"{kind} epsilon outside the root", remedy, partial(changed, outside=True)
    if weight is not None:
        remedy = "multiply by the scale as it is, or subtract 1 from the weights"
        yield f"{kind} scale 1 + weight", remedy, partial(call, weight=1 + weight)
    if kind == "RMSNorm":
        yield "LayerNorm for RMSNorm", "use nnx.RMSNorm", partial(changed, centred=True)
    elif kind == "LayerNorm":
        yield "RMSNorm for LayerNorm", "use nnx.LayerNorm", partial(changed, centred=False)
    if kind != "RMSNorm" and (kind != "BatchNorm" or call["training"]):
        remedy = "divide the squares by n, not n - 1"
        yield f"{kind} unbiased variance", remedy, partial(changed, unbiased=True)


def _normalize(call, eps, outside=False, unbiased=False, centred=None):
    """Return a normalisation written out; in training BatchNorm's statistics move as in torch."""
    x, shape = call["input"], (1, -1, *[1] * (call["input"].ndim - 2))
    grouped, axes = x, tuple(range(-len(call["normalized_shape"] or ()), 0))
    if call.name == "group_norm":
        grouped, axes = x.reshape(len(x), call["num_groups"], -1), (2,)
    elif call.name == "batch_norm":
        call.original()
        axes = (0, *range(2, x.ndim))
    centred = call.name != "rms_norm" if centred is None else centred
    mean = grouped.mean(axes, keepdim=True) if centred else 0
    variance = (grouped - mean).square().mean(axes, keepdim=True)
    n = grouped.numel() / variance.numel()
    variance = variance * n / (n - 1) if unbiased else variance
    if call.name == "batch_norm" and not call["training"]:
        mean, variance = (call[key].view(shape) for key in ("running_mean", "running_var"))
    root = variance.sqrt() + eps if outside else (variance + eps).sqrt()
    y = ((grouped - mean) / root).reshape(x.shape)
    for key, apply in (("weight", torch.mul), ("bias", torch.add)):
        if (p := call[key]) is not None:
            y = apply(y, p if call["normalized_shape"] else p.view(shape))
    return y


@family(f"{' '.join(NORMS)} linear conv1d conv2d conv3d softmax")
def _left_out(call):
    name = NORMS.get(call.name, call.name)
    yield f"{name} left out", f"apply {name} here", lambda: call.args[0]


@family("batch_norm")
def _statistics(call):
    mean, variance, momentum = call["running_mean"], call["running_var"], call["momentum"]
    if mean is None:
        return
    if not call["training"]:
        remedy = "use the running averages: model.eval(), or use_running_average=True"
        yield "BatchNorm in training mode", remedy, partial(call, training=True)
        return
    remedy = "use the batch's statistics: model.train(), or use_running_average=False"
    yield "BatchNorm in eval mode", remedy, partial(call, training=False)
    remedy = f"set `nnx.BatchNorm(momentum={1 - momentum:g})`: the share of the old average"
    for value in sorted({0.1, 0.01, 0.001, round(1 - momentum, 9)} - {momentum}):
        name = f"BatchNorm momentum {value:g} for {momentum:g}"
        yield name, remedy, partial(call, momentum=value)
    remedy = "keep the new statistics: the step must return them"
    unchanged = partial(call, running_mean=None, running_var=None)
    yield "BatchNorm running statistics not updated", remedy, unchanged

    def biased():
        kept, new = (1 - momentum) * variance, variance.clone()
        result, n = call(running_var=new), call["input"].numel() / len(mean)
        variance.copy_(kept + (new - kept) * (n - 1) / n)
        return result

    remedy = "torch's running variance is unbiased: multiply the new one by n / (n - 1)"
    yield "BatchNorm biased running variance", remedy, biased


@family(ACTIVATION_CALLS)
def _activation(call):
    x = call["input"]
    probe = torch.linspace(-4, 4, 33, dtype=x.dtype)
    same = [n for n, f in ACTIVATIONS.items() if torch.equal(f(probe), call(input=probe))]
    own = same[0] if same else call.name
    for name, function in ACTIVATIONS.items():
        if name != own:
            yield f"{name} for {own}", f"use {own}", partial(function, x)
    yield f"{own} left out", f"apply {own} here", lambda: x
    if added := call.made_by(x, "add"):
        for first, second in (("input", "other"), ("other", "input")):
            name = f"{own} before the addition, of its {ORDINAL[first]} operand"
            operands = partial(call, input=added[first]), added[second]
            yield name, f"apply {own} to the sum", lambda o=operands: o[0]() + o[1]


@family("relu clamp clamp_min")
def _tie(call):
    rectifies = call.name == "relu" or (call["min"] == 0 and call["max"] is None)
    remedy = "use jax.nn.relu (0 at 0); jnp.maximum has 0.5 there, jnp.where(x < 0, 0, x) 1"
    for value in (0.0, 0.5, 1.0) if rectifies else ():
        if value != float(call.name != "relu"):
            yield (
                f"ReLU derivative {value:g} at 0",
                remedy,
                partial(_Tie.apply, call["input"], value),
            )


class _Tie(torch.autograd.Function):
    """ReLU with a given derivative at 0."""

    @staticmethod
    def forward(ctx, x, at_zero):
        ctx.save_for_backward(x)
        ctx.at_zero = at_zero
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, *grads):
        (x,) = ctx.saved_tensors
        return grads[0] * torch.where(x == 0, ctx.at_zero, (x > 0).to(x.dtype)), None


@family("softmax log_softmax mean sum")
def _axis(call):
    x, dim, y = call.args[0], call["dim"], call.original()
    for axis in range(x.ndim) if isinstance(dim, int) else ():
        if axis != dim % x.ndim:
            name = f"{call.name} over axis {axis} for {dim}"
            yield name, f"set axis={dim}", partial(call, dim=axis)
    if "softmax" not in call.name:
        n = x.numel() // y.numel()
        other, factor = ("sum", n) if call.name == "mean" else ("mean", 1 / n)
        yield f"{other} for {call.name}", f"take the {call.name}", lambda: call.original() * factor


ORDINAL = {"input": "first", "other": "second"}


@family("add sub mul div matmul")
def _operands(call):
    """Yield an operand left out of an elementwise function, and one whose gradient is stopped."""
    a, b = call["input"], call["other"]
    if not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in (a, b)):
        return
    for key, kept in (("input", b), ("other", a)):
        what = f"{ORDINAL[key]} operand of {call.name}, {tuple(call[key].shape)},"
        if a.shape == b.shape and call.name in ("add", "mul"):
            yield f"{what} left out", "is a residual or a gate missing?", lambda x=kept: x
        if a.requires_grad and b.requires_grad:
            remedy = "look for stop_gradient, or a value that is computed outside the loss"
            detached = {"input": a, "other": b, key: call[key].detach()}
            yield f"{what} without gradient", remedy, partial(getattr(torch, call.name), **detached)
        if call.name == "add" and (before := call.made_by(call[key], ACTIVATION_CALLS)):
            after = lambda f=before, x=kept: f(input=f["input"] + x)  # noqa: E731
            yield f"{before.name} after the addition", f"apply {before.name} before it", after
    if call.name == "matmul" and b.shape[-1] == b.shape[-2:][0]:
        yield "product with the second operand transposed", "transpose it", lambda: a @ b.mT


@family("add sub mul div")
def _constants(call):
    x, c = call["input"], call["other"]
    if not isinstance(c, (int, float)) or isinstance(c, bool) or not x.is_floating_point():
        return
    verb = {"mul": "multiplied by", "div": "divided by", "add": "plus", "sub": "minus"}[call.name]
    remedy = f"the reference's array is {verb} {c:g} here"
    yield f"{verb} {c:g} left out", remedy, lambda: x
    if call.name in ("mul", "div"):
        yield f"{verb} {c:g} twice", remedy, partial(call, other=c * c)
    for value in EPSILONS if call.name == "add" and 0 < c <= max(EPSILONS) else ():
        if not math.isclose(value, c):
            yield f"epsilon {value:g} for {c:g}", remedy, partial(call, other=value)


@family("var std")
def _variance(call):
    x, y = call.args[0], call.original()
    n = x.numel() // y.numel()
    biased = call.kwargs.get("correction") == 0 or call.kwargs.get("unbiased") is False
    biased = biased or any(value is False for value in call.args[1:3])
    factor = (n / (n - 1) if biased else (n - 1) / n) ** (1 if call.name == "var" else 0.5)
    name, ddof = ("unbiased", 0) if biased else ("biased", 1)
    yield f"{name} {call.name}", f"set ddof={ddof}", lambda: call.original() * factor


@family("detach")
def _attached(call):
    yield "gradient through a detached array", "use jax.lax.stop_gradient", lambda: call["input"]
