"""A planted bug is found at its layer, forward or backward; in a right port all are equal."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from located import (
    KERNEL,
    Part,
    conv,
    flax_run,
    jax_run,
    linear,
    marks,
    norm,
    torch_params,
    torch_run,
)
from torch import nn

from jaxnet.parity.layers import in_jax
from jaxnet.parity.layers.calls import tap
from jaxnet.parity.layers.locate import locate
from jaxnet.parity.layers.located import OUTSIDE

ROWS, TIME, WIDTH, HIDDEN = 4, 5, 6, 7
DOUBLE = jnp.float64
EXACT_GELU = functools.partial(nnx.gelu, approximate=False)


def batch_of(x_shape, y_shape, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal(x_shape), "y": rng.standard_normal(y_shape)}


def torch_loss(module, batch):
    return (module(batch["x"]) - batch["y"]).square().sum()


def flax_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).sum()


@functools.cache
def reference(make):
    """A torch module in float64."""
    torch.manual_seed(0)
    return make().double()


def check_port(make_torch, make_flax, layout, batch, loss=flax_loss):
    module = reference(make_torch)
    run = flax_run(make_flax, loss, layout, torch_params(module), batch)
    return locate(torch_run(module, torch_loss, batch)({}), run)


# ---- blocks with a residual ----------------------------------------------------------------------


class TorchBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class TorchBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(TorchBlock() for _ in range(3))
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean(1))


class Block(nnx.Module):
    def __init__(self, rngs, linear=nnx.Linear, epsilon=1e-5, residual=lambda x: x):
        self.norm = nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs)
        self.up = linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.residual = residual

    def __call__(self, x):
        return self.residual(x) + self.down(EXACT_GELU(self.up(self.norm(x))))


class Blocks(nnx.Module):
    def __init__(self, rngs, **bug):
        self.blocks = nnx.List([Block(rngs, **(bug if i == 1 else {})) for i in range(3)])
        self.last = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean(1))


BLOCKS_LAYOUT = linear("last", "last")
for k in range(3):
    BLOCKS_LAYOUT |= norm(f"blocks/{k}/norm", f"blocks.{k}.norm")
    BLOCKS_LAYOUT |= linear(f"blocks/{k}/up", f"blocks.{k}.mlp.0")
    BLOCKS_LAYOUT |= linear(f"blocks/{k}/down", f"blocks.{k}.mlp.2")
BLOCKS_BATCH = batch_of((ROWS, TIME, WIDTH), (ROWS, 3))


class Stopped(nnx.Linear):
    def __call__(self, x):
        half = x / 2
        return super().__call__(jax.lax.stop_gradient(half) + half)


class StoppedBias(nnx.Linear):
    def __call__(self, x):
        assert self.bias is not None
        return x @ self.kernel[...] + jax.lax.stop_gradient(self.bias[...])


class WrongBackward(nnx.Linear):
    def __call__(self, x):
        return wrong_backward(super().__call__(x))


@jax.custom_vjp
def wrong_backward(x):
    return x


wrong_backward.defvjp(lambda x: (x, None), lambda _, grad: (1.001 * grad,))


def check_blocks(**bug):
    batch = BLOCKS_BATCH
    return check_port(TorchBlocks, lambda rngs: Blocks(rngs, **bug), BLOCKS_LAYOUT, batch)


def test_every_layer_of_a_right_port_is_equal():
    found = check_blocks()
    assert found.layer == ""
    assert marks(found) == {"=": [mark.layer for mark in found.marks]}
    assert len(found.marks) == 14
    assert not found.notes


@pytest.mark.parametrize(
    ("bug", "layer", "direction", "text"),
    [
        ({"epsilon": 1e-6}, "blocks/1/norm", "forward", "its inputs are equal, its output is"),
        ({"residual": lambda x: 0 * x}, "blocks/1", "forward", "its inputs and its layers are"),
        ({"residual": jax.lax.stop_gradient}, "blocks/1", "backward", "its input's is 9.6e-01 off"),
        ({"linear": Stopped}, "blocks/1/up", "backward", "its input's is 5.0e-01 off"),
        (
            {"linear": StoppedBias},
            "blocks/1/up",
            "backward",
            "blocks.1.mlp.0.bias is 1.0e+00 off",
        ),
        ({"linear": WrongBackward}, "blocks/1/up", "backward", "1.0e-03 off"),
    ],
)
def test_a_bug_in_one_of_three_blocks_is_found_in_that_layer_alone(bug, layer, direction, text):
    found = check_blocks(**bug)
    assert (found.layer, found.direction) == (layer, direction)
    assert text in found.text
    assert set(marks(found)) == {"=", f"x {direction}"}
    assert marks(found)[f"x {direction}"] == [layer]
    other = layer.replace("/", ".").replace(".up", ".mlp.0")
    where = f"layer: {layer} ({other} in the reference), {direction}"
    assert found.headline() == f"{where}: {found.text}"


class InSingle(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x).astype(jnp.float32).astype(DOUBLE)


def test_rounding_to_float32_is_named_and_hides_no_bug():
    found = check_blocks(linear=InSingle)
    assert found.layer == "blocks/1/up"
    assert "as rounding to float32 is" in found.text
    found = check_blocks(linear=InSingle, residual=lambda x: x * 1.001)
    assert (found.layer, found.direction) == ("blocks/1", "forward")
    assert set(marks(found)["x forward"]) == {"blocks/1", "blocks/1/up"}


def test_bfloat16_is_found_in_a_float32_run_with_its_noise():
    module, inputs = reference(TorchBlocks), {k: np.float32(v) for k, v in BLOCKS_BATCH.items()}
    single = copy.deepcopy(module).float()
    module = copy.deepcopy(single).double()
    recorded = torch_run(module, torch_loss, {k: np.float64(v) for k, v in inputs.items()})({})
    noise = torch_run(single, torch_loss, inputs)({})
    bfloat16 = functools.partial(nnx.Linear, dtype=jnp.bfloat16)
    for bug, layer in (({}, ""), ({"linear": bfloat16}, "blocks/1/up")):
        make = functools.partial(Blocks, **bug)
        run = flax_run(make, flax_loss, BLOCKS_LAYOUT, torch_params(single), inputs)
        found = locate(recorded, run, noise=noise)
        assert found.layer == layer
        assert [m.layer for m in found.marks if m.mark != "="] == [layer] * bool(layer)


def test_a_wrong_pair_of_layers_makes_no_bug_equal():
    params = torch_params(reference(TorchBlocks))
    recorded = torch_run(reference(TorchBlocks), torch_loss, BLOCKS_BATCH)({})
    run = flax_run(
        lambda rngs: Blocks(rngs, epsilon=1e-6), flax_loss, BLOCKS_LAYOUT, params, BLOCKS_BATCH
    )
    names = [f"blocks.{k}.norm" for k in range(3)]
    for wrong in [*names, "blocks.1.mlp.2", "blocks.1.mlp.0", "blocks.1", "last"]:
        assert locate(recorded, run, layers={"blocks/1/norm": wrong}).layer
    swapped = locate(recorded, run, layers={"blocks/0/norm": names[2], "blocks/2/norm": names[0]})
    assert swapped.layer == "blocks/0"  # before its norm: the input is not that of the third


def test_layers_that_are_not_called_cannot_be_paired():
    recorded = torch_run(reference(TorchBlocks), torch_loss, BLOCKS_BATCH)({})
    for wrong in ({"blocks/9": "blocks.1"}, {"blocks.1": "blocks.9"}):
        with pytest.raises(ValueError, match=r"`layers` must name layers that are called: .*9'$"):
            locate(recorded, lambda locks: recorded, layers=wrong)


def test_the_loss_function_is_no_layer():
    def mean(module, batch):
        return flax_loss(module, batch) / ROWS

    def stopped(module, batch):
        y_pred = module(batch["x"])
        residual = jax.lax.stop_gradient(y_pred / 2) + y_pred / 2 - batch["y"]
        return jnp.square(residual).sum()

    for loss, direction in ((mean, "forward"), (stopped, "backward")):
        found = check_port(TorchBlocks, Blocks, BLOCKS_LAYOUT, BLOCKS_BATCH, loss)
        assert (found.layer, found.direction) == (OUTSIDE, direction)
        assert set(marks(found)) == {"="}


# ---- images --------------------------------------------------------------------------------------


class TorchImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(3 * 3 * 4, 5)

    def forward(self, x):
        return self.last(self.relu(self.norm(self.conv(x))).flatten(1))


def as_torch(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def as_they_are(images):
    return images.reshape(len(images), -1)


class Images(nnx.Module):
    def __init__(self, rngs, padding=((1, 1), (1, 1)), flatten=as_torch, variance=1.0):
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.norm = nnx.BatchNorm(3, epsilon=1e-5 * variance, rngs=rngs)
        self.last = nnx.Linear(36, 5, rngs=rngs)
        self.flatten = flatten

    def __call__(self, x):
        h = self.norm(self.conv(x.transpose(0, 2, 3, 1)))
        return self.last(self.flatten(nnx.relu(h)))


IMAGES_LAYOUT = conv("conv", "conv") | norm("norm", "norm") | linear("last", "last")
ROWS_IN_NHWC = {"last/kernel": Part("last.weight", (2, 3, 1, 0), (36, 5), split=(5, 3, 3, 4))}
IMAGES_BATCH = batch_of((ROWS, 2, 6, 8), (ROWS, 5))


@pytest.mark.parametrize(
    ("bug", "layout", "layer", "text"),
    [
        ({}, {}, "", "equal"),
        ({"flatten": as_they_are}, ROWS_IN_NHWC, "", "equal"),
        ({"padding": "SAME"}, {}, "conv", "its inputs are equal"),  # (0, 1) where the stride is 2
        ({"variance": 35 / 36}, {}, "norm", "its inputs are equal"),
        ({"flatten": as_they_are}, {}, "the model", "input of last has the reference's numbers in"),
    ],
)
def test_images_have_other_axes_in_torch(bug, layout, layer, text):
    layout = IMAGES_LAYOUT | layout
    found = check_port(TorchImages, lambda rngs: Images(rngs, **bug), layout, IMAGES_BATCH)
    assert found.layer == layer
    assert text in found.text
    assert {mark.layer for mark in found.marks} == {"the model", "conv", "norm", "last"}
    equal = {"the model", "conv", "norm", "last"} - {layer, "last" if "last" in text else layer}
    assert set(marks(found)["="]) >= equal - {"the model"}


# ---- recurrent -----------------------------------------------------------------------------------


class TorchLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, HIDDEN)
        bias = self.lstm.get_parameter("bias_ih_l0")
        bias.requires_grad_(False).zero_()  # Flax has one bias
        self.last = nn.Linear(HIDDEN, 3)

    def forward(self, x):
        hidden, _ = self.lstm(x.transpose(0, 1))  # time comes first
        return self.last(hidden[-1])


class LSTM(nnx.Module):
    def __init__(self, rngs, gate=nnx.sigmoid):
        cell = nnx.LSTMCell(WIDTH, HIDDEN, gate_fn=gate, param_dtype=DOUBLE, rngs=rngs)
        self.lstm = nnx.RNN(cell, rngs=rngs)
        self.last = nnx.Linear(HIDDEN, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.lstm(x)[:, -1])


def lstm_layout(gates):
    layout = linear("last", "last")
    for i, gate in enumerate(gates):
        rows = slice(i * HIDDEN, (i + 1) * HIDDEN)
        cell = "lstm/cell/"
        layout[f"{cell}i{gate}/kernel"] = Part("lstm.weight_ih_l0", KERNEL, rows=rows)
        layout[f"{cell}h{gate}/kernel"] = Part("lstm.weight_hh_l0", KERNEL, rows=rows)
        layout[f"{cell}h{gate}/bias"] = Part("lstm.bias_hh_l0", rows=rows)
    return {name.replace("if/", "if_/"): part for name, part in layout.items()}


@pytest.mark.parametrize(
    ("gates", "bug", "layer"),
    [("ifgo", {}, ""), ("igfo", {}, "lstm"), ("ifgo", {"gate": nnx.hard_sigmoid}, "lstm")],
)
def test_a_recurrent_layer_is_one_layer(gates, bug, layer):
    batch = batch_of((ROWS, TIME, WIDTH), (ROWS, 3))
    found = check_port(TorchLSTM, lambda rngs: LSTM(rngs, **bug), lstm_layout(gates), batch)
    assert found.layer == layer
    assert [mark.layer for mark in found.marks] == ["the model", "lstm", "last"]
    assert len(marks(found)["="]) == 3 - len({layer} - {""})


# ---- attention, with an embedding that is used twice ---------------------------------------------

HEADS, WORDS = 2, 9


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x, mask):
        heads = [f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        return self.o(mixed.transpose(1, 2).flatten(2))


class TorchLanguage(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(WORDS, WIDTH), TorchAttention()
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        mask = torch.full((TIME, TIME), -torch.inf, dtype=x.dtype).triu(1)
        x = self.drop(self.mix(x, mask=mask))
        return self.head(self.mix(x, mask=mask))


class Attention(nnx.Module):
    def __init__(self, rngs, shape=(HEADS, WIDTH // HEADS), scale=1.0):
        linear = functools.partial(nnx.Linear, WIDTH, WIDTH, rngs=rngs)
        self.q, self.k, self.v, self.o = linear(), linear(), linear(), linear()
        self.shape, self.scale = shape, scale

    def __call__(self, x, mask):
        q, k, v = (f(x).reshape(*x.shape[:2], *self.shape) for f in (self.q, self.k, self.v))
        if self.shape[1] == HEADS:  # interleaved
            q, k, v = (jnp.moveaxis(a, -1, -2) for a in (q, k, v))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) * (q.shape[-1] ** -0.5 * self.scale)
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        return self.o(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))


class Language(nnx.Module):
    def __init__(self, rngs, between=lambda x: x, ids=lambda ids: ids, dtype=DOUBLE, **bug):
        self.embed = nnx.Embed(WORDS, WIDTH, param_dtype=dtype, rngs=rngs)
        self.mix = Attention(rngs, **bug)
        self.drop = nnx.Dropout(0.0, rngs=rngs)
        self.between, self.ids = between, ids

    def __call__(self, ids):
        mask = jnp.tri(TIME, dtype=bool)
        x = self.drop(self.mix(self.embed(self.ids(ids)), mask))
        return self.embed.attend(self.mix(self.between(x), mask))


LANGUAGE_LAYOUT = {"embed/embedding": Part("embed.weight")}
for k in "qkvo":
    LANGUAGE_LAYOUT |= linear(f"mix/{k}", f"mix.{k}")


def check_language(**bug):
    ids = np.random.default_rng(0).integers(0, WORDS, (ROWS, TIME))
    batch = {"x": ids, "y": np.random.default_rng(1).standard_normal((ROWS, TIME, WORDS))}
    return check_port(TorchLanguage, lambda rngs: Language(rngs, **bug), LANGUAGE_LAYOUT, batch)


def test_attention_with_tied_weights_is_equal_though_a_key_has_no_true_gradient():
    found = check_language()
    assert found.layer == ""
    assert marks(found) == {"=": [mark.layer for mark in found.marks]}
    assert {m.layer: m.reference for m in found.marks}["mix/q#2"] == "mix.q#2"
    assert "drop" in marks(found)["="]


@pytest.mark.parametrize(
    ("bug", "layer", "text"),
    [
        ({"scale": 1.01}, "mix", "what comes before mix/o"),
        ({"shape": (WIDTH // HEADS, HEADS)}, "mix", "what comes before mix/o"),
        ({"between": lambda x: 1.01 * x}, "the model", "what comes before mix#2"),
        ({"ids": lambda ids: (ids + 1) % WORDS}, "the model", "what comes before embed"),
    ],
)
def test_the_code_between_layers_is_that_of_the_layer_around_them(bug, layer, text):
    found = check_language(**bug)
    assert (found.layer, found.direction) == (layer, "forward")
    assert text in found.text
    assert set(marks(found)["x forward"]) == {layer} | ({"mix#2"} if layer == "mix" else set())


def test_gradients_that_are_rounding_only_need_the_noise_of_the_reference():
    module, again = copy.deepcopy(reference(TorchLanguage)), copy.deepcopy(reference(TorchLanguage))
    with torch.no_grad():
        for p, q in zip(module.parameters(), again.parameters(), strict=True):
            p.mul_(4)  # the softmax saturates
            q.copy_(p * (1 + 2**-52))
    ids = np.random.default_rng(0).integers(0, WORDS, (ROWS, TIME))
    batch = {"x": ids, "y": np.random.default_rng(1).standard_normal((ROWS, TIME, WORDS))}
    recorded, noise = (torch_run(m, torch_loss, batch)({}) for m in (module, again))
    run = flax_run(Language, flax_loss, LANGUAGE_LAYOUT, torch_params(module), batch)
    assert locate(recorded, run, noise=noise).layer == ""


def test_outputs_in_another_order_are_named_where_the_order_does_harm():
    order = [2, 0, 1, 5, 3, 4]
    params = torch_params(reference(TorchLanguage))
    batch = {"x": np.arange(20).reshape(ROWS, TIME) % WORDS, "y": np.ones((ROWS, TIME, WORDS))}
    recorded = torch_run(reference(TorchLanguage), torch_loss, batch)({})
    for names, layer in (("qk", ""), ("q", "mix/q"), ("v", "mix/v")):
        layout = dict(LANGUAGE_LAYOUT)
        moved = dict(params)
        for name in names:  # within each head of q and k alike it is the same function
            for leaf in ("weight", "bias"):
                moved[f"mix.{name}.{leaf}"] = params[f"mix.{name}.{leaf}"][order]
        run = flax_run(Language, flax_loss, layout, moved, batch)

        def ordered(locks, run=run, names=names):
            found = run(locks)
            grads = dict(found.grads)
            for leaf in [f"mix.{name}.{kind}" for name in names for kind in ("weight", "bias")]:
                if leaf in grads:
                    grads[leaf] = grads[leaf][np.argsort(order)]
            return found._replace(grads=grads)

        found = locate(recorded, ordered)
        assert found.layer == layer
        assert "order" in found.text or not layer


# ---- functions with taps, and torch as the candidate ---------------------------------------------


class TorchTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(WIDTH, HIDDEN), nn.LayerNorm(HIDDEN)
        self.last = nn.Linear(HIDDEN, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


TWO_LAYOUT = {
    "w1": Part("first.weight", KERNEL),
    "b1": Part("first.bias"),
    "scale": Part("norm.weight"),
    "shift": Part("norm.bias"),
    "w2": Part("last.weight", KERNEL),
    "b2": Part("last.bias"),
}
TWO_BATCH = batch_of((ROWS, WIDTH), (ROWS, 3))


def two(params, batch, epsilon=1e-5, before_last=lambda h: h):
    h = tap("first", batch["x"] @ params["w1"] + params["b1"])
    centred = h - h.mean(-1, keepdims=True)
    h = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    h = tap("norm", h * params["scale"] + params["shift"])
    y_pred = tap("last", before_last(jnp.tanh(h)) @ params["w2"] + params["b2"])
    return jnp.square(y_pred - batch["y"]).sum()


@pytest.mark.parametrize(
    ("bug", "layer", "direction"),
    [
        ({}, "", ""),
        ({"epsilon": 1e-6}, "norm", "forward"),
        ({"before_last": lambda h: 1.001 * h}, "last", "forward"),
        ({"before_last": lambda h: h / 2 + jax.lax.stop_gradient(h / 2)}, "last", "backward"),
    ],
)
def test_a_function_with_taps_has_layers(bug, layer, direction):
    params = torch_params(reference(TorchTwo))
    recorded = torch_run(reference(TorchTwo), torch_loss, TWO_BATCH)({})
    run = jax_run(functools.partial(two, **bug), TWO_LAYOUT, params, TWO_BATCH)
    found = locate(recorded, run)
    assert (found.layer, found.direction) == (layer, direction)
    assert [mark.layer for mark in found.marks] == ["first", "norm", "last"]
    assert len(marks(found)["="]) == 3 - len({layer} - {""})


@pytest.mark.parametrize(("epsilon", "layer"), [(1e-5, ""), (1e-6, "norm")])
def test_torch_is_checked_against_jax(epsilon, layer):
    module = TorchTwo().double()
    module.load_state_dict(reference(TorchTwo).state_dict())
    module.norm.eps = epsilon
    recorded = jax_run(two, TWO_LAYOUT, torch_params(module), TWO_BATCH)({})
    found = locate(recorded, torch_run(module, torch_loss, TWO_BATCH))
    assert found.layer == layer
    assert {m.layer for m in found.marks} == {"the model", "first", "norm", "last"}
    assert marks(found)["."] == ["the model"]  # a function is no module


def test_a_tap_returns_its_value_and_is_silent_under_jit():
    def loss(params, batch):
        h = jax.jit(lambda h: tap("inside", h * params["w"]))(batch["x"])
        return tap("outside", {"h": h, "n": 3})["h"].sum()

    value = np.ones((2, 3))
    assert tap("alone", value) is value
    run = in_jax.run(loss, {"w": np.array(2.0)}, {"x": value}, dict, {})
    assert list(run.times) == ["outside"]
    np.testing.assert_array_equal(run.values["outside", "outputs", 0], 2 * value)
    np.testing.assert_array_equal(run.cotangents["outside", "outputs", 0], value)
    assert run.grads["w"] == 6


def test_classes_are_as_before_when_a_call_fails():
    def loss(module, batch):
        module(batch["x"])
        raise KeyError("planted")

    calls = nnx.Linear.__call__, vars(Stopped)["__call__"], Blocks.__call__
    run = flax_run(
        lambda rngs: Blocks(rngs, linear=Stopped),
        loss,
        BLOCKS_LAYOUT,
        torch_params(reference(TorchBlocks)),
        BLOCKS_BATCH,
    )
    with pytest.raises(KeyError, match="planted"):
        run({})
    assert (nnx.Linear.__call__, vars(Stopped)["__call__"], Blocks.__call__) == calls


def test_the_tree_is_text_and_plain_data():
    found = check_blocks(epsilon=1e-6)
    lines = found.tree()
    assert lines[1].split() == ["=", "the", "model"]
    assert lines[7].startswith("  x forward       blocks/1/norm  its inputs are equal")
    data = found.to_dict()
    assert data["layer"] == "blocks/1/norm"
    assert data["marks"][6]["mark"] == "x forward"
