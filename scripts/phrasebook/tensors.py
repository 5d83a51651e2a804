"""Rows: what a tensor is, what its elements are, and how arrays are put together."""

import jax

from phrasebook.row import Row

ROWS = [
    Row(
        "matmul of batches",
        torch="y = a @ b",
        jax="y = a @ b",
        trap="`@` multiplies matrix by matrix, in both. `jnp.dot` pairs every matrix with every "
        "other, as NumPy's does.",
        naive="y = jnp.dot(a, b)",
        given={"a": (2, 3, 4), "b": (2, 4, 5)},
    ),
    Row(
        "size and numel",
        torch="y = x.size(0), x.numel()",
        jax="y = x.shape[0], x.size",
        trap="`x.size` is a number in JAX and NumPy, not a method.",
        naive="y = x.size(0), x.size",
        raises=TypeError,
        given={"x": (3, 5)},
        check="value",
    ),
    Row(
        "Default dtype",
        torch="y = str(torch.tensor([1.0]).dtype).removeprefix('torch.')",
        jax="y = str(jnp.array([1.0], jnp.float32).dtype)",
        trap="With the x64 flag on, as on this page, Python numbers become float64; without it "
        "float32.",
        naive="y = str(jnp.array([1.0]).dtype)",
        check="value",
    ),
    Row(
        "Integers of 64 bits",
        torch="y = torch.tensor([2**31]) + 1",
        jax="""
            with jax.enable_x64(True):
                y = jnp.array([2**31]) + 1
        """,
        trap="Without the x64 flag, JAX's integers have 32 bits: a number that does not fit is an "
        "error, and a sum wraps around.",
        naive="""
            with jax.enable_x64(False):
                y = jnp.array([2**31 - 1]) + 2
        """,
        check="value",
    ),
    Row(
        "Float array with a NumPy number",
        torch="y = str((x.float() * np.float64(0.5)).dtype).removeprefix('torch.')",
        jax="y = str((x.astype(jnp.float32) * 0.5).dtype)",
        trap="A Python number leaves the dtype alone, in both. A NumPy number has a dtype of its "
        "own, and JAX promotes by it where PyTorch does not.",
        naive="y = str((x.astype(jnp.float32) * np.float64(0.5)).dtype)",
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "Integer array with a Python float",
        torch="y = str((i * 0.5).dtype).removeprefix('torch.')",
        jax="y = str((i * jnp.float32(0.5)).dtype)",
        trap="The result has the default dtype: float32 in PyTorch, float64 in JAX with the x64 "
        "flag.",
        naive="y = str((i * 0.5).dtype)",
        given={"i": [1, 2, 3]},
        check="value",
    ),
    Row(
        "bfloat16 with float16",
        torch="""
            z = torch.ones(2, dtype=torch.bfloat16) + torch.ones(2, dtype=torch.float16)
            y = str(z.dtype).removeprefix("torch.")
        """,
        jax="y = str((jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float16)).dtype)",
        check="value",
    ),
    Row(
        "Floor division",
        torch="y = a // b, torch.div(a, b, rounding_mode='trunc')",
        jax="y = a // b, jax.lax.div(a, b)",
        trap="`//` rounds down in both; `jax.lax.div` of integers rounds towards 0.",
        naive="y = jax.lax.div(a, b), jax.lax.div(a, b)",
        given={"a": [-7, 7, -6], "b": [2, -2, 4]},
        check="value",
    ),
    Row(
        "Remainder",
        torch="y = a % b, torch.fmod(a, b)",
        jax="y = a % b, jnp.fmod(a, b)",
        trap="`%` has the sign of the divisor in both; `jax.lax.rem` is `fmod`, whose sign is the "
        "dividend's.",
        naive="y = jax.lax.rem(a, b), jnp.fmod(a, b)",
        given={"a": [-7, 7, -6], "b": [2, -2, 4]},
        check="value",
    ),
    Row(
        "Division of integers by zero",
        torch="""
            try:
                y = a // 0
            except RuntimeError:
                y = "RuntimeError"
        """,
        jax="""
            from jax.experimental import checkify
            error, _ = checkify.checkify(lambda a: a // 0, errors=checkify.div_checks)(a)
            y = "RuntimeError" if error.get() else "no error"
        """,
        trap="JAX raises no error for numbers: whether one occurred must be asked with `checkify`.",
        naive="y = a // 0",
        given={"a": [7, -7]},
        check="value",
    ),
    Row(
        "var and std",
        torch="y = x.var(dim=0), x.std()",
        jax="y = x.var(axis=0, ddof=1), x.std(ddof=1)",
        trap="PyTorch divides by N - 1, `jnp` by N.",
        naive="y = x.var(axis=0), x.std()",
        given={"x": (3, 5)},
    ),
    Row(
        "median",
        torch="y = x.median()",
        jax="y = jnp.sort(x)[(x.size - 1) // 2]",
        trap="PyTorch takes the lower of the two in the middle, `jnp.median` their mean.",
        naive="y = jnp.median(x)",
        given={"x": [3.0, 1.0, 2.0, 7.0]},
        check="value",
    ),
    Row(
        "einsum",
        torch="y = torch.einsum('nij,njk,k->ni', a, b, v)",
        jax="y = jnp.einsum('nij,njk,k->ni', a, b, v)",
        given={"a": (2, 3, 4), "b": (2, 4, 5), "v": (5,)},
    ),
    Row(
        "repeat and repeat_interleave",
        torch="y = x.repeat(2, 1)",
        jax="y = jnp.tile(x, (2, 1))",
        trap="`jnp.repeat` repeats each row: it is `torch.repeat_interleave`.",
        naive="y = jnp.repeat(x, 2, axis=0)",
        given={"x": (3, 4)},
    ),
    Row(
        "split",
        torch="y = torch.split(x, 2, dim=1)",
        jax="y = jnp.split(x, [2, 4], axis=1)",
        trap="The number is the size of a piece in PyTorch, the number of pieces in `jnp.split`.",
        naive="y = jnp.split(x, 2, axis=1)",
        given={"x": (3, 6)},
        check="value",
    ),
    Row(
        "chunk",
        torch="y = torch.chunk(x, 4, dim=1)",
        jax="y = jnp.split(x, [2, 4], axis=1)  # pieces of ceil(6 / 4)",
        trap="`torch.chunk` may return fewer pieces than asked for: of 6 columns in 4 chunks it "
        "makes 3.",
        naive="y = jnp.array_split(x, 4, axis=1)",
        given={"x": (3, 6)},
        check="value",
    ),
    Row(
        "pad",
        torch="y = F.pad(x, (1, 2))",
        jax="y = jnp.pad(x, ((0, 0), (1, 2)))",
        trap="`F.pad` names the last axis first, and only those that are padded; one pair in "
        "`jnp.pad` serves all axes.",
        naive="y = jnp.pad(x, (1, 2))",
        given={"x": (3, 4)},
    ),
    Row(
        "numpy(), and writing there",
        torch="""
            y = x.numpy().copy()
            y[0] = 0
        """,
        jax="""
            y = np.array(x)
            y[0] = 0
        """,
        trap="`np.asarray` gives a read-only view of a JAX array. (PyTorch's `numpy()` gives one "
        "that shares memory: writing to it changes the tensor.)",
        naive="""
            y = np.asarray(x)
            y[0] = 0
        """,
        raises=ValueError,
        given={"x": (3,)},
        check="value",
    ),
    Row(
        "if on a value",
        torch="y = x if x.sum() > 0 else -x",
        jax="y = jnp.where(x.sum() > 0, x, -x)  # or jax.lax.cond",
        trap="While `jit` makes a program no value is known, and `if` needs one.",
        naive="y = x if x.sum() > 0 else -x",
        raises=jax.errors.TracerBoolConversionError,
        given={"x": (3, 2)},
    ),
]
