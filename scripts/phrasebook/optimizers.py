"""Rows: optimizers, decay, clipping, schedules, groups."""

from phrasebook.row import Row


def trained(title: str, torch: str, jax: str, trap: str = "", naive: str = "") -> Row:
    """Return a row of code that makes an optimizer."""
    return Row(title, torch, jax, trap, naive, check="training")


ROWS = [
    trained(
        "SGD",
        torch="optimizer = optim.SGD(params, lr=0.1)",
        jax="optimizer = optax.sgd(0.1)",
        trap="optax adds what an optimizer returns: the sign is in it already.",
        naive="optimizer = optax.scale(0.1)",
    ),
    trained(
        "Momentum",
        torch="optimizer = optim.SGD(params, lr=0.1, momentum=0.9)",
        jax="optimizer = optax.sgd(0.1, momentum=0.9)",
        trap="The default momentum is none, in both. Both add the whole gradient to the momentum, "
        "where Adam weighs it by 1 - 0.9.",
        naive="optimizer = optax.chain(optax.scale(1 - 0.9), optax.sgd(0.1, momentum=0.9))",
    ),
    trained(
        "Nesterov momentum",
        torch="optimizer = optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)",
        jax="optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)",
        trap="It is a switch, and off by default, in both.",
        naive="optimizer = optax.sgd(0.1, momentum=0.9)",
    ),
    trained(
        "Dampening",
        torch="optimizer = optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5)",
        jax="""
            from jaxnet import optimizers
            optimizer = optimizers.sgd(0.1, momentum=0.9, dampening=0.5)
        """,
        trap="PyTorch does not dampen the first gradient. optax has no dampening.",
        naive="optimizer = optax.chain(optax.scale(0.5), optax.sgd(0.1, momentum=0.9))",
    ),
    trained(
        "Weight decay of SGD",
        torch="optimizer = optim.SGD(params, lr=0.1, weight_decay=0.01)",
        jax="optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1))",
        trap="The order counts: what comes after `sgd` is not multiplied by the learning rate, "
        "and has not its sign.",
        naive="optimizer = optax.chain(optax.sgd(0.1), optax.add_decayed_weights(0.01))",
    ),
    trained(
        "Adam",
        torch="optimizer = optim.Adam(params, lr=0.01)",
        jax="optimizer = optax.adam(0.01)",
        trap="The defaults are the same. `eps_root` is another number than `eps`: it is added "
        "inside the root.",
        naive="optimizer = optax.adam(0.01, eps=0.0, eps_root=1e-8)",
    ),
    trained(
        "Adam with weight decay",
        torch="optimizer = optim.Adam(params, lr=0.01, weight_decay=0.1)",
        jax="optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))",
        trap="In `optim.Adam` the decay is added to the gradient, and so goes through the "
        "moments. `adamw` takes it from the weights.",
        naive="optimizer = optax.adamw(0.01, weight_decay=0.1)",
    ),
    trained(
        "AdamW",
        torch="optimizer = optim.AdamW(params, lr=0.01)",
        jax="optimizer = optax.adamw(0.01, weight_decay=0.01)",
        trap="The default decay is 1e-2 in PyTorch, 1e-4 in optax.",
        naive="optimizer = optax.adamw(0.01)",
    ),
    trained(
        "RMSprop",
        torch="optimizer = optim.RMSprop(params, lr=0.01)",
        jax="optimizer = optax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False)",
        trap="The defaults are 0.99 in PyTorch and 0.9 in optax, which adds its epsilon inside "
        "the root.",
        naive="optimizer = optax.rmsprop(0.01)",
    ),
    trained(
        "Adagrad",
        torch="optimizer = optim.Adagrad(params, lr=0.01)",
        jax="""
            from jaxnet import optimizers
            optimizer = optimizers.adagrad(0.01)
        """,
        trap="The sum of squares begins at 0 in PyTorch, at 0.1 in optax, which adds its epsilon "
        "of 1e-7 inside the root. From one sum, the epsilon alone makes a difference:",
        naive="optimizer = optax.adagrad(0.01)",
    ),
    trained(
        "clip_grad_norm_",
        torch="""
            optimizer = optim.SGD(params, lr=0.1)

            nn.utils.clip_grad_norm_(params, 1.0)
        """,
        jax="""
            def clip(grads, params):
                factor = jnp.minimum(1, 1.0 / (optax.tree.norm(grads) + 1e-6))
                return jax.tree.map(lambda g: factor * g, grads)
            optimizer = optax.chain(optax.stateless(clip), optax.sgd(0.1))
        """,
        trap="PyTorch adds 1e-6 to the norm, optax does not.",
        naive="optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))",
    ),
    trained(
        "clip_grad_value_",
        torch="""
            optimizer = optim.SGD(params, lr=0.1)

            nn.utils.clip_grad_value_(params, 0.5)
        """,
        jax="optimizer = optax.chain(optax.clip(0.5), optax.sgd(0.1))",
        trap="Clipping comes first in the chain. After `sgd` it clips the step.",
        naive="optimizer = optax.chain(optax.sgd(0.1), optax.clip(0.5))",
    ),
    trained(
        "StepLR",
        torch="""
            optimizer = optim.SGD(params, lr=0.1)

            scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        """,
        jax="""
            schedule = optax.exponential_decay(0.1, 2, 0.5, staircase=True)
            optimizer = optax.sgd(schedule)
        """,
        trap="A schedule is a function of the step, which optax counts itself: steps of the "
        "optimizer, not epochs. Without `staircase` the rate falls at each.",
        naive="optimizer = optax.sgd(optax.exponential_decay(0.1, 2, 0.5))",
    ),
    trained(
        "CosineAnnealingLR",
        torch="""
            optimizer = optim.SGD(params, lr=0.1)

            scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6, eta_min=0.01)
        """,
        jax="optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, 6, alpha=0.1))",
        trap="`eta_min` is a rate, `alpha` a share of the first rate.",
        naive="optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, 6, alpha=0.01))",
    ),
    trained(
        "LambdaLR with a warm-up",
        torch="""
            optimizer = optim.SGD(params, lr=0.1)

            scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1, (t + 1) / 4))
        """,
        jax="optimizer = optax.sgd(lambda t: 0.1 * jnp.minimum(1, (t + 1) / 4))",
        trap="A schedule is the rate itself, not a factor, and it is traced: no `min` of Python. "
        "`optax.linear_schedule` from 0 makes a first step of 0.",
        naive="optimizer = optax.sgd(optax.linear_schedule(0.0, 0.1, 4))",
    ),
    trained(
        "Parameter groups",
        torch="""
            groups = [{"params": [params[0]], "lr": 0.1}, {"params": [params[1]]}]
            optimizer = optim.SGD(groups, lr=0.01)
        """,
        jax="""
            optimizer = optax.partition(
                {"fast": optax.sgd(0.1), "slow": optax.sgd(0.01)}, {"w": "fast", "b": "slow"}
            )
        """,
        trap="`optax.masked` hands on what it leaves out as it is: the whole gradient is added to "
        "those parameters.",
        naive="optimizer = optax.masked(optax.sgd(0.1), {'w': True, 'b': False})",
    ),
    trained(
        "Frozen parameters",
        torch="""
            params[1].requires_grad_(False)
            optimizer = optim.AdamW(params, lr=0.01)
        """,
        jax="""
            adamw = optax.adamw(0.01, weight_decay=0.01)
            optimizer = optax.partition(
                {"train": adamw, "freeze": optax.set_to_zero()}, {"w": "train", "b": "freeze"}
            )
        """,
        trap="A gradient of 0 does not freeze a parameter: weight decay and momentum move it on.",
        naive="""
            zero = optax.masked(optax.set_to_zero(), {"w": False, "b": True})
            optimizer = optax.chain(zero, optax.adamw(0.01, weight_decay=0.01))
        """,
    ),
    trained(
        "No weight decay on biases",
        torch="""
            groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0}]
            optimizer = optim.AdamW(groups, lr=0.01, weight_decay=0.1)
        """,
        jax="optimizer = optax.adamw(0.01, weight_decay=0.1, mask={'w': True, 'b': False})",
        trap="The mask is True for what decays. Without it everything does, in both.",
        naive="optimizer = optax.adamw(0.01, weight_decay=0.1)",
    ),
]
