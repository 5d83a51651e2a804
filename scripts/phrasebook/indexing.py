"""Rows: reading and writing by index, shapes, sorting."""

import jax

from phrasebook.row import Row

ROWS = [
    Row(
        "Write to an element",
        torch="""
            y = x.clone()
            y[1] = 0
        """,
        jax="y = x.at[1].set(0)",
        trap="A JAX array is never written to; `.at` returns a new one. Under `jit` the old one's "
        "memory is used again where nothing else needs it.",
        naive="""
            y = x
            y[1] = 0
        """,
        raises=TypeError,
        given={"x": (3, 2)},
    ),
    Row(
        "Methods that end in an underscore",
        torch="y = x.clone().mul_(2).add_(v)",
        jax="y = x * 2 + v",
        trap="There is no operation in place, so no `add_`, `mul_`, `zero_`, `copy_`.",
        naive="y = (x * 2).add_(v)",
        raises=AttributeError,
        given={"x": (3, 2), "v": (2,)},
    ),
    Row(
        "An alias of a tensor",
        torch="""
            b = x.clone()
            a = b
            a[0] = 5
            y = b[0]
        """,
        jax="""
            b = x.at[0].set(5)
            a = b
            y = b[0]
        """,
        trap="In PyTorch two names may be one tensor, and a view shares its memory: a write to "
        "one is seen in the other. In JAX it never is: return the new array to who needs it.",
        naive="""
            b = x
            a = b
            a = a.at[0].set(5)
            y = b[0]
        """,
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "index_add, and indices that repeat",
        torch="y = x.index_add(0, i, v)",
        jax="y = x.at[i].add(v)",
        trap="`x[i] += v` counts a repeated index once, in PyTorch as in NumPy; `.at[i].add` and "
        "`index_add` count each.",
        naive="y = x.at[i].set(x[i] + v)",
        given={"x": (4, 2), "i": [1, 3, 1], "v": (3, 2)},
    ),
    Row(
        "gather",
        torch="y = x.gather(1, i)",
        jax="y = jnp.take_along_axis(x, i, axis=1)",
        trap="`jnp.take` takes the same columns of every row, as `index_select` does.",
        naive="y = jnp.take(x, i, axis=1)",
        given={"x": (2, 5), "i": [[0, 4, 4], [3, 0, 1]]},
    ),
    Row(
        "scatter",
        torch="y = x.scatter(1, i, v)",
        jax="y = x.at[jnp.arange(2)[:, None], i].set(v)",
        trap="`.at[:, i]` writes to the columns of every row.",
        naive="y = x.at[:, i].set(v)",
        given={"x": (2, 5), "i": [[0, 4, 2], [3, 0, 1]], "v": (2, 3)},
    ),
    Row(
        "scatter_add",
        torch="y = x.scatter_add(1, i, v)",
        jax="y = x.at[jnp.arange(2)[:, None], i].add(v)",
        trap="`set` keeps one of the values that meet in a place, which one is not promised; "
        "`add` adds them all.",
        naive="y = x.at[jnp.arange(2)[:, None], i].set(v)",
        given={"x": (2, 5), "i": [[0, 4, 4], [3, 3, 1]], "v": (2, 3)},
    ),
    Row(
        "Read out of range",
        torch="""
            try:
                y = x[i]
            except IndexError:
                y = "IndexError"
        """,
        jax="""
            from jax.experimental import checkify
            read = checkify.checkify(lambda x, i: x[i], errors=checkify.index_checks)
            error, _ = read(x, i)
            y = "IndexError" if error.get() else "no error"
        """,
        trap="PyTorch raises; JAX reads the last element and says nothing.",
        naive="y = x[i]",
        given={"x": [0.5, 1.5, 2.5], "i": 7},
        check="value",
    ),
    Row(
        "Write out of range",
        torch="""
            try:
                y = x.index_fill(0, i, 9.0)
            except IndexError:
                y = "IndexError"
        """,
        jax="""
            from jax.experimental import checkify
            write = checkify.checkify(lambda x, i: x.at[i].set(9), errors=checkify.index_checks)
            error, _ = write(x, i)
            y = "IndexError" if error.get() else "no error"
        """,
        trap="PyTorch raises; JAX leaves the write out and says nothing.",
        naive="y = x.at[i].set(9)",
        given={"x": [0.5, 1.5, 2.5], "i": [7]},
        check="value",
    ),
    Row(
        "Elements under a mask",
        torch="y = x[x > 0].sum()",
        jax="y = jnp.where(x > 0, x, 0).sum()",
        trap="Under `jit` every shape must be known, and how many elements a mask selects is not.",
        naive="y = x[x > 0].sum()",
        raises=jax.errors.NonConcreteBooleanIndexError,
        given={"x": (3, 2)},
    ),
    Row(
        "masked_fill",
        torch="y = x.masked_fill(mask, -1)",
        jax="y = jnp.where(mask, -1, x)",
        trap="`masked_fill` writes where the mask is True; `jnp.where` keeps its second argument "
        "there.",
        naive="y = jnp.where(mask, x, -1)",
        given={"x": (3,), "mask": [True, False, False]},
    ),
    Row(
        "flip",
        torch="y = x.flip(0)",
        jax="y = x[::-1]",
        trap="A negative step is an error in PyTorch, not in JAX. `jnp.flip` without an axis "
        "turns all of them.",
        naive="y = jnp.flip(x)",
        given={"x": (3, 2)},
    ),
    Row(
        "transpose of two axes",
        torch="y = x.transpose(0, 2)",
        jax="y = jnp.swapaxes(x, 0, 2)",
        trap="`transpose` takes two axes to swap in PyTorch, the order of all axes in JAX, where "
        "it is `permute`.",
        naive="y = x.transpose(0, 2)",
        raises=TypeError,
        given={"x": (2, 3, 4)},
    ),
    Row(
        "Transpose each matrix of a batch",
        torch="y = x.mT",
        jax="y = x.mT",
        trap="`x.T` of JAX and NumPy reverses the order of all axes.",
        naive="y = x.T",
        given={"x": (2, 3, 4)},
    ),
    Row(
        "NCHW to NHWC",
        torch="y = x.permute(0, 2, 3, 1)",
        jax="y = x.transpose(0, 2, 3, 1)",
        trap="A reshape has the right shape, and every pixel in the wrong place.",
        naive="y = x.reshape(2, 4, 5, 3)",
        given={"x": (2, 3, 4, 5)},
    ),
    Row(
        "view and expand",
        torch="y = x.view(2, 1, 3).expand(-1, 4, -1)",
        jax="y = jnp.broadcast_to(x.reshape(2, 1, 3), (2, 4, 3))",
        trap="`jnp.broadcast_to` needs every size: there is no -1.",
        naive="y = jnp.broadcast_to(x.reshape(2, 1, 3), (-1, 4, -1))",
        raises=ValueError,
        given={"x": (6,)},
    ),
    Row(
        "Column against row in a loss",
        torch="y = ((prediction - target[:, None]) ** 2).mean()",
        jax="y = ((prediction - target[:, None]) ** 2).mean()",
        trap="(5, 1) minus (5,) is (5, 5), in both. `F.mse_loss` warns of it; `jnp` does not.",
        naive="y = ((prediction - target) ** 2).mean()",
        given={"prediction": (5, 1), "target": (5,)},
    ),
    Row(
        "argmax with ties",
        torch="y = x.argmax(dim=1)",
        jax="y = x.argmax(axis=1)",
        trap="The first of equal elements, in both. Without an axis it is an index into the "
        "flattened array, in both.",
        naive="y = x.argmax()",
        given={"x": [[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]]},
        check="value",
    ),
    Row(
        "max along an axis with ties",
        torch="y = x.max(dim=1).values.sum()",
        jax="y = jnp.take_along_axis(x, x.argmax(axis=1)[:, None], axis=1).sum()",
        trap="The gradient of `max(dim)` goes to one of equal elements, that of `jnp.max` is "
        "divided among them, as that of `torch.amax` is.",
        naive="y = x.max(axis=1).sum()",
        given={"x": [[1.0, 3.0, 3.0], [2.0, 4.0, 0.0]]},
    ),
    Row(
        "amax with ties",
        torch="y = x.amax(dim=1).sum()",
        jax="y = x.max(axis=1).sum()",
        trap="Equal elements share the gradient, in both. The element at `argmax` takes all of it.",
        naive="y = jnp.take_along_axis(x, x.argmax(axis=1)[:, None], axis=1).sum()",
        given={"x": [[1.0, 3.0, 3.0], [2.0, 4.0, 0.0]]},
    ),
    Row(
        "sort downwards with ties",
        torch="y = x.argsort(descending=True, stable=True)",
        jax="y = jnp.argsort(x, descending=True)",
        trap="A sort upwards that is turned around has equal elements in the other order.",
        naive="y = jnp.argsort(x)[::-1]",
        given={"x": [2.0, 5.0, 2.0, 5.0]},
        check="value",
    ),
    Row(
        "topk",
        torch="y = x.topk(2, dim=0).values",
        jax="y = jax.lax.top_k(x.T, 2)[0].T",
        trap="`jax.lax.top_k` works on the last axis.",
        naive="y = jax.lax.top_k(x, 2)[0]",
        given={"x": (4, 3)},
        check="value",
    ),
]
