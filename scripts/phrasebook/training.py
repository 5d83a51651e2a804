"""Rows: data, seeds, devices, compiled programs, precision."""

from phrasebook.row import Row

ROWS = [
    Row(
        "DataLoader",
        torch="""
            from torch.utils.data import DataLoader
            y = list(DataLoader(x, batch_size=2))
        """,
        jax="y = [x[i : i + 2] for i in range(0, len(x), 2)]",
        trap="A last batch that is smaller is a new shape, for which `jit` compiles again; "
        "`drop_last` leaves it out.",
        naive="y = [x[i : i + 2] for i in range(0, len(x) - 1, 2)]",
        given={"x": (5, 3)},
        check="value",
    ),
    Row(
        "Shuffle in each epoch",
        torch="""
            from torch.utils.data import DataLoader
            loader = DataLoader(range(20), batch_size=20, shuffle=True)
            (first,), (second,) = loader, loader
            y = bool((first == second).all()), first.sort().values
        """,
        jax="""
            key = jax.random.key(0)
            first = jax.random.permutation(jax.random.fold_in(key, 1), 20)
            second = jax.random.permutation(jax.random.fold_in(key, 2), 20)
            y = bool((first == second).all()), jnp.sort(first)
        """,
        trap="One key gives one order: the number of the epoch must go into it.",
        naive="""
            key = jax.random.key(0)
            first = jax.random.permutation(key, 20)
            second = jax.random.permutation(key, 20)
            y = bool((first == second).all()), jnp.sort(first)
        """,
        check="value",
    ),
    Row(
        "manual_seed",
        torch="""
            torch.manual_seed(0)
            first, second = torch.rand(3), torch.rand(3)
            torch.manual_seed(0)
            y = bool((first == second).all()), bool((first == torch.rand(3)).all())
        """,
        jax="""
            one, two = jax.random.split(jax.random.key(0))
            first, second = jax.random.uniform(one, 3), jax.random.uniform(two, 3)
            one, two = jax.random.split(jax.random.key(0))
            y = bool((first == second).all()), bool((first == jax.random.uniform(one, 3)).all())
        """,
        trap="PyTorch's generator moves on; a key does not. Used twice, it gives the same numbers "
        "twice. The numbers of one seed are not those of the other framework.",
        naive="""
            key = jax.random.key(0)
            first, second = jax.random.uniform(key, 3), jax.random.uniform(key, 3)
            y = bool((first == second).all()), True
        """,
        check="value",
    ),
    Row(
        "To a device",
        torch="""
            z = x.to("cpu")
            y = z, z.device.type
        """,
        jax="""
            z = jax.device_put(x, jax.devices("cpu")[0])
            (device,) = z.devices()
            y = z, device.platform
        """,
        trap="There is no `.to`; arrays are made on the first accelerator by themselves, and a "
        "model is moved as its state is.",
        naive="""
            z = x.to("cpu")
            y = z, "cpu"
        """,
        raises=AttributeError,
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "torch.compile",
        torch="""
            programs = []
            def backend(graph, inputs):
                programs.append(graph)
                return graph.forward
            f = torch.compile(lambda x: x.sin().sum(), backend=backend)
            y = [float(f(torch.ones(n))) > 0 for n in (3, 3, 3)], len(programs)
        """,
        jax="""
            traces = []
            def function(x):
                traces.append(x.shape)
                return jnp.sin(x).sum()
            f = jax.jit(function)
            y = [float(f(jnp.ones(n))) > 0 for n in (3, 3, 3)], len(traces)
        """,
        trap="`jit` compiles for each shape. (`torch.compile` makes the size a variable at the "
        "second one.) Pad to a few sizes.",
        naive="""
            traces = []
            def function(x):
                traces.append(x.shape)
                return jnp.sin(x).sum()
            f = jax.jit(function)
            y = [float(f(jnp.ones(n))) > 0 for n in (3, 4, 5)], len(traces)
        """,
        check="value",
    ),
    Row(
        "A compiled function made in a loop",
        torch="""
            programs = []
            def backend(graph, inputs):
                programs.append(graph)
                return graph.forward
            f = torch.compile(lambda x: 2 * x, backend=backend)
            for _ in range(3):
                f(torch.ones(3))
            y = len(programs)
        """,
        jax="""
            traces = []
            f = jax.jit(lambda x: traces.append(1) or 2 * x)
            for _ in range(3):
                f(jnp.ones(3))
            y = len(traces)
        """,
        trap="The compiled program belongs to the function object: a new lambda, a new program.",
        naive="""
            traces = []
            for _ in range(3):
                jax.jit(lambda x: traces.append(1) or 2 * x)(jnp.ones(3))
            y = len(traces)
        """,
        check="value",
    ),
    Row(
        "print and other side effects",
        torch="""
            seen = []
            def step(x):
                seen.append(float(x[0]))
                return 2 * x
            for _ in range(3):
                x = step(x)
            y = seen
        """,
        jax="""
            seen = []
            @jax.jit
            def step(x):
                jax.debug.callback(lambda value: seen.append(float(value)), x[0], ordered=True)
                return 2 * x
            for _ in range(3):
                x = step(x)
            jax.effects_barrier()
            y = seen
        """,
        trap="Python runs while the program is made, once: `print` shows a tracer. "
        "`jax.debug.print` and `jax.debug.callback` run each time.",
        naive="""
            seen = []
            @jax.jit
            def step(x):
                seen.append(0.0)
                return 2 * x
            for _ in range(3):
                x = step(x)
            y = seen
        """,
        given={"x": [1.0, 2.0]},
        check="value",
    ),
    Row(
        "Globals in a compiled function",
        torch="""
            rate = 0.1
            def step(x):
                return rate * x
            first = step(x)
            rate = 0.5
            y = first, step(x)
        """,
        jax="""
            step = jax.jit(lambda x, rate: rate * x)
            y = step(x, 0.1), step(x, 0.5)
        """,
        trap="What a compiled function finds outside its arguments is a constant of the program: "
        "a later change is not seen.",
        naive="""
            rate = 0.1
            @jax.jit
            def step(x):
                return rate * x
            first = step(x)
            rate = 0.5
            y = first, step(x)
        """,
        given={"x": (2,)},
        check="value",
    ),
    Row(
        "autocast to bfloat16",
        torch="""
            with torch.autocast("cpu", torch.bfloat16):
                z = a.float() @ b.float()
            y = str(z.dtype).removeprefix("torch."), z.float()
        """,
        jax="""
            z = a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)
            y = str(z.dtype), z.astype(jnp.float32)
        """,
        trap="There is no autocast: products have the dtype of their inputs. In Flax a layer's "
        "`dtype` is that of its computation, `param_dtype` that of its weights.",
        naive="""
            z = a.astype(jnp.float32) @ b.astype(jnp.float32)
            y = str(z.dtype), z
        """,
        given={"a": [[1.0, 2.0], [3.0, 257.0]], "b": [[1.0, 0.5], [2.0, 1.0]]},
        check="value",
    ),
    Row(
        "Weights in float32, computation in bfloat16",
        torch="""
            linear = nn.Linear(2, 3)
            with torch.autocast("cpu", torch.bfloat16):
                z = linear(x.float())
            y = str(linear.weight.dtype)[6:], str(z.dtype)[6:]
        """,
        jax="""
            linear = nnx.Linear(2, 3, dtype=jnp.bfloat16, rngs=rngs)
            z = linear(x)
            y = str(linear.kernel.dtype), str(z.dtype)
        """,
        trap="`param_dtype` makes the weights themselves small, and small updates are lost in "
        "them.",
        naive="""
            linear = nnx.Linear(2, 3, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=rngs)
            z = linear(x)
            y = str(linear.kernel.dtype), str(z.dtype)
        """,
        given={"x": (4, 2)},
        check="value",
    ),
    Row(
        "DistributedDataParallel",
        torch="""
            import torch.distributed as dist
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            linear = nn.Linear(3, 1, bias=False).double()
            nn.init.ones_(linear.weight)
            model = nn.parallel.DistributedDataParallel(linear)
            model(x).square().mean().backward()
            dist.destroy_process_group()
            y = linear.weight.grad[0]
        """,
        jax="""
            from jax.sharding import AxisType, NamedSharding, PartitionSpec
            mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
            rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
            y = jax.jit(jax.grad(lambda w: jnp.square(rows @ w).mean()))(jnp.ones(3))
        """,
        trap="A sharded array is one array: its mean is over the whole batch. DDP takes the mean "
        "of each process's mean, which is another number where they hold unequal rows.",
        naive="""
            grad = jax.jit(jax.grad(lambda w, rows: jnp.square(rows @ w).mean()))
            y = (grad(jnp.ones(3), x[:1]) + grad(jnp.ones(3), x[1:])) / 2
        """,
        given={"x": (4, 3)},
        check="value",
    ),
    Row(
        "checkpoint",
        torch="""
            from torch.utils.checkpoint import checkpoint
            y = checkpoint(lambda x: x.sin().exp(), x, use_reentrant=False).sum()
        """,
        jax="y = jax.checkpoint(lambda x: jnp.exp(jnp.sin(x)))(x).sum()",
        trap="It saves memory and changes no number; it wraps a function and returns a function.",
        naive="y = jax.checkpoint(lambda x: jnp.exp(jnp.sin(x)), x).sum()",
        raises=TypeError,
        given={"x": (3,)},
    ),
    Row(
        "vmap",
        torch="y = torch.vmap(lambda row, w: (row @ w).tanh(), in_dims=(0, None))(x, w)",
        jax="y = jax.vmap(lambda row, w: jnp.tanh(row @ w), in_axes=(0, None))(x, w)",
        trap="The default maps over the first axis of every argument.",
        naive="y = jax.vmap(lambda row, w: jnp.tanh(row @ w))(x, w)",
        raises=ValueError,
        given={"x": (4, 3), "w": (3, 2)},
    ),
    Row(
        "Gradient of each row",
        torch="""
            grad = torch.func.grad(lambda w, row: (row @ w).square())
            y = torch.func.vmap(grad, in_dims=(None, 0))(w, x)
        """,
        jax="""
            grad = jax.grad(lambda w, row: jnp.square(row @ w))
            y = jax.vmap(grad, in_axes=(None, 0))(w, x)
        """,
        trap="The gradient of the batch's loss has lost the rows.",
        naive="y = jax.grad(lambda w: jnp.square(x @ w).sum())(w)",
        given={"x": (4, 3), "w": (3,)},
        check="value",
    ),
]
