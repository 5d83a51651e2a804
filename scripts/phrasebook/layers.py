"""Rows: layers with weights and without."""

from phrasebook.row import Row

ROWS = [
    Row(
        "Linear",
        torch="""
            linear = nn.Linear(5, 3)

            y = linear(x)
        """,
        jax="""
            linear = nnx.Linear(5, 3, rngs=rngs)

            y = linear(x)
        """,
        trap="PyTorch's weight is (out, in), Flax's kernel (in, out): transpose it. A square "
        "weight fits without, and is wrong.",
        given={"x": (4, 5)},
        layout={"linear/kernel": ("linear.weight", (1, 0)), "linear/bias": "linear.bias"},
    ),
    Row(
        "Conv2d",
        torch="""
            conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)

            y = conv(x)
        """,
        jax="""
            conv = nnx.Conv(2, 3, (3, 3), strides=2, padding=((1, 1), (1, 1)), rngs=rngs)

            y = conv(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        trap="Channels are last in Flax. Its default padding is SAME, which with a stride pads "
        "another side than `padding=1`; PyTorch's default is none.",
        naive="""
            conv = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)

            y = conv(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        given={"x": (1, 2, 6, 8)},
        layout={"conv/kernel": ("conv.weight", (2, 3, 1, 0)), "conv/bias": "conv.bias"},
    ),
    Row(
        "ConvTranspose2d",
        torch="""
            conv = nn.ConvTranspose2d(2, 3, 3, stride=2)

            y = conv(x)
        """,
        jax="""
            conv = nnx.ConvTranspose(
                2, 3, (3, 3), strides=2, padding="VALID", transpose_kernel=True, rngs=rngs
            )

            y = conv(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        trap="Flax's default padding is SAME, which makes the output smaller. Without "
        "`transpose_kernel` the kernel has other axes, and is not turned around.",
        naive="""
            conv = nnx.ConvTranspose(2, 3, (3, 3), strides=2, transpose_kernel=True, rngs=rngs)

            y = conv(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        given={"x": (1, 2, 4, 5)},
        layout={"conv/kernel": ("conv.weight", (2, 3, 1, 0)), "conv/bias": "conv.bias"},
    ),
    Row(
        "MaxPool2d",
        torch="y = F.max_pool2d(x, 2)",
        jax="""
            pooled = nnx.max_pool(x.transpose(0, 2, 3, 1), (2, 2), strides=(2, 2))
            y = pooled.transpose(0, 3, 1, 2)
        """,
        trap="The default stride is the window in PyTorch, 1 in Flax.",
        naive="y = nnx.max_pool(x.transpose(0, 2, 3, 1), (2, 2)).transpose(0, 3, 1, 2)",
        given={"x": (1, 2, 4, 6)},
    ),
    Row(
        "Flatten before a linear layer",
        torch="y = x.flatten(1)",
        jax="""
            nhwc = x.transpose(0, 2, 3, 1)  # as Flax's convolutions return it
            y = nhwc.transpose(0, 3, 1, 2).reshape(2, -1)
        """,
        trap="Flattened with channels last, the features are in another order than those that "
        "PyTorch's next weight expects.",
        naive="""
            nhwc = x.transpose(0, 2, 3, 1)
            y = nhwc.reshape(2, -1)
        """,
        given={"x": (2, 3, 4, 5)},
    ),
    Row(
        "interpolate to a smaller image",
        torch="y = F.interpolate(x, size=(3, 4), mode='bilinear')",
        jax="y = jax.image.resize(x, (1, 2, 3, 4), 'bilinear', antialias=False)",
        trap="`jax.image.resize` smooths before it shrinks, unless told not to.",
        naive="y = jax.image.resize(x, (1, 2, 3, 4), 'bilinear')",
        given={"x": (1, 2, 6, 8)},
    ),
    Row(
        "Embedding",
        torch="""
            embedding = nn.Embedding(6, 3)

            y = embedding(i)
        """,
        jax="""
            embedding = nnx.Embed(6, 3, rngs=rngs)

            y = embedding(i)
        """,
        trap="An index out of range is an error in PyTorch; `nnx.Embed` returns nan.",
        naive="""
            embedding = nnx.Embed(6, 3, rngs=rngs)

            y = embedding(i + 3)
        """,
        given={"i": [[0, 5, 2], [2, 1, 1]]},
        layout={"embedding/embedding": "embedding.weight"},
    ),
    Row(
        "Embedding with padding_idx",
        torch="""
            embedding = nn.Embedding(6, 3, padding_idx=0)

            y = embedding(i)
        """,
        jax="""
            embedding = nnx.Embed(6, 3, rngs=rngs)

            rows = embedding(i)
            y = jnp.where((i == 0)[..., None], jax.lax.stop_gradient(rows), rows)
        """,
        trap="PyTorch's padding row gets no gradient. That it is 0 is its initial value only.",
        naive="""
            embedding = nnx.Embed(6, 3, rngs=rngs)

            y = embedding(i)
        """,
        given={"i": [[0, 5, 2], [2, 0, 1]]},
        layout={"embedding/embedding": "embedding.weight"},
    ),
    Row(
        "GELU",
        torch="y = F.gelu(x)",
        jax="y = nnx.gelu(x, approximate=False)",
        trap="The default is the exact form in PyTorch, that by tanh in JAX.",
        naive="y = nnx.gelu(x)",
        given={"x": (5,)},
    ),
    Row(
        "Softmax",
        torch="y = F.softmax(x, dim=1)",
        jax="y = nnx.softmax(x, axis=1)",
        trap="`F.softmax` wants its axis; the default in JAX is the last one.",
        naive="y = nnx.softmax(x)",
        given={"x": (2, 3, 4)},
    ),
    Row(
        "Dropout in training",
        torch="""
            dropout = nn.Dropout(0.2)
            y = dropout(torch.ones(1000).double()).unique()
        """,
        jax="""
            dropout = nnx.Dropout(0.2, rngs=rngs)
            y = jnp.unique(dropout(jnp.ones(1000)))
        """,
        trap="The rate is that of what is dropped, in both, and what is kept is divided by "
        "1 - 0.2. Papers and old TensorFlow state the rate of what is kept.",
        naive="""
            dropout = nnx.Dropout(0.8, rngs=rngs)
            y = jnp.unique(dropout(jnp.ones(1000)))
        """,
        check="value",
    ),
    Row(
        "Dropout with a mask that is given",
        torch="y = x * mask / (1 - 0.2)",
        jax="y = x * mask / (1 - 0.2)",
        trap="The frameworks draw other random numbers, so ports with dropout are compared with "
        "one mask, or in evaluation.",
        naive="y = x * mask",
        given={"x": (5,), "mask": [1, 0, 1, 1, 1]},
    ),
    Row(
        "train and eval",
        torch="""
            model = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
            model.eval()
            y = model(x)
        """,
        jax="""
            model = nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.relu)
            model.eval()
            y = model(x)
        """,
        trap="A new module is in training in both.",
        naive="""
            model = nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.relu)
            y = model(x)
        """,
        given={"x": [0.5, 1.5, 2.5, 3.5]},
        check="value",
    ),
]
