"""Rows: modules, their parameters, and where these begin."""

from phrasebook.row import Row

MLP = {
    "model/layers/0/kernel": ("model.0.weight", (1, 0)),
    "model/layers/0/bias": "model.0.bias",
    "model/layers/2/kernel": ("model.2.weight", (1, 0)),
    "model/layers/2/bias": "model.2.bias",
}

ROWS = [
    Row(
        "Sequential",
        torch="""
            model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

            y = model(x)
        """,
        jax="""
            model = nnx.Sequential(
                nnx.Linear(5, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 3, rngs=rngs)
            )

            y = model(x)
        """,
        trap="Functions are layers too: there is no class ReLU. `gelu` by its name alone is the "
        "form by tanh.",
        naive="""
            model = nnx.Sequential(
                nnx.Linear(5, 4, rngs=rngs), nnx.gelu, nnx.Linear(4, 3, rngs=rngs)
            )

            y = model(x)
        """,
        given={"x": (2, 5)},
        layout=MLP,
    ),
    Row(
        "A module of one's own",
        torch="""
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.linear = nn.Linear(3, 3)
                def forward(self, x):
                    return x + self.linear(x).tanh()
            net = Net()

            y = net(x)
        """,
        jax="""
            class Net(nnx.Module):
                def __init__(self, rngs):
                    self.linear = nnx.Linear(3, 3, rngs=rngs)
                def __call__(self, x):
                    return x + jnp.tanh(self.linear(x))
            net = Net(rngs)

            y = net(x)
        """,
        trap="`__call__`, no `forward`; `super().__init__()` is not needed, and random numbers "
        "come from `rngs`, which must be handed on.",
        given={"x": (2, 3)},
        layout={
            "net/linear/kernel": ("net.linear.weight", (1, 0)),
            "net/linear/bias": "net.linear.bias",
        },
    ),
    Row(
        "ModuleList",
        torch="""
            layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

            for layer in layers:
                x = layer(x).tanh()
            y = x
        """,
        jax="""
            layers = nnx.List(nnx.Linear(3, 3, rngs=rngs) for _ in range(2))

            for layer in layers:
                x = jnp.tanh(layer(x))
            y = x
        """,
        trap="A plain list hides its modules in PyTorch. In Flax it is refused when it becomes an "
        "attribute of a module.",
        naive="""
            class Net(nnx.Module):
                def __init__(self):
                    self.layers = [nnx.Linear(3, 3, rngs=rngs) for _ in range(2)]
            net = Net()

            y = x
        """,
        raises=ValueError,
        given={"x": (2, 3)},
        layout={
            "layers/*/kernel": ("layers.*.weight", (1, 0)),
            "layers/*/bias": "layers.*.bias",
        },
    ),
    Row(
        "Parameter and buffer",
        torch="""
            class Scale(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.scale = nn.Parameter(torch.ones(3))
                    self.register_buffer("shift", torch.ones(3))
                def forward(self, x):
                    return x * self.scale + self.shift
            layer = Scale()

            y = layer(x)
        """,
        jax="""
            class Scale(nnx.Module):
                def __init__(self):
                    self.scale = nnx.Param(jnp.ones(3))
                    self.shift = nnx.Variable(jnp.ones(3))
                def __call__(self, x):
                    return x * self.scale + self.shift
            layer = Scale()

            y = layer(x)
        """,
        trap="Only `nnx.Param` is trained; another `nnx.Variable` is part of the state.",
        given={"x": (2, 3)},
        layout={"layer/scale": "layer.scale", "layer/shift": "layer.shift"},
    ),
    Row(
        "One layer used twice",
        torch="""
            linear = nn.Linear(3, 3)

            y = linear(linear(x).tanh())
        """,
        jax="""
            linear = nnx.Linear(3, 3, rngs=rngs)

            y = linear(jnp.tanh(linear(x)))
        """,
        trap="The gradients of both uses are added, in both. In a plain dictionary of parameters "
        "it is one entry.",
        naive="""
            linear = nnx.Linear(3, 3, rngs=rngs)

            y = jax.lax.stop_gradient(linear.kernel[...].T) @ jnp.tanh(linear(x)).T
            y = y.T + linear.bias[...]
        """,
        given={"x": (2, 3)},
        layout={"linear/kernel": ("linear.weight", (1, 0)), "linear/bias": "linear.bias"},
    ),
    Row(
        "Number of parameters",
        torch="y = sum(p.numel() for p in nn.BatchNorm1d(5).parameters())",
        jax="""
            params = nnx.state(nnx.BatchNorm(5, rngs=rngs), nnx.Param)
            y = sum(p.size for p in jax.tree.leaves(params))
        """,
        trap="`nnx.state` without a filter has running statistics and random keys as well.",
        naive="""
            state = nnx.state(nnx.BatchNorm(5, rngs=rngs))
            y = sum(p.size for p in jax.tree.leaves(state))
        """,
        check="value",
    ),
    Row(
        "state_dict",
        torch="""
            model = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
            other = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
            other.load_state_dict(model.state_dict())
            y = bool((other(x.float()) == model(x.float())).all())
        """,
        jax="""
            model = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.tanh)
            other = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.tanh)
            nnx.update(other, nnx.state(model))
            y = bool((other(x) == model(x)).all())
        """,
        trap="Two modules of one `rngs` begin with other numbers: it counts on.",
        naive="""
            model = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.tanh)
            other = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.tanh)
            y = bool((other(x) == model(x)).all())
        """,
        given={"x": (2, 5)},
        check="value",
    ),
    Row(
        "A copy of a model",
        torch="""
            import copy
            model = nn.Linear(3, 2)
            other = copy.deepcopy(model)
            nn.init.zeros_(other.bias)
            nn.init.ones_(model.bias)
            y = other.bias.tolist()
        """,
        jax="""
            model = nnx.Linear(3, 2, rngs=rngs)
            other = nnx.clone(model)
            other.bias[...] = jnp.zeros_like(other.bias)
            model.bias[...] = jnp.ones_like(model.bias)
            y = other.bias[...].tolist()
        """,
        trap="Arrays are never written to, but modules are: another name is the same module.",
        naive="""
            model = nnx.Linear(3, 2, rngs=rngs)
            other = model
            other.bias[...] = jnp.zeros_like(other.bias)
            model.bias[...] = jnp.ones_like(model.bias)
            y = other.bias[...].tolist()
        """,
        check="value",
    ),
    Row(
        "functional_call",
        torch="""
            linear = nn.Linear(5, 3)

            params = {name: 2 * p for name, p in linear.named_parameters()}
            y = torch.func.functional_call(linear, params, (x,))
        """,
        jax="""
            linear = nnx.Linear(5, 3, rngs=rngs)

            graphdef, params = nnx.split(linear)
            y = nnx.merge(graphdef, jax.tree.map(lambda p: 2 * p, params))(x)
        """,
        trap="`nnx.merge` makes a new module; the old one keeps its parameters.",
        naive="""
            linear = nnx.Linear(5, 3, rngs=rngs)

            graphdef, params = nnx.split(linear)
            nnx.merge(graphdef, jax.tree.map(lambda p: 2 * p, params))
            y = linear(x)
        """,
        given={"x": (2, 5)},
        layout={"linear/kernel": ("linear.weight", (1, 0)), "linear/bias": "linear.bias"},
    ),
]
