"""The programs that are tried: what this library compiles, in forms, sizes and dtypes at random.

A program is its source, a few lines of Python that define `f` and `args`. The same lines are run
here, and printed for a program that computes wrong numbers.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np

from jaxnet.spec import ACTIVATIONS, LOSSES

FORMS = {  # form -> what it is, in words
    "matvec": "a matrix times each row by vmap, squared and summed",
    "constant": "the rows times a matrix of one number, times the rows, summed",
    "rows": "the loss of each row by vmap",
    "network": "the loss and the gradient of a network",
    "mapped": "the loss and the gradient of several networks by vmap",
    "gram": "the loss and the gradient with the first layer in its dual form",
}
SMOOTH = tuple(loss for loss in LOSSES if loss != "quantile")  # which has a kink
KINKED = ("relu", "my_relu")
SHARES = (1, 1, 3, 6, 3, 2)  # how often each form is drawn
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129)
MOST_ROWS = 16  # the power of two around which the largest number of rows lies
NUMBERS = 2**18  # of the widest layer's outputs for all rows and networks, at most
FEW_ROWS = 128  # for bfloat16: of longer sums, rounded as they grow, nothing need be left
SLOW = 2**15  # the same where NumPy is slow: gelu's erf, and products in less precision


class Program(NamedTuple):
    """A program: its form and sizes (D_in, hidden..., D_out), and how it computes.

    rows, members: of the batch; networks that are mapped. products: "default", "highest", or
    "bfloat16". transposed: whether weights are (out, in). seed: of its numbers.
    """

    form: str
    rows: int
    sizes: tuple[int, ...]
    dtype: str = "float64"
    bias: bool = False
    activation: str = "relu"
    loss: str = "sum_squares"
    products: str = "default"
    transposed: bool = False
    members: int = 1
    seed: int = 0

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        text = f"{FORMS[self.form]}: {self.dtype}, {self.rows:,} rows, sizes {sizes}"
        if self.form in ("matvec", "constant"):
            return text
        options = [self.activation, self.loss, "biases" if self.bias else "no biases"]
        options += [f"{self.members} networks"] if self.form == "mapped" else []
        options += ["transposed weights"] if self.transposed else []
        options += [f"{self.products} products"] if self.products != "default" else []
        return f"{text}, {', '.join(options)}"

    def source(self) -> str:
        """Return the lines that define `f` and `args`, from the imports on."""
        lines = ["import jax", "import jax.numpy as jnp", "import numpy as np"]
        if self.dtype == "float64":
            lines.insert(1, 'jax.config.update("jax_enable_x64", True)')
        elif self.products == "highest":
            lines.insert(1, 'jax.config.update("jax_default_matmul_precision", "highest")')
        return "\n".join(lines) + "\n" + _LINES[self.form](self)

    def runnable(self) -> str:
        """Return a whole program, which prints how far compiled and op by op are apart."""
        return self.source() + (
            "compiled = jax.jit(f)(*args)\n"
            "with jax.disable_jit():\n"
            "    eager = f(*args)\n"
            "print(jax.tree.map(lambda a, b: float(abs(a - b).max()), compiled, eager))\n"
        )

    def load(self) -> tuple[Any, Any]:
        """Return `f` and `args` of the source. JAX's options are for `settings` to set."""
        lines = [line for line in self.source().splitlines() if "jax.config" not in line]
        names: dict[str, Any] = {}
        exec("\n".join(lines), names)
        return names["f"], names["args"]

    def settings(self) -> contextlib.ExitStack:
        """Return the context in which it is traced and run: JAX's options for it alone."""
        import jax

        stack = contextlib.ExitStack()
        stack.enter_context(jax.enable_x64(self.dtype == "float64"))
        highest = "highest" if self.products == "highest" else None
        stack.enter_context(jax.default_matmul_precision(highest))
        return stack


def _matvec(p: Program) -> str:
    (d,) = p.sizes
    return (
        f"rng = np.random.default_rng({p.seed})\n"
        f'm = rng.standard_normal(({d}, {d})).astype("{p.dtype}")\n'
        f'x = rng.standard_normal(({p.rows}, {d})).astype("{p.dtype}")\n'
        "f = jax.vmap(lambda m, row: jnp.sum((m @ row) ** 2), in_axes=(None, 0))\n"
        "args = m, x\n"
    )


def _constant(p: Program) -> str:
    (d,) = p.sizes
    return (
        f"rng = np.random.default_rng({p.seed})\n"
        f'x = rng.standard_normal(({p.rows}, {d})).astype("{p.dtype}")\n'
        f"f = lambda x, c: jnp.sum(x @ jnp.full(({d}, {d}), c) * x)\n"
        f'args = x, np.array(1.5, "{p.dtype}")\n'
    )


def _network(p: Program) -> str:
    precision = ', compute_dtype="bfloat16"' if p.products == "bfloat16" else ""
    lines = [
        "from functools import partial",
        "from jaxnet import data, net, train",
        "from jaxnet.spec import Batch, Spec",
        f'spec = Spec({p.sizes}, {p.bias}, "{p.activation}", "{p.loss}")',
        f'params = spec.init({p.seed}, "{p.dtype}")',
        f'batch = data.random_problem(spec, {p.rows}, {p.seed}, "{p.dtype}")',
        f'loss = partial(net.loss, activation="{p.activation}", loss="{p.loss}"{precision})',
    ]
    if p.form == "mapped":
        seeds = f"range({p.seed}, {p.seed + p.members})"
        lines[4] = f'members = [spec.init(seed, "{p.dtype}") for seed in {seeds}]'
        lines.insert(5, "params = jax.tree.map(lambda *leaves: np.stack(leaves), *members)")
    if p.transposed:
        lines.append("loss = train.transposed(loss)")
        where = "params = jax.vmap(train.transpose)(params)"
        lines.append(where if p.form == "mapped" else "params = train.transpose(params)")
    return "\n".join([*lines, "args = params, batch", ""])


def _one(p: Program) -> str:
    return _network(p) + "f = jax.value_and_grad(loss)\n"


def _mapped(p: Program) -> str:
    return _network(p) + "f = jax.vmap(jax.value_and_grad(loss), in_axes=(0, None))\n"


def _rows(p: Program) -> str:
    return _network(p) + (
        "of_row = lambda params, x, y: loss(params, Batch(x[None], y[None]))\n"
        "f = lambda params, batch: jax.vmap(of_row, (None, 0, 0))(params, batch.x, batch.y)\n"
    )


def _gram(p: Program) -> str:
    bias = ' + params["b1"]' if p.bias else ""
    return _network(p) + (
        f"offset = np.random.default_rng({p.seed + 1}).standard_normal(({p.rows}, {p.sizes[1]}))\n"
        f'args = params, batch, offset.astype("{p.dtype}")\n'
        "def dual(params, batch, offset):\n"
        f'    h = 0.5 * offset + batch.x @ params["w1"]{bias}\n'
        "    names = [name for name in params if name[1:] != '1']\n"
        "    above = {f'{name[0]}{int(name[1:]) - 1}': params[name] for name in names}\n"
        f'    return loss(above, Batch(net.ACTIVATIONS["{p.activation}"](h), batch.y))\n'
        "f = jax.value_and_grad(dual)\n"
    )


_LINES = {
    "matvec": _matvec,
    "constant": _constant,
    "rows": _rows,
    "network": _one,
    "mapped": _mapped,
    "gram": _gram,
}

# form -> the releases of jaxlib that compile it wrong on CPUs, and where that was reported
FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "matvec": (("0.10.2",), "jax#39103"),
    "constant": (("0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1"), ""),
}
RIGHT = "0.10.1"  # the newest release in which nothing was found wrong

# the programs that show the faults of releases of jaxlib, each first in float64, then in float32
KNOWN = (
    Program("matvec", 20_000, (3,)),
    Program("matvec", 40_000, (3,), "float32"),
    Program("constant", 1000, (8,)),
    Program("constant", 1000, (8,), "float32"),
)


def draw(rng: np.random.Generator, platform: str) -> Program:
    """Return a program at random, of sizes that NumPy computes in a second."""
    shares = np.array(SHARES) / sum(SHARES)
    form = str(rng.choice(list(FORMS), p=shares))
    dtype = str(rng.choice(["float64", "float32"]))
    layers = 0 if form in ("matvec", "constant") else int(rng.integers(1 + (form == "gram"), 4))
    sizes = tuple(int(rng.choice(WIDTHS)) for _ in range(layers + 1))
    program = Program(form, 1, sizes, dtype, seed=int(rng.integers(0, 1000)))
    if layers:
        program = program._replace(
            bias=bool(rng.integers(2)),
            activation=str(rng.choice(ACTIVATIONS)),
            loss=str(rng.choice(SMOOTH)),
            transposed=bool(rng.integers(2)) and form != "gram",
            members=int(rng.integers(2, 5)) if form == "mapped" else 1,
        )
    if dtype == "float32":
        program = program._replace(products=_products(rng, program, platform))
    slow = program.activation == "gelu" or program.products != "default"
    most = (SLOW if slow else NUMBERS) // (program.members * max(sizes))
    most = min(most, FEW_ROWS) if program.products == "bfloat16" else most
    power = int(rng.integers(0, min(MOST_ROWS, most.bit_length() - 1) + 1))
    return program._replace(rows=max(1, 2**power + int(rng.integers(-1, 2))))


def _products(rng: np.random.Generator, program: Program, platform: str) -> str:
    """How a float32 program multiplies. A ReLU is not given products of rounded operands, which
    may move a unit to the other side of its kink: how far that goes has no limit.
    """
    full = "default" if platform == "cpu" else "highest"
    if program.form in ("rows", "network", "mapped", "gram") and program.activation in KINKED:
        return full
    coarse = "bfloat16" if program.form in ("network", "mapped") else "default"
    return str(rng.choice([full, "default", "default", coarse]))
