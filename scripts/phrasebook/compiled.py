"""Rows: functions that are compiled, mapped, or computed again."""

from phrasebook.row import Row

ROWS = [
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
