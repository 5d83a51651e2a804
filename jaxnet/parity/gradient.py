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
line, on steps too small for curvature). <g, v> must lie within the smallest bar of the ladder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.report import ParityError

LADDER = 2.0 ** -np.arange(33)  # the steps h, in units of a leaf's root mean square
EPS = 2.0**-52
SURE = 64.0  # times the rounding of f: what a second difference (10 of them at most) exceeds surely
GRADIENT = 1e-10  # of the slope of f: the rounding of the gradient itself
RESOLUTION = 1e-3  # of the slope of f: a wider bar decides nothing
VERDICTS = ("wrong", "not compared", "tie", "correct")


class Slope(NamedTuple):
    """One leaf, along the worst of its directions v.

    claimed: <g, v>. derivative, bar: that of f alone, and how far <g, v> may be from it; at a tie,
    the middle between the one-sided derivatives, and half their distance.
    slope: of the odd remainder in h: about 3 if right, 1 if wrong, NaN where it is all rounding.
    kinks: how many steps of the ladder were left out as a kink was found within (-h, h).
    h: the finest and the coarsest step that the derivative is from, in root mean squares of a leaf.
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
        lines = [f"gradient: {self.verdict}{first}"]
        for a in self.leaves:
            slope = "rounding" if math.isnan(a.slope) else f"{a.slope:.2f}"
            lines += [
                f"  {a.leaf}: {a.verdict}, <g, v> = {a.claimed:.9g}, of f {a.derivative:.9g} "
                f"+- {a.bar:.1e}, relative error {a.error:.1e}, slope {slope}, "
                f"kinks in {a.kinks} of {len(LADDER)} steps, h {a.h[0]:.0e} to {a.h[1]:.0e}"
            ]
        return "\n".join(lines)


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
    """f and its gradient at a list of float64 leaves."""

    def __init__(self, f, params, batch, gradient):
        import jax

        paths, self.tree = jax.tree_util.tree_flatten_with_path(params)
        self.names, leaves = _named(paths), [leaf for _, leaf in paths]
        self.leaves = [_checked(*pair) for pair in zip(self.names, leaves, strict=True)]
        if not sum(leaf.size for leaf in self.leaves):
            raise ValueError(f"`params` must hold at least one number, got {params!r}")
        self.batch = jax.tree.map(_float64, batch)
        nested = self.tree.unflatten(self.leaves)
        self.f = f
        try:
            jax.eval_shape(f, nested, self.batch)
            self.f = jax.jit(f)
        except Exception:  # a NumPy function, or one that looks at values: it is called as it is
            pass
        self.value = _scalar(self.f(nested, self.batch))
        jitted = jax.jit if self.f is not f else lambda function: function
        self.grad = gradient or jitted(jax.grad(f))
        self.set(self.leaves)

    def set(self, leaves: list[np.ndarray]) -> None:
        """Go to other leaves, and take the claimed gradient there."""
        import jax

        self.leaves, self.params = leaves, self.tree.unflatten(leaves)
        paths, _ = jax.tree_util.tree_flatten_with_path(self.grad(self.params, self.batch))
        grads = [np.asarray(leaf) for _, leaf in paths]
        got = [(name, g.shape) for name, g in zip(_named(paths), grads, strict=True)]
        want = [(name, p.shape) for name, p in zip(self.names, leaves, strict=True)]
        if got != want:
            raise ValueError(f"`gradient` must have the leaves and shapes {want}, got {got}")
        for name, g in zip(self.names, grads, strict=True):
            if g.dtype != np.float64 or not np.isfinite(g).all():
                what = "values that are not finite" if g.dtype == np.float64 else g.dtype
                raise ValueError(f"`gradient` must be finite and float64, got {what} in {name!r}")
        self.grads = grads

    def along(self, v: list[np.ndarray]) -> Callable[[float], float]:
        """t -> f(p + t v)."""
        leaves = self.leaves

        def value(t):
            moved = [p + t * d for p, d in zip(leaves, v, strict=True)]
            return float(self.f(self.tree.unflatten(moved), self.batch))

        return value

    def units(self) -> list[float]:
        """The scale of each leaf: its root mean square, or that of all if it is 0."""
        squares = [float(np.square(p).sum()) for p in self.leaves]
        every = math.sqrt(sum(squares) / sum(p.size for p in self.leaves))
        pairs = zip(squares, self.leaves, strict=True)
        return [math.sqrt(s / p.size) if s else every or 1.0 for s, p in pairs]

    def direction(self, chosen: list[int], rng: np.random.Generator) -> list[np.ndarray]:
        """A random direction within the chosen leaves, tilted towards the gradient by 45 degrees."""
        units = self.units()
        scaled = [units[i] * self.grads[i] for i in chosen]
        largest = max((float(np.abs(s).max(initial=0)) for s in scaled), default=0.0)
        length = math.sqrt(sum(float(np.square(s / (largest or 1)).sum()) for s in scaled))
        size = sum(s.size for s in scaled)
        v = [np.zeros_like(p) for p in self.leaves]
        for i, s in zip(chosen, scaled, strict=True):
            tilt = s / largest * (math.sqrt(size) / length) if largest else 0.0
            v[i] = units[i] * (rng.standard_normal(s.shape) + tilt)
        return v


class _Line:
    """f along one direction: at 0, at the steps of the ladder on both sides, and its rounding."""

    def __init__(self, phi: Callable[[float], float], rng: np.random.Generator):
        self.phi, self.zero = phi, phi(0.0)
        self.ahead = np.array([phi(h) for h in LADDER]) - self.zero
        self.back = np.array([phi(-h) for h in LADDER]) - self.zero
        self.odd, self.even = (self.ahead - self.back) / 2, self.ahead + self.back
        x = rng.uniform(0, 1, 12)
        y = np.array([phi(t) for t in x * LADDER[-1]]) - self.zero
        x -= x.mean()
        left = y - y.mean() - x * (x @ y) / (x @ x)
        scatter = math.sqrt(left @ left / (len(x) - 2))
        largest = abs(self.zero) + np.fmax(np.abs(self.ahead), np.abs(self.back))
        self.noise = np.maximum(scatter, EPS * largest)

    def derivative(self) -> tuple[float, float, int]:
        """The derivative at 0, its bar, and the place of its step in the ladder."""
        d, step = self.odd / LADDER, LADDER[:-1]
        bend = np.abs(self.even[:-1] - 4 * self.even[1:]) / step
        bar = np.abs(d[:-2] - d[1:-1]) + 1.5 * np.maximum(bend[:-1], bend[1:])
        return _smallest(d[1:-1], bar + 8 * self.noise[:-2] / LADDER[1:-1])

    def side(self, change: np.ndarray, sign: int) -> tuple[float, float]:
        """The one-sided derivative at 0 and its bar."""
        e = sign * change / LADDER
        bar = np.abs(e[:-1] - e[1:]) + 16 * self.noise[:-1] / LADDER[1:]
        return _smallest(2 * e[1:] - e[:-1], bar)[:2]

    def is_tie(self) -> bool:
        """Whether the even part falls as h down to its rounding: no step is within the kink."""
        sure = np.flatnonzero(np.abs(self.even) > SURE * self.noise)
        if len(sure) < 3 or sure[-1] < 2:
            return False
        even = self.even[sure[-1] - 2 : sure[-1] + 1]
        return bool(np.all(np.abs(even[:-1] / even[1:] - 2) < 0.4))

    def smooth_to(self) -> tuple[int, int]:
        """The coarsest place in the ladder that is surely smooth, and how many steps cross a kink.

        Where the even part first leaves h^2, going up, the segment is narrowed nine times about its
        largest second difference: over its width that stays at a kink, and halves where f is smooth.
        """
        bend = np.abs(self.even[:-1] - 4 * self.even[1:])
        sure = np.flatnonzero(bend > SURE * self.noise[:-1])
        if not len(sure):
            return 0, 0
        start = max(sure[-1] - 2, 0)
        width, middle = LADDER[start], 0.0
        curvature = self.even[sure[-1] + 1] / LADDER[sure[-1] + 1] ** 2
        low, mid, high = self.back[start], 0.0, self.ahead[start]
        sizes = []
        for _ in range(9):
            width /= 2
            inner = [self.phi(middle + s * width) - self.zero for s in (-1, 1)]
            values = [low, inner[0], mid, inner[1], high]
            seconds = [values[i] - 2 * values[i + 1] + values[i + 2] for i in range(3)]
            size = [abs(s - curvature * width**2) for s in seconds]
            i = int(np.argmax(size))
            low, mid, high = values[i : i + 3]
            middle += (i - 1) * width
            sizes.append(size[i] / width)
        if size[i] > SURE * self.noise[start] and sizes[-1] > sizes[0] / 16:
            crossed = int((LADDER > abs(middle)).sum())
            return min(crossed, len(LADDER) - 1), crossed
        return int(start), 0

    def slope(self, claimed: float, start: int) -> float:
        """The slope of the odd remainder over its six finest steps above rounding."""
        left = np.abs(self.odd - LADDER * claimed)
        seen = np.flatnonzero(left > SURE * self.noise)
        seen = seen[seen >= start][-6:]
        if len(seen) < 3:
            return math.nan
        return float(np.polyfit(np.log2(LADDER[seen]), np.log2(left[seen]), 1)[0])


def _test(point: _Point, name: str, chosen: list[int], rng, beside: bool = False) -> Slope:
    v = point.direction(chosen, rng)
    claimed = float(sum(np.vdot(point.grads[i], v[i]) for i in chosen))
    line = _Line(point.along(v), rng)
    derivative, bar, place = line.derivative()
    start, kinks = line.smooth_to()
    steps = (float(LADDER[min(place + 2, len(LADDER) - 1)]), float(LADDER[place]))
    change = np.fmax(np.abs(line.ahead), np.abs(line.back))
    steepest = float(change[place] / LADDER[place])
    bar += GRADIENT * steepest
    if line.is_tie():
        sides = [line.side(line.ahead, 1), line.side(line.back, -1)]
        low, high = min(d - b for d, b in sides), max(d + b for d, b in sides)
        derivative, bar, kinks = (low + high) / 2, (high - low) / 2, len(LADDER)
        verdict = "tie"
        # Several units tied at once can leave the interval by one convention: judge beside them.
        if abs(claimed - derivative) > bar and not beside:
            verdict = _beside(point, name, chosen, rng)
    elif abs(claimed - derivative) > bar:
        verdict = "wrong"
    else:
        constant = bool(np.all(change <= SURE * line.noise))
        verdict = "correct" if constant or bar <= RESOLUTION * steepest else "not compared"
    return Slope(name, verdict, claimed, derivative, bar, line.slope(claimed, start), kinks, steps)


def _beside(point: _Point, name: str, chosen: list[int], rng) -> str:
    """ "wrong" if the gradient is wrong at a random point close by too, else "tie"."""
    here = point.leaves
    pairs = zip(here, point.units(), strict=True)
    try:
        point.set([p + u / 128 * rng.standard_normal(p.shape) for p, u in pairs])
        found = _test(point, name, chosen, rng, beside=True)
    finally:
        point.set(here)
    return "wrong" if found.verdict == "wrong" else "tie"


def _smallest(values: np.ndarray, bars: np.ndarray) -> tuple[float, float, int]:
    """The value with the smallest bar, of those with which all values at finer steps agree."""
    bars = np.where(np.isfinite(values) & np.isfinite(bars), bars, np.inf)
    values = np.where(np.isfinite(bars), values, 0.0)
    apart = np.abs(values[:, None] - values) > bars[:, None] + bars
    i = int(np.argmin(np.where(np.triu(apart, 1).any(axis=1), np.inf, bars)))
    return float(values[i]), float(bars[i]), i


def _named(paths: Any) -> list[str]:
    import jax

    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return [name.removesuffix("/value") or "params" for name in names]


def _float64(leaf: Any) -> Any:
    """A leaf of the batch: an array of floats in float64, anything else as it is."""
    import jax.numpy as jnp

    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(leaf).astype(np.float64)
    return leaf


def _checked(name: str, leaf: Any) -> np.ndarray:
    import jax.numpy as jnp

    dtype = getattr(leaf, "dtype", np.asarray(leaf).dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`params` must hold floating leaves, got {dtype} in {name!r}")
    leaf = np.asarray(leaf).astype(np.float64)
    if not np.isfinite(leaf).all():
        raise ValueError(f"`params` must be finite, got {leaf[~np.isfinite(leaf)][0]} in {name!r}")
    return leaf


def _scalar(value: Any) -> float:
    """The value of f, checked."""
    value = np.asarray(value)
    if value.shape != ():
        raise ValueError(f"`f` must return a scalar, got shape {value.shape}")
    if value.dtype != np.float64:
        raise ValueError(f"`f` must return float64 for float64 parameters, got {value.dtype}")
    if not np.isfinite(value):
        raise ValueError(f"`f` must be finite at `params`, got {value}")
    return float(value)
