"""Layouts that are proposed for torch modules and their nnx ports, and what they convert."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jaxnet import parity

torch.set_num_threads(1)


def fill(module, seed=0):
    """Give each weight of a torch module a value in [-0.5, 0.5], each statistic in [0.5, 1.5]."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.rand_like(value) - 0.5)
        for value in (value for value in module.buffers() if value.is_floating_point()):
            value.copy_(torch.rand_like(value) + 0.5)
    return module.eval()


shaped = nnx.eval_shape  # a module whose arrays are shapes: to draw compiles for each of them


def put(port, values):
    """Put converted values into an nnx module, as the docstring of `convert` shows."""
    state = nnx.state(port)
    names = set()
    for path, variable in nnx.to_flat_state(state):
        if (name := "/".join(map(str, path))) in values:
            assert variable.shape == values[name].shape
            variable[...] = values[name]
            names.add(name)
    nnx.update(port, state)
    assert names == set(values)
    port.eval()


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


class TorchCrossed(nn.Module):
    """Keys and values of other widths, whose weights torch keeps apart."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(6, 2, kdim=6, vdim=5, batch_first=True, bias=False)

    def forward(self, x):
        return self.attn(x, x, x[..., :5], need_weights=False)[0]


class NnxAttention(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attention(x)


class NnxCrossed(nnx.Module):
    def __init__(self, rngs):
        linear = {"use_bias": False, "rngs": rngs}
        self.v = nnx.LinearGeneral(5, (2, 3), **linear)
        self.k = nnx.LinearGeneral(6, (2, 3), **linear)
        self.q = nnx.LinearGeneral(6, (2, 3), **linear)
        self.out = nnx.LinearGeneral((2, 3), 6, axis=(-2, -1), **linear)

    def __call__(self, x):
        return self.out(nnx.dot_product_attention(self.q(x), self.k(x), self.v(x[..., :5])))


class TorchLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 5, num_layers=2, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


class NnxLSTM(nnx.Module):
    def __init__(self, rngs, cell=nnx.OptimizedLSTMCell):
        self.first = nnx.RNN(cell(6, 5, rngs=rngs))
        self.second = nnx.RNN(cell(5, 5, rngs=rngs))

    def __call__(self, x):
        return self.second(self.first(x))


class NnxGates(NnxLSTM):
    def __init__(self, rngs):
        super().__init__(rngs, nnx.LSTMCell)


class TorchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (1, 3))
        self.square = nn.Conv2d(3, 3, (2, 1), bias=False)
        self.bn, self.gn = nn.BatchNorm2d(3), nn.GroupNorm(3, 3)
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.ln, self.rms = nn.LayerNorm(4), nn.RMSNorm(4)
        self.embed = nn.Embedding(7, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):  # (N, 6, 6), as an image of 2 channels, (3, 6)
        h = self.conv(x.reshape(-1, 2, 3, 6))
        h = torch.tanh(self.gn(self.bn(self.square(h)))).mean((2, 3))
        return self.scale * self.rms(self.ln(self.stem(h))) @ self.embed.weight.T


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones(()))
        self.token = nnx.Embed(7, 4, rngs=rngs)
        self.conv = nnx.Conv(2, 3, (1, 3), padding="VALID", rngs=rngs)
        self.mix = nnx.Conv(3, 3, (2, 1), padding="VALID", use_bias=False, rngs=rngs)
        self.z_first = nnx.Linear(3, 4, rngs=rngs)  # order is that of definition, not of names
        self.a_second = nnx.Linear(4, 4, rngs=rngs)
        self.norms = nnx.List(
            [
                nnx.BatchNorm(3, epsilon=1e-5, rngs=rngs),
                nnx.GroupNorm(3, 3, epsilon=1e-5, rngs=rngs),
                nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs),
                nnx.RMSNorm(4, epsilon=float(np.finfo("float32").eps), rngs=rngs),
            ]
        )
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        h = self.mix(self.conv(x.reshape(-1, 2, 3, 6).transpose(0, 2, 3, 1)))
        h = jnp.tanh(self.norms[1](self.norms[0](h))).mean((1, 2))
        h = jnp.tanh(self.a_second(jnp.tanh(self.z_first(h))))
        h = self.norms[3](self.norms[2](self.drop(h)))
        return self.token.attend(self.scale[...] * h)


PORTS = {
    "attention": (TorchAttention, NnxAttention),
    "attention with weights apart": (TorchCrossed, NnxCrossed),
    "LSTM": (TorchLSTM, NnxLSTM),
    "LSTM by gates": (TorchLSTM, NnxGates),
    "convolutions, norms, an embedding and a parameter": (TorchNet, NnxNet),
}


@pytest.mark.parametrize(("torch_class", "nnx_class"), PORTS.values(), ids=PORTS)
@pytest.mark.usefixtures("quick_compilation")
def test_the_proposed_layout_converts_the_weights_to_the_same_function(torch_class, nnx_class):
    module, port = fill(torch_class()), nnx_class(nnx.Rngs(0))
    proposal = parity.propose_layout(module, port)
    assert proposal.unused == []
    layout = eval(str(proposal).removeprefix("layout = "), {"parity": parity})
    put(port, parity.convert(module.state_dict(), layout))
    x = np.random.default_rng(0).standard_normal((4, 6, 6)).astype("float32")
    want = module(torch.tensor(x)).detach().numpy()
    # float32 sums of at most 24 terms of size 1, in a few layers
    np.testing.assert_allclose(
        nnx.jit(lambda port, x: port(x))(port, x), want, rtol=3e-5, atol=3e-6
    )


def test_what_names_and_shapes_do_not_prove_is_marked():
    proposal = parity.propose_layout(TorchNet(), shaped(lambda: NnxNet(nnx.Rngs(0))))
    square = "ambiguous: square, check the axes"
    assert {name: note for name, note in proposal.notes.items() if note} == {
        "a_second/kernel": square,
        "mix/kernel": square,
    }
    line = f"    'a_second/kernel': parity.leaf('stem.2.weight').T,  # {square}\n"
    assert line in str(proposal)


def test_a_linear_layer_after_a_flattened_image_is_marked():
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 6)
    )
    rngs = nnx.Rngs(0)
    port = nnx.Sequential(
        nnx.Conv(2, 3, (3, 3), rngs=rngs),
        nnx.Linear(48, 5, rngs=rngs),
        nnx.Linear(5, 6, rngs=rngs),
    )
    order = "ambiguous: the order of inputs, if flattened: (3, ...) in torch, (..., 3) in nnx"
    marked = {
        name: note for name, note in parity.propose_layout(module, port).notes.items() if note
    }
    assert marked == {"layers/1/kernel": order}


class Leaves(nnx.Module):
    def __init__(self, **shapes):
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape)))


class TorchLeaves(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


def test_what_cannot_be_told_is_none_and_refused():
    module = TorchLeaves(w=(4, 4), a=(3, 5), x=(2,), y=(2,), z=(2,), over=(9,))
    port = Leaves(w=(4, 4), kernel=(5, 3), first=(2,), second=(2,), more=(6,))
    proposal = parity.propose_layout(module, port)
    assert str(proposal) == "\n".join(
        [
            "layout = {",
            "    'w': None,  # ambiguous: parity.leaf('w') with its axes as (0, 1) or (1, 0)",
            "    'kernel': parity.leaf('a').transpose(1, 0),",
            "    'first': None,  # ambiguous: x or y or z",
            "    'second': None,  # ambiguous: x or y or z",
            "    'more': None,  # no leaf has the shape (6,)",
            "}",
            *(f"# not used: {name!r}" for name in ("w", "x", "y", "z", "over")),
        ]
    )
    with pytest.raises(ValueError, match=r"`layout\['w'\]` must be a name, .* got None: decide"):
        parity.flax_participant(port, lambda m, b: m.w[...].sum(), layout=proposal)


def test_layers_of_one_shape_are_paired_by_name_before_order():
    module = nn.ModuleDict({"b_proj": nn.Linear(3, 2), "c": nn.Linear(3, 2), "a": nn.Linear(3, 2)})
    port = shaped(
        lambda: nnx.Dict({name: nnx.Linear(3, 2, rngs=nnx.Rngs(0)) for name in ("a", "b", "c")})
    )
    proposal = parity.propose_layout(module, port)
    assert {name: entry.names for name, entry in proposal.items() if "bias" in name} == {
        "a/bias": ("a.bias",),
        "b/bias": ("b_proj.bias",),
        "c/bias": ("c.bias",),
    }
    assert set(proposal.notes.values()) == {""}


def test_numbers_pair_what_they_can_and_the_rest_follows():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    port = shaped(lambda: nnx.List([nnx.Linear(3, 3, rngs=nnx.Rngs(0)) for _ in range(2)]))
    proposal = parity.propose_layout(module, port)
    assert {name: entry.names[0] for name, entry in proposal.items()} == {
        "0/kernel": "0.weight",
        "0/bias": "0.bias",
        "1/kernel": "2.weight",
        "1/bias": "2.bias",
    }
    assert proposal.notes["1/bias"] == ""  # one is left of each, after 0 and 0


def test_layers_with_no_word_in_common_are_paired_in_order_and_marked():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2))
    port = shaped(
        lambda: nnx.Dict({name: nnx.Linear(3, 2, rngs=nnx.Rngs(0)) for name in ("a", "b", "c")})
    )
    proposal = parity.propose_layout(module, port)
    assert [proposal[f"{name}/bias"].names[0] for name in "abc"] == ["0.bias", "1.bias", "2.bias"]
    assert set(proposal.notes.values()) == {"ambiguous: 3 of this shape, paired in order"}


def test_a_tied_weight_is_used_by_both_of_its_layers_in_an_untied_port():
    module = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    module["head"].weight = module["embed"].weight

    def port():
        rngs = nnx.Rngs(0)
        head = nnx.Linear(3, 7, use_bias=False, rngs=rngs)
        return nnx.Dict({"embed": nnx.Embed(7, 3, rngs=rngs), "head": head})

    proposal = parity.propose_layout(module, shaped(port))
    assert {name: entry.names for name, entry in proposal.items()} == {
        "embed/embedding": ("embed.weight",),
        "head/kernel": ("embed.weight",),
    }
    values = parity.convert(module.state_dict(), proposal)  # which has it under both names
    np.testing.assert_array_equal(values["head/kernel"], values["embed/embedding"].T)


def test_the_biases_of_a_torch_gru_have_no_place_in_nnx():
    port = shaped(lambda: nnx.Dict({"rnn": nnx.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))}))
    proposal = parity.propose_layout(nn.ModuleDict({"gru": nn.GRU(3, 4)}), port)
    assert proposal["rnn/cell/dense_i/bias"] is None
    assert "two biases" in proposal.notes["rnn/cell/dense_i/bias"]
    assert proposal.unused == ["gru.bias_ih_l0", "gru.bias_hh_l0"]


def test_a_checkpoint_in_bfloat16_is_converted():
    state = {"w": torch.tensor([[1.5, -0.25, 3.0]], dtype=torch.bfloat16)}
    got = parity.convert(state, {"kernel": ("w", (1, 0))})["kernel"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[1.5], [-0.25], [3.0]])
