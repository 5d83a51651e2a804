"""Rows: attention and recurrent layers."""

from jaxnet.parity import leaf
from phrasebook.row import Row

LSTM = {
    "lstm/cell/dense_i/kernel": ("lstm.weight_ih_l0", (1, 0)),
    "lstm/cell/dense_h/kernel": ("lstm.weight_hh_l0", (1, 0)),
    "lstm/cell/dense_h/bias": leaf("lstm.bias_ih_l0") + leaf("lstm.bias_hh_l0"),
}
GRU = {
    "gru/cell/dense_i/kernel": ("gru.weight_ih_l0", (1, 0)),
    "gru/cell/dense_h/kernel": ("gru.weight_hh_l0", (1, 0)),
    "gru/cell/dense_i/bias": "gru.bias_ih_l0",
}
IN, OUT = leaf("attention.in_proj_weight"), leaf("attention.out_proj.weight")
IN_BIAS = leaf("attention.in_proj_bias")
ATTENTION = {
    "attention/query/kernel": IN[0:6].T.reshape(6, 2, 3),
    "attention/query/bias": IN_BIAS[0:6].reshape(2, 3),
    "attention/key/kernel": IN[6:12].T.reshape(6, 2, 3),
    "attention/key/bias": IN_BIAS[6:12].reshape(2, 3),
    "attention/value/kernel": IN[12:18].T.reshape(6, 2, 3),
    "attention/value/bias": IN_BIAS[12:18].reshape(2, 3),
    "attention/out/kernel": OUT.T.reshape(2, 3, 6),
    "attention/out/bias": "attention.out_proj.bias",
}

ROWS = [
    Row(
        "scaled_dot_product_attention",
        torch="y = F.scaled_dot_product_attention(q, k, v)",
        jax="""
            scores = jnp.einsum("nhqd,nhkd->nhqk", q, k) / jnp.sqrt(q.shape[-1])
            y = nnx.softmax(scores) @ v
        """,
        trap="`jax.nn.dot_product_attention` is the fast one: it takes (batch, time, heads, "
        "features), where PyTorch has heads before time, and its softmax is in float32.",
        naive="""
            q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q, k, v))
            y = jnp.swapaxes(jax.nn.dot_product_attention(q, k, v), 1, 2)
        """,
        given={"q": (2, 3, 5, 4), "k": (2, 3, 5, 4), "v": (2, 3, 5, 4)},
    ),
    Row(
        "Causal attention",
        torch="y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        jax="""
            scores = jnp.einsum("hqd,hkd->hqk", q, k) / jnp.sqrt(q.shape[-1])
            seen = jnp.tril(jnp.ones((4, 4), bool))
            y = nnx.softmax(jnp.where(seen, scores, -jnp.inf)) @ v
        """,
        trap="What is masked must be -inf before the softmax: 0 after it leaves weights that do "
        "not add to 1.",
        naive="""
            scores = jnp.einsum("hqd,hkd->hqk", q, k) / jnp.sqrt(q.shape[-1])
            y = jnp.tril(nnx.softmax(scores)) @ v
        """,
        given={"q": (2, 4, 3), "k": (2, 4, 3), "v": (2, 4, 3)},
    ),
    Row(
        "MultiheadAttention with a mask",
        torch="""
            attention = nn.MultiheadAttention(6, 2, batch_first=True)

            y, _ = attention(x, x, x, attn_mask=hidden)
        """,
        jax="""
            def attend(q, k, v, *, mask, **_):  # the default's softmax is in float32
                scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / jnp.sqrt(q.shape[-1])
                weights = nnx.softmax(jnp.where(mask, scores, -jnp.inf))
                return jnp.einsum("nhqk,nkhd->nqhd", weights, v)
            attention = nnx.MultiHeadAttention(
                2, 6, decode=False, attention_fn=attend, rngs=rngs
            )

            y = attention(x, mask=~hidden)
        """,
        trap="A mask is True for what is hidden in `nn.MultiheadAttention`, for what is seen in "
        "Flax (and in `F.scaled_dot_product_attention`).",
        naive="""
            attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)

            y = attention(x, mask=hidden)
        """,
        given={
            "x": (2, 3, 6),
            "hidden": [[False, True, False], [True, False, False], [False, False, True]],
        },
        layout=ATTENTION,
    ),
    Row(
        "LSTM",
        torch="""
            lstm = nn.LSTM(3, 4, batch_first=True)

            y, _ = lstm(x)
        """,
        jax="""
            lstm = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))

            y = lstm(x)
        """,
        trap="Flax has one bias where PyTorch has two; it is their sum. Without `batch_first` "
        "PyTorch's first axis is time.",
        naive="""
            lstm = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), time_major=True)

            y = lstm(x)
        """,
        given={"x": (2, 5, 3)},
        layout=LSTM,
    ),
    Row(
        "State of an LSTM",
        torch="""
            lstm = nn.LSTM(3, 4, batch_first=True)

            y, (h, c) = lstm(x, (h[None], c[None]))
            y = h[0], c[0]
        """,
        jax="""
            lstm = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), return_carry=True)

            (c, h), y = lstm(x, initial_carry=(c, h))
            y = h, c
        """,
        trap="The state is (h, c) in PyTorch, (c, h) in Flax.",
        naive="""
            lstm = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), return_carry=True)

            (h, c), y = lstm(x, initial_carry=(h, c))
            y = h, c
        """,
        given={"x": (2, 5, 3), "h": (2, 4), "c": (2, 4)},
        layout=LSTM,
    ),
    Row(
        "GRU",
        torch="""
            gru = nn.GRU(3, 4, batch_first=True)
            with torch.no_grad():
                gru.bias_hh_l0.zero_()
            gru.bias_hh_l0.requires_grad_(False)

            y, _ = gru(x)
        """,
        jax="""
            gru = nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs))

            y = gru(x)
        """,
        trap="PyTorch has a second bias, which the reset gate multiplies; `nnx.GRUCell` has no "
        "place for it, so that it must be 0 and stay 0.",
        given={"x": (2, 5, 3)},
        layout=GRU,
    ),
    Row(
        "Both directions",
        torch="""
            lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

            y, _ = lstm(x)
        """,
        jax="""
            forward = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))
            backward = nnx.RNN(
                nnx.OptimizedLSTMCell(3, 4, rngs=rngs), reverse=True, keep_order=True
            )

            y = jnp.concatenate([forward(x), backward(x)], axis=-1)
        """,
        trap="Without `keep_order` the outputs of the backward direction come in the order in "
        "which they were computed, the last step first.",
        naive="""
            forward = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))
            backward = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), reverse=True)

            y = jnp.concatenate([forward(x), backward(x)], axis=-1)
        """,
        given={"x": (2, 5, 3)},
        layout={
            "forward/cell/dense_i/kernel": ("lstm.weight_ih_l0", (1, 0)),
            "forward/cell/dense_h/kernel": ("lstm.weight_hh_l0", (1, 0)),
            "forward/cell/dense_h/bias": leaf("lstm.bias_ih_l0") + leaf("lstm.bias_hh_l0"),
            "backward/cell/dense_i/kernel": ("lstm.weight_ih_l0_reverse", (1, 0)),
            "backward/cell/dense_h/kernel": ("lstm.weight_hh_l0_reverse", (1, 0)),
            "backward/cell/dense_h/bias": leaf("lstm.bias_ih_l0_reverse")
            + leaf("lstm.bias_hh_l0_reverse"),
        },
    ),
]
