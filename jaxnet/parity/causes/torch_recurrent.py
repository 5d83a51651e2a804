"""The catalogue's recurrent layers: LSTM and GRU, and their cells."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F

from jaxnet.parity.causes.torch_calls import family

GATES = {"lstm": "ifgo", "lstm_cell": "ifgo", "gru": "rzn", "gru_cell": "rzn"}


def _rebuilt(call, change):
    """Run a recurrent layer or cell with the weights of each layer and direction changed."""
    args = [*call.args]
    if call.name.endswith("cell"):
        args[2:] = change(*args[2:])
    else:
        at = 3 if isinstance(args[3], (tuple, list)) else 2  # after the sizes of packed sequences
        n = 4 if args[at + 1] else 2
        layers = [args[at][i : i + n] for i in range(0, len(args[at]), n)]
        args[at] = [p for layer in layers for p in change(*layer)]
    return call.func(*args)


@family(" ".join(GATES))
def _recurrent(call):
    gates = GATES[call.name]
    for order in map("".join, permutations(gates)):
        if order != gates:
            index = [order.index(gate) for gate in gates]

            def reordered(*layer, index=index):
                blocks = [p.unflatten(0, (len(gates), -1))[index] for p in layer if p is not None]
                return [block.flatten(0, 1) for block in blocks]

            remedy = f"the rows of torch's weights are the gates {', '.join(gates)}"
            name = f"gates in the order {', '.join(order)} for {', '.join(gates)}"
            yield name, remedy, partial(_rebuilt, call, reordered)

    def add(w_ih, w_hh, b_ih, b_hh):
        n = len(b_ih) // 4
        return w_ih, w_hh, b_ih + F.pad(b_ih.new_ones(n), (n, 2 * n)), b_hh

    if gates == "ifgo":
        remedy = "torch adds no 1 to the forget gate"
        yield "forget gate's bias plus 1", remedy, partial(_rebuilt, call, add)
    remedy = "use b_ih + b_hh where the cell has one bias"
    if gates == "rzn":
        remedy = "b_hh's last third stands inside the reset gate's product"
    for i, name in ((2, "b_ih"), (3, "b_hh")):

        def without(*layer, i=i):
            return [0 * p if j == i else p for j, p in enumerate(layer)]

        yield f"{name} left out", remedy, partial(_rebuilt, call, without)

    def turned_weights(w_ih, w_hh, *biases):
        return w_ih, w_hh.unflatten(0, (len(gates), -1)).mT.flatten(0, 1), *biases

    name, remedy = "recurrent weights transposed in each gate", "transpose them, as the input's"
    yield name, remedy, partial(_rebuilt, call, turned_weights)


@family(" ".join(GATES))
def _sequence(call):
    if call.name.endswith("cell") or len(call.args) != 9:
        return
    axis, function = 1 if call.args[8] else 0, getattr(torch, call.name)
    if call.args[7] is False:

        def backwards():
            y, *states = function(call.args[0].flip(axis), *call.args[1:])
            return y.flip(axis), *states

        yield "the sequence read backwards", "begin with the first step", backwards
    if call.name == "lstm":
        swapped = (call.args[0], call.args[1][::-1], *call.args[2:])
        yield "h and c swapped in the carry", "flax: (c, h)", lambda: function(*swapped)
    if call.args[7] is True:

        def turned():
            y, *states = call.original()
            forward, backward = y.chunk(2, -1)
            return torch.cat([forward, backward.flip(axis)], -1), *states

        remedy = "put the backward direction's outputs in the order of time: keep_order=True"
        yield "backward direction's outputs not turned back", remedy, turned


@family("gru gru_cell")
def _gru(call):
    for name, remedy in {
        "reset gate before the product": "torch resets the product: r * (W h + b), not W (r * h)",
        "b_hn outside the reset gate": "torch adds b_hn before it multiplies by r",
        "update gate complemented": "torch's z is the share of the old state",
    }.items():
        yield name, remedy, partial(_run_gru, call, name)


def _run_gru(call, mistake):
    x, h, *rest = call.args
    if call.name == "gru_cell":
        return _gru_step(mistake, x, h, *rest)
    params, has_biases, layers, _, _, both, batch_first = rest
    x, n, states = x.transpose(0, 1) if batch_first else x, 4 if has_biases else 2, []
    for layer in range(layers):
        outputs = []
        for direction in range(1 + both):
            at = layer * (1 + both) + direction
            state, ys = h[at], []
            for row in x.flip(0) if direction else x:
                state = _gru_step(mistake, row, state, *params[at * n : at * n + n])
                ys.append(state)
            outputs.append(torch.stack(ys[::-1] if direction else ys))
            states.append(state)
        x = torch.cat(outputs, -1)
    return x.transpose(0, 1) if batch_first else x, torch.stack(states)


def _gru_step(mistake, x, h, w_ih, w_hh, b_ih=None, b_hh=None):
    b_hh = w_hh.new_zeros(len(w_hh)) if b_hh is None else b_hh
    (ir, iz, i), (hr, hz, n) = F.linear(x, w_ih, b_ih).chunk(3, -1), F.linear(h, w_hh).chunk(3, -1)
    br, bz, b = b_hh.chunk(3)
    r, z = torch.sigmoid(ir + hr + br), torch.sigmoid(iz + hz + bz)
    if mistake.startswith("reset"):
        new = torch.tanh(i + F.linear(r * h, w_hh.chunk(3)[2], b))
    else:
        new = torch.tanh(i + (r * n + b if mistake.startswith("b_hn") else r * (n + b)))
    return (1 - z) * h + z * new if "complemented" in mistake else (1 - z) * new + z * h
