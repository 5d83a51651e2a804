"""`check_gradient`: is this the gradient of this function? Needs no reference and no step size.

The Taylor test (see dolfin-adjoint's documentation): along v the remainder f(p + h v) - f(p) -
h <g, v> falls as h^2 if g is the gradient, as h if it is not. An error of 1e-6 stays hidden under
h^2 until rounding covers both. So f(p + h v) is split into an odd and an even part of h:

- odd, (f(p + h v) - f(p - h v)) / 2 - h <g, v>: falls as h^3 if g is right, as h if it is wrong;
- even, f(p + h v) - 2 f(p) + f(p - h v): independent of g, so it tells kinks from errors. It falls
  as h^2 where f is smooth; a kink at distance t < h adds (h - t) times its jump of slope, and at
  most half as much to the odd part. At t = 0, a tie, it falls as h.

f alone gives the derivative with a bar, as in Ridders' method: from the change of the odd part on
halving h, three times what the even part shows of kinks, and the rounding (the scatter of f about a
parabola on a very short segment). <g, v> must lie within the smallest bar of the ladder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.report import ParityError
from jaxnet.parity.taylor import GRADIENT, LADDER, RESOLUTION, SURE, Line

VERDICTS = ("wrong", "not compared", "tie", "correct")


class Slope(NamedTuple):
    """One leaf, along the worst of its directions v.

    claimed: <g, v>. derivative, bar: that of f alone, and how far <g, v> may be from it; at a tie,
    the middle between the one-sided derivatives, and half their distance.
    slope: of the odd remainder in h: about 3 if right, 1 if wrong, NaN if it is within rounding.
    kinks: how many steps of the ladder were left out as a kink was found within (-h, h).
    h: the finest and the coarsest step that the derivative is from; v has the scale of the leaf.
    """

    leaf: str
    verdict: str
    claimed: float
    derivative: float
    bar: float
    slope: float
    kinks: int
    h: tuple[float, float]

    @property
    def error(self) -> float:
        """The relative error of the directional derivative."""
        scale = max(abs(self.claimed), abs(self.derivative))
        return abs(self.claimed - self.derivative) / scale if scale else 0.0

    def __str__(self) -> str:
        slope = "none" if math.isnan(self.slope) else f"{self.slope:.2f}"
        return (
            f"{self.leaf}: {self.verdict}, <g, v> = {self.claimed:.9g}, of f {self.derivative:.9g} "
            f"+- {self.bar:.1e}, relative error {self.error:.1e}, slope {slope}, "
            f"kinks in {self.kinks} of {len(LADDER)} steps, h {self.h[0]:.0e} to {self.h[1]:.0e}"
        )


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradient`: a line for each leaf, then one for all leaves together."""

    leaves: tuple[Slope, ...]

    @property
    def verdict(self) -> str:
        """The worst of the leaves': "wrong", "not compared", "tie" or "correct".

        "not compared": f is too noisy or too rough to tell. "tie": the parameters lie on a kink,
        where the gradient is a convention: neither right nor wrong.
        """
        return min((leaf.verdict for leaf in self.leaves), key=VERDICTS.index)

    @property
    def first(self) -> Slope | None:
        """The first leaf whose gradient is wrong."""
        return next((leaf for leaf in self.leaves if leaf.verdict == "wrong"), None)

    def raise_for_mismatch(self) -> None:
        """Raise ParityError, with this report as its message, if "wrong" or "not compared"."""
        if self.verdict in ("wrong", "not compared"):
            raise ParityError(str(self))

    def __str__(self) -> str:
        first = f", first wrong leaf: {self.first.leaf}" if self.first else ""
        return "\n  ".join([f"gradient: {self.verdict}{first}", *map(str, self.leaves)])


def check_gradient(
    f: Callable[[Any, Any], Any],
    params: Any,
    batch: Any,
    *,
    gradient: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    directions: int = 2,
) -> GradientReport:
    """Test the gradient of f(params, batch) -> scalar at `params`, in float64, leaf by leaf.

    f: a JAX function or, with a `gradient`, a NumPy function. params: any pytree of floating
    leaves; batch: any pytree; both are cast to float64, and no flag need be set.
    gradient(params, batch) -> a pytree like params; jax.grad(f) by default.
    directions: for each leaf; random, and tilted towards the claimed gradient, so that its length
    is seen. An error below the bars passes, as does one in very few of very many elements.

    Raises: ValueError for params that are empty, not floating or not finite; for f or a gradient
    that is not float64, not finite, or of another shape.
    """
    import jax

    if directions < 1:
        raise ValueError(f"`directions` must be 1 or more, got {directions}")
    with jax.enable_x64(True), np.errstate(all="ignore"):
        point = _Point(f, params, batch, gradient)
        rng = np.random.default_rng(seed)
        targets = [(name, [i]) for i, name in enumerate(point.names)]
        targets += [("all leaves together", list(range(len(point.names))))]
        found = []
        for name, chosen in targets:
            lines = [_test(point, name, chosen, rng) for _ in range(directions)]
            found.append(min(lines, key=lambda a: (VERDICTS.index(a.verdict), -a.error)))
    return GradientReport(tuple(found))


class _Point:
    """f and its claimed gradient at a list of float64 leaves."""

    def __init__(self, f, params, batch, gradient):
        import jax

        paths, self.tree = jax.tree_util.tree_flatten_with_path(params)
        self.names = _named(paths)
        self.batch = jax.tree.map(_float64, batch)
        leaves = [_float64(leaf) for _, leaf in paths]
        _check_params(self.names, leaves)
        nested = self.tree.unflatten(leaves)
        try:
            jax.eval_shape(f, nested, self.batch)
            self.f = jax.jit(f)
        except Exception:  # a NumPy function, or a mistake: the call below tells
            self.f = f
        _check_value(self.f(nested, self.batch))
        if gradient is None and self.f is f:
            raise ValueError("`f` must be traceable by JAX unless `gradient` is given, got neither")
        self.gradient = gradient or jax.jit(jax.grad(f))
        self.move(leaves)

    def move(self, leaves: list[np.ndarray]) -> None:
        """Go to other leaves, and take the claimed gradient there."""
        import jax

        grads = self.gradient(self.tree.unflatten(leaves), self.batch)
        paths, _ = jax.tree_util.tree_flatten_with_path(grads)
        self.leaves, self.grads = leaves, [np.asarray(leaf) for _, leaf in paths]
        got = [f"{n} {g.dtype}{g.shape}" for n, g in zip(_named(paths), self.grads, strict=True)]
        want = [f"{n} {p.dtype}{p.shape}" for n, p in zip(self.names, leaves, strict=True)]
        if got != want:
            raise ValueError(f"`gradient` must return {', '.join(want)}; got {', '.join(got)}")
        for name, g in zip(self.names, self.grads, strict=True):
            if not np.isfinite(g).all():
                bad = g[~np.isfinite(g)][0]
                raise ValueError(f"`gradient` must be finite, got {bad} in {name}")

    def along(self, v: list[np.ndarray]) -> Callable[[float], float]:
        """t -> f(p + t v)."""

        def value(t):
            moved = [p + t * d for p, d in zip(self.leaves, v, strict=True)]
            return float(self.f(self.tree.unflatten(moved), self.batch))

        return value

    def units(self) -> list[float]:
        """The scale of each leaf: its root mean square, or that of all if it is 0."""
        squares = [float(np.square(p).sum()) for p in self.leaves]
        every = math.sqrt(sum(squares) / sum(p.size for p in self.leaves))
        pairs = zip(squares, self.leaves, strict=True)
        return [math.sqrt(s / p.size) if s else every or 1.0 for s, p in pairs]

    def direction(self, chosen: list[int], rng: np.random.Generator) -> list[np.ndarray]:
        """Random within the chosen leaves, with as long a part along the claimed gradient."""
        units = self.units()
        flat = np.concatenate([np.ravel(units[i] * self.grads[i]) for i in chosen])
        flat = flat / (np.abs(flat).max(initial=0) or 1.0)
        flat *= math.sqrt(flat.size) / (math.sqrt(float(flat @ flat)) or 1.0)
        flat += rng.standard_normal(flat.size)
        v = [np.zeros_like(p) for p in self.leaves]
        ends = np.cumsum([self.leaves[i].size for i in chosen])[:-1]
        for i, part in zip(chosen, np.split(flat, ends), strict=True):
            v[i] = units[i] * part.reshape(v[i].shape)
        return v


def _test(point: _Point, name: str, chosen: list[int], rng, beside: bool = False) -> Slope:
    v = point.direction(chosen, rng)
    claimed = float(sum(np.vdot(point.grads[i], v[i]) for i in chosen))
    line = Line(point.along(v), rng)
    derivative, bar, place = line.derivative()
    steepest = float(line.most[place] / LADDER[place])
    bar, kink = bar + GRADIENT * steepest, line.kink()
    if line.is_tie():
        (derivative, bar), kink, verdict = line.sides(), 0.0, "tie"
        # Where several units tie, one convention for all may leave the interval: judge beside it.
        if abs(claimed - derivative) > bar and not beside:
            verdict = _beside(point, name, chosen, rng)
    elif bar > RESOLUTION * steepest and np.any(line.most > SURE * line.noise):
        verdict = "not compared"
    else:
        verdict = "correct" if abs(claimed - derivative) <= bar else "wrong"
    slope, crossed = line.slope(claimed, kink), int((kink < LADDER).sum())
    steps = (float(LADDER[place + 2]), float(LADDER[place]))
    return Slope(name, verdict, claimed, derivative, bar, slope, crossed, steps)


def _beside(point: _Point, name: str, chosen: list[int], rng) -> str:
    """Return "wrong" if the gradient is wrong at a random point close by too, else "tie"."""
    here = point.leaves
    pairs = zip(here, point.units(), strict=True)
    point.move([p + u / 128 * rng.standard_normal(p.shape) for p, u in pairs])
    found = _test(point, name, chosen, rng, beside=True)
    point.move(here)
    return "wrong" if found.verdict == "wrong" else "tie"


def _named(paths: Any) -> list[str]:
    import jax

    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return [name.removesuffix("/value") or "params" for name in names]


def _float64(leaf: Any) -> Any:
    """Floats as a float64 array, anything else as it is."""
    import jax.numpy as jnp

    if isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating):
        return np.asarray(leaf).astype(np.float64)
    return leaf


def _check_params(names: list[str], leaves: list[Any]) -> None:
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, np.ndarray) or leaf.dtype != np.float64:
            got = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(f"`params` must be floating, got {got} in {name}")
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"`params` must be finite, got {leaf[~np.isfinite(leaf)][0]} in {name}"
            )
    if not sum(leaf.size for leaf in leaves):
        raise ValueError(f"`params` must hold at least one number, got leaves {names}")


def _check_value(value: Any) -> None:
    value = np.asarray(value)
    if value.shape != ():
        raise ValueError(f"`f` must return a scalar, got shape {value.shape}")
    if value.dtype != np.float64:
        raise ValueError(f"`f` must return float64 for float64 parameters, got {value.dtype}")
    if not np.isfinite(value):
        raise ValueError(f"`f` must be finite at `params`, got {value}")
