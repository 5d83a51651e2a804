"""The catalogue of what ports differ in: each entry changes one call of a torch function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

Change = tuple[str, str, Callable[[], Any]]  # name, remedy, and the call's result with the change

WHOLE = {  # Python functions that are changed themselves; of the others, the functions they call
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "max_pool1d", "max_pool2d"),
}
NORMS = {
    "layer_norm": "LayerNorm",
    "rms_norm": "RMSNorm",
    "group_norm": "GroupNorm",
    "batch_norm": "BatchNorm",
}
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)
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
    "leaky ReLU 0.01": partial(F.leaky_relu, negative_slope=0.01),
    "leaky ReLU 0.1": partial(F.leaky_relu, negative_slope=0.1),
    "leaky ReLU 0.2": partial(F.leaky_relu, negative_slope=0.2),
}
ACTIVATION_CALLS = "relu gelu silu elu softplus tanh sigmoid leaky_relu"
ARGUMENTS = {  # by name; other functions have input and other
    "layer_norm": "input normalized_shape weight bias eps",
    "rms_norm": "input normalized_shape weight eps",
    "group_norm": "input num_groups weight bias eps",
    "batch_norm": "input weight bias running_mean running_var training momentum eps cudnn_enabled",
    "leaky_relu": "input negative_slope",
    "gelu": "input approximate",
    "softmax log_softmax mean sum glu": "input dim",
    "clamp clamp_min": "input min max",
    "masked_fill": "input mask value",
    "where": "mask value input",
    "chunk split": "input size dim",
    "cat": "tensors dim",
    "linear": "input weight bias",
    "dropout": "input p train",
    "embedding": "weight indices padding_idx",
    "pad": "input pad mode value",
    "conv1d conv2d conv3d": "input weight bias stride padding dilation groups",
    "conv_transpose1d conv_transpose2d": "input weight bias stride padding output_padding groups "
    "dilation",
    "max_pool1d max_pool2d": "input kernel_size stride padding dilation",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal scale",
    "cross_entropy nll_loss": "input target weight size_average ignore_index reduce reduction "
    "label_smoothing",
    "mse_loss l1_loss smooth_l1_loss": "input target size_average reduce reduction",
    "huber_loss": "input target reduction",
    "binary_cross_entropy binary_cross_entropy_with_logits": "input target weight size_average "
    "reduce reduction pos_weight",
}
NAMES = {name: names.split() for key, names in ARGUMENTS.items() for name in key.split()}


class Call:
    """One call of a torch function: its arguments by name, and the call again with others."""

    def __init__(
        self, name: str, func: Callable | None, args: tuple, kwargs: dict, made: dict[int, Call]
    ):
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

    def made_by(self, value: Any, names: Iterable[str]) -> Call | None:
        """Return the call of one of these functions whose result a value is."""
        call = self.made.get(id(value))
        return call if call is not None and call.name in names else None


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
    kind, eps = NORMS[call.name], call["eps"]
    eps = torch.finfo(call["input"].dtype).eps if eps is None else eps
    changed = partial(_normalize, call, eps)
    for value in EPSILONS:
        if not math.isclose(value, eps):
            remedy = f"set `nnx.{kind}(epsilon={eps:g})`: its default is not torch's"
            yield f"{kind} epsilon {value:g} for {eps:g}", remedy, partial(call, eps=value)
    remedy = "divide by sqrt(variance + epsilon)"
    yield f"{kind} epsilon outside the root", remedy, partial(changed, outside=True)
    if call["weight"] is not None:
        remedy = "multiply by the scale as it is, or subtract 1 from the weights"
        yield f"{kind} scale 1 + weight", remedy, partial(call, weight=1 + call["weight"])
    if kind == "RMSNorm":
        remedy = "do not subtract the mean: use nnx.RMSNorm"
        yield "LayerNorm for RMSNorm", remedy, partial(changed, centred=True)
    elif kind != "BatchNorm" or call["training"]:
        remedy = "divide the squares by n, not n - 1"
        yield f"{kind} unbiased variance", remedy, partial(changed, unbiased=True)
    if kind == "LayerNorm":
        remedy = "subtract the mean: use nnx.LayerNorm"
        yield "RMSNorm for LayerNorm", remedy, partial(changed, centred=False)
        if len(call["normalized_shape"]) > 1:
            remedy = "set reduction_axes to all axes of torch's normalized_shape"
            yield "LayerNorm over the last axis only", remedy, partial(changed, axes=(-1,))


def _normalize(call, eps, outside=False, unbiased=False, centred=None, axes=None):
    """Return a normalisation written out; in training BatchNorm's statistics move as in torch."""
    x, channels = call["input"], (1, -1, *[1] * (call["input"].ndim - 2))
    axes = axes or tuple(range(-len(call["normalized_shape"] or ()), 0))
    if call.name == "batch_norm":
        call.original()
        axes = (0, *range(2, x.ndim))
    grouped = x
    if call.name == "group_norm":
        grouped, axes = x.reshape(len(x), call["num_groups"], -1), (2,)
    centred = call.name != "rms_norm" if centred is None else centred
    mean = grouped.mean(axes, keepdim=True) if centred else 0
    variance = (grouped - mean).square().mean(axes, keepdim=True)
    if unbiased:
        n = grouped.numel() / variance.numel()
        variance = variance * n / (n - 1)
    if call.name == "batch_norm" and not call["training"]:
        mean, variance = (call[key].view(channels) for key in ("running_mean", "running_var"))
    root = variance.sqrt() + eps if outside else (variance + eps).sqrt()
    y = ((grouped - mean) / root).reshape(x.shape)
    for key, apply in (("weight", torch.mul), ("bias", torch.add)):
        if (p := call[key]) is not None:
            y = apply(y, p.view(channels) if call.name in ("group_norm", "batch_norm") else p)
    return y


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
        kept = (1 - momentum) * variance
        result, n = call(), call["input"].numel() / len(mean)
        with torch.no_grad():
            variance.copy_(kept + (variance - kept) * (n - 1) / n)
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
    if (added := call.made_by(x, ["add"])) and _are_arrays(added):
        remedy = f"apply {own} to the sum"
        for key, other in (("input", "other"), ("other", "input")):
            name = f"{own} before the addition, of its {ORDINAL[key]} operand"
            yield name, remedy, lambda k=key, o=other: call(input=added[k]) + added[o]


@family("relu clamp clamp_min")
def _tie(call):
    rectifies = call.name == "relu" or (call["min"] == 0 and call["max"] is None)
    for value in (0.0, 0.5, 1.0) if rectifies else ():
        if value != float(call.name != "relu"):
            remedy = "use jax.nn.relu (0 at 0); jnp.maximum has 0.5 there, jnp.where(x < 0, 0, x) 1"
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


@family("softmax log_softmax")
def _softmax(call):
    x, dim = call["input"], call["dim"] % call["input"].ndim
    for axis in range(x.ndim):
        if axis != dim and x.shape[axis] > 1:
            name = f"{call.name} over axis {axis} for {dim}"
            yield name, f"set axis={dim - x.ndim}", partial(call, dim=axis)


ORDINAL = {"input": "first", "other": "second"}


def _are_arrays(call: Call) -> bool:
    a, b = call["input"], call["other"]
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return tensors and a.is_floating_point() and b.is_floating_point()


@family("add sub mul div matmul bmm")
def _operands(call):
    """Yield an operand left out of an elementwise function, and one whose gradient is stopped."""
    if not _are_arrays(call):
        return
    a, b = call["input"], call["other"]
    for key, kept in (("input", b), ("other", a)):
        what = f"{call.name}'s {ORDINAL[key]} operand, {[*call[key].shape]},"
        if a.shape == b.shape and call.name in ("add", "mul"):
            yield f"{what} left out", "is a residual or a gate missing?", lambda x=kept: x
        if a.requires_grad and b.requires_grad:
            remedy = "look for stop_gradient, or a value that is computed outside the loss"
            yield f"{what} without gradient", remedy, partial(call, **{key: call[key].detach()})
    if call.name == "add":
        for key, other in (("input", b), ("other", a)):
            if before := call.made_by(call[key], ACTIVATION_CALLS.split()):
                remedy = f"apply {before.name} before the addition"
                yield f"{before.name} after the addition", remedy, partial(_after, before, other)
    elif call.name in ("matmul", "bmm") and b.shape[-1] == b.shape[-2]:
        yield "product with the second operand transposed", "transpose it", lambda: a @ b.mT


def _after(activation: Call, other: Any) -> Any:
    return activation(input=activation["input"] + other)


@family("add sub mul div")
def _constants(call):
    x, c = call["input"], call["other"]
    if not isinstance(c, (int, float)) or isinstance(c, bool) or not x.is_floating_point():
        return
    verb = {"mul": "multiplied by", "div": "divided by", "add": "plus", "sub": "minus"}[call.name]
    yield f"{verb} {c:g} left out", f"the reference's array is {verb} {c:g} here", lambda: x
    if call.name in ("mul", "div"):
        remedy = f"the reference's array is {verb} {c:g}"
        yield f"{verb} {c * c:g} for {c:g}", remedy, partial(call, other=c * c)
    elif 0 < c <= max(EPSILONS):
        for value in EPSILONS:
            if not math.isclose(value, c):
                yield f"epsilon {value:g} for {c:g}", f"add {c:g}", partial(call, other=value)
