"""Rows: the loop, data, seeds, devices, precision."""

from phrasebook.row import Row

ROWS = [
    Row(
        "A learning rate set by hand",
        torch="""
            w.requires_grad_()
            optimizer = optim.SGD([w], lr=0.1)
            for rate in (0.1, 0.01):
                optimizer.param_groups[0]["lr"] = rate
                w.grad = torch.ones_like(w)
                optimizer.step()
            y = w
        """,
        jax="""
            optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
            state = optimizer.init(w)
            for rate in (0.1, 0.01):
                state.hyperparams["learning_rate"] = jnp.asarray(rate)
                updates, state = optimizer.update(jnp.ones_like(w), state)
                w = optax.apply_updates(w, updates)
            y = w
        """,
        trap="A rate is a constant of the optimizer, unless `inject_hyperparams` makes it part of "
        "the state.",
        naive="""
            optimizer = optax.sgd(0.1)
            state = optimizer.init(w)
            for rate in (0.1, 0.01):
                updates, state = optimizer.update(jnp.ones_like(w), state)
                w = optax.apply_updates(w, updates)
            y = w
        """,
        given={"w": (3,)},
        check="value",
    ),
    Row(
        "Accumulated gradients",
        torch="""
            w.requires_grad_()
            optimizer = optim.SGD([w], lr=0.1)
            for row in x:
                ((row @ w).square() / 4).backward()
            optimizer.step()
            y = w
        """,
        jax="""
            optimizer = optax.MultiSteps(
                optax.sgd(0.1), every_k_schedule=4, accumulator_dtype=w.dtype
            )
            state = optimizer.init(w)
            for row in x:
                grads = jax.grad(lambda w, row: jnp.square(row @ w))(w, row)
                updates, state = optimizer.update(grads, state, w)
                w = optax.apply_updates(w, updates)
            y = w
        """,
        trap="`MultiSteps` takes the mean of the gradients, `backward` their sum: divide once, not "
        "twice. It adds up in float32 unless told otherwise.",
        naive="""
            optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=4)
            state = optimizer.init(w)
            for row in x:
                grads = jax.grad(lambda w, row: jnp.square(row @ w) / 4)(w, row)
                updates, state = optimizer.update(grads, state, w)
                w = optax.apply_updates(w, updates)
            y = w
        """,
        given={"w": (3,), "x": (4, 3)},
        check="value",
    ),
    Row(
        "Moving average of parameters",
        torch="""
            from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
            model = nn.Linear(1, 1, bias=False).double()
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            for value in w:
                nn.init.constant_(model.weight, value)
                averaged.update_parameters(model)
            y = averaged.module.weight[0, 0]
        """,
        jax="""
            average = w[0]  # the first value is taken whole
            for value in w[1:]:
                average = optax.incremental_update(value, average, step_size=1 - 0.9)
            y = average
        """,
        trap="`step_size` is the share of the new parameters: 1 minus PyTorch's decay.",
        naive="""
            average = w[0]
            for value in w[1:]:
                average = optax.incremental_update(value, average, step_size=0.9)
            y = average
        """,
        given={"w": (4,)},
        check="value",
    ),
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
            del model  # first: as the last to hold the group it may hang
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
]
