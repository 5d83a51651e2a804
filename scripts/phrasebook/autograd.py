"""Rows: gradients."""

from phrasebook.row import Row

ROWS = [
    Row(
        "Gradient of a loss",
        torch="""
            w.requires_grad_()
            loss = (x @ w).pow(2).sum()
            loss.backward()
            y = loss, w.grad
        """,
        jax="""
            def loss_fn(w):
                return ((x @ w) ** 2).sum()

            y = jax.value_and_grad(loss_fn)(w)
        """,
        trap="A gradient is of a function, not of a tensor that remembers where it came from: "
        "the loss must be computed from the argument.",
        naive="""
            loss = ((x @ w) ** 2).sum()
            y = jax.value_and_grad(lambda w: loss)(w)
        """,
        given={"x": (4, 3), "w": (3, 2)},
        check="value",
    ),
    Row(
        "Gradients of several tensors",
        torch="y = torch.autograd.grad((a.requires_grad_() * b.requires_grad_()).sum(), (a, b))",
        jax="y = jax.grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(a, b)",
        trap="`jax.grad` differentiates the first argument alone; parameters are best one "
        "argument, a dictionary.",
        naive="y = jax.grad(lambda a, b: (a * b).sum())(a, b)",
        given={"a": (3,), "b": (3,)},
        check="value",
    ),
    Row(
        "Gradients accumulate",
        torch="""
            w.requires_grad_()
            for row in x:
                (row @ w).square().backward()
            y = w.grad
        """,
        jax="""
            grad = jax.grad(lambda w, row: jnp.square(row @ w))
            y = jnp.zeros_like(w)
            for row in x:
                y = y + grad(w, row)
        """,
        trap="`backward` adds to `.grad` until `zero_grad`. `jax.grad` returns a new gradient, "
        "and nothing need be set to zero.",
        naive="""
            grad = jax.grad(lambda w, row: jnp.square(row @ w))
            for row in x:
                y = grad(w, row)
        """,
        given={"x": (4, 3), "w": (3,)},
        check="value",
    ),
    Row(
        "Update without recording",
        torch="""
            w.requires_grad_()
            (x @ w).square().sum().backward()
            with torch.no_grad():
                w -= 0.1 * w.grad
            y = w
        """,
        jax="""
            w = w - 0.1 * jax.grad(lambda w: jnp.square(x @ w).sum())(w)
            y = w
        """,
        trap="There is no `no_grad`: nothing is recorded outside `jax.grad`. What an update "
        "returns must be kept.",
        naive="""
            w - 0.1 * jax.grad(lambda w: jnp.square(x @ w).sum())(w)
            y = w
        """,
        given={"x": (4, 3), "w": (3,)},
        check="value",
    ),
    Row(
        "detach",
        torch="y = (x.detach() * x).sum()",
        jax="y = (jax.lax.stop_gradient(x) * x).sum()",
        trap="Inside a function that is differentiated, everything that comes from its argument "
        "counts.",
        naive="y = (x * x).sum()",
        given={"x": (3,)},
    ),
    Row(
        "no_grad inside a forward pass",
        torch="""
            with torch.no_grad():
                scale = x.abs().max()
            y = (x / scale).sum()
        """,
        jax="""
            scale = jax.lax.stop_gradient(jnp.abs(x).max())
            y = (x / scale).sum()
        """,
        trap="A context cannot stop a gradient in JAX; `stop_gradient` of each result does.",
        naive="y = (x / jnp.abs(x).max()).sum()",
        given={"x": (3,)},
    ),
    Row(
        "backward of a vector",
        torch="""
            x.requires_grad_()
            x.sin().backward(v)
            y = x.grad
        """,
        jax="""
            value, pullback = jax.vjp(jnp.sin, x)
            (y,) = pullback(v)
        """,
        trap="`jax.grad` is for functions that return one number.",
        naive="y = jax.grad(jnp.sin)(x)",
        raises=TypeError,
        given={"x": (3,), "v": (3,)},
        check="value",
    ),
    Row(
        "retain_graph",
        torch="""
            x.requires_grad_()
            value = x.prod()
            first = torch.autograd.grad(value, x, retain_graph=True)
            y = first, torch.autograd.grad(2 * value, x)
        """,
        jax="""
            value, pullback = jax.vjp(jnp.prod, x)
            y = pullback(jnp.ones_like(value)), pullback(2 * jnp.ones_like(value))
        """,
        trap="A pullback may be called as often as you like, but its argument must have the "
        "output's dtype: an integer is refused.",
        naive="""
            value, pullback = jax.vjp(jnp.prod, x)
            y = pullback(1), pullback(2)
        """,
        raises=ValueError,
        given={"x": (4,)},
        check="value",
    ),
    Row(
        "autograd.Function",
        torch="""
            class MyReLU(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x):
                    ctx.save_for_backward(x)
                    return x.clamp(min=0)
                @staticmethod
                def backward(ctx, grad):
                    (x,) = ctx.saved_tensors
                    return torch.where(x < 0, 0, grad)

            y = MyReLU.apply(x).sum()
        """,
        jax="""
            @jax.custom_vjp
            def my_relu(x):
                return jnp.maximum(x, 0)
            def forward(x):
                return my_relu(x), x
            def backward(x, grad):
                return (jnp.where(x < 0, 0, grad),)
            my_relu.defvjp(forward, backward)

            y = my_relu(x).sum()
        """,
        trap="`backward` returns a tuple, one gradient for each argument. Without the rule of "
        "one's own, the gradient is that of the operations.",
        naive="y = jnp.maximum(x, 0).sum()",
        given={"x": [-1.0, 0.0, 2.0]},
    ),
    Row(
        "A hook that changes a gradient",
        torch="""
            h = x.requires_grad_().sin()
            h.register_hook(lambda grad: 2 * grad)
            (h * h).sum().backward()
            y = x.grad
        """,
        jax="""
            @jax.custom_vjp
            def double_gradient(h):
                return h
            double_gradient.defvjp(lambda h: (h, None), lambda _, grad: (2 * grad,))

            y = jax.grad(lambda x: (double_gradient(jnp.sin(x)) ** 2).sum())(x)
        """,
        trap="There are no hooks: an identity with a backward rule of its own stands in their "
        "place. To multiply the value changes the loss as well.",
        naive="y = jax.grad(lambda x: ((2 * jnp.sin(x)) ** 2).sum())(x)",
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "Gradient of an intermediate value",
        torch="""
            h = x.requires_grad_().sin()
            h.retain_grad()
            (h * h).sum().backward()
            y = h.grad
        """,
        jax="""
            def loss_fn(x, shift):
                h = jnp.sin(x) + shift
                return (h * h).sum()

            y = jax.grad(loss_fn, argnums=1)(x, jnp.zeros(3))
        """,
        trap="Its gradient is that of a zero that is added to it; the gradient of the input is "
        "another.",
        naive="y = jax.grad(lambda x: (jnp.sin(x) ** 2).sum())(x)",
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "Second derivative",
        torch="""
            x.requires_grad_()
            (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
            (y,) = torch.autograd.grad(first.sum(), x)
        """,
        jax="""
            first = jax.grad(lambda x: (x**3).sum())
            y = jax.grad(lambda x: first(x).sum())(x)
        """,
        trap="The gradient of a sum of gradients is a product with the Hessian; for the Hessian "
        "itself there is `jax.hessian`.",
        naive="y = jax.jit(jax.hessian(lambda x: (x**3).sum()))(x)",
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "Jacobian and Hessian",
        torch="""
            jacobian = torch.func.jacrev(torch.sin)(x)
            y = jacobian, torch.func.hessian(lambda x: (x**3).sum())(x)
        """,
        jax="y = jax.jacrev(jnp.sin)(x), jax.hessian(lambda x: (x**3).sum())(x)",
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "Forward mode",
        torch="y = torch.func.jvp(torch.sin, (x,), (v,))",
        jax="y = jax.jvp(jnp.sin, (x,), (v,))",
        given={"x": (3,), "v": (3,)},
        check="value",
    ),
    Row(
        "Loop of unknown length",
        torch="""
            for _ in range(n):
                x = torch.sin(x)
            y = x.sum()
        """,
        jax="""
            def turn(x, i):
                return jnp.where(i < n, jnp.sin(x), x), None
            y = jax.lax.scan(turn, x, jnp.arange(5))[0].sum()
        """,
        trap="`jax.lax.while_loop`, and `fori_loop` of a traced length, have no backward pass: "
        "`scan` over the largest length, and `where`.",
        naive="y = jax.lax.fori_loop(0, n, lambda i, x: jnp.sin(x), x).sum()",
        raises=ValueError,
        given={"x": (3,), "n": 2},
    ),
]
