"""16: devices: the rows of a batch divided among them."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake, WrongAnswerError, take

DEVICES, ROWS, COLUMNS = 8, 24, 16
MESH = 'jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))'


def draw(rng):
    shapes = {"w": (COLUMNS,), "x": (ROWS, COLUMNS), "y": (ROWS,)}
    return [{name: rng.standard_normal(shape) for name, shape in shapes.items()}]


def ask(module, w, x, y):
    import jax
    import jax.numpy as jnp

    given = {"w": jnp.asarray(w)}, jnp.asarray(x), jnp.asarray(y)
    placed = take(module.place(*given), "place", "params", "x", "y")
    arrays = {"params": _only(placed["params"]), "x": placed["x"], "y": placed["y"]}
    facts = {}
    for name, array in arrays.items():
        if not isinstance(array, jax.Array):
            raise WrongAnswerError(f"place: {name} must be a JAX array")
        places = [(s.device.id, s.index) for s in array.addressable_shards]
        facts[name] = {
            "devices": len(array.sharding.device_set),
            "shape": list(array.addressable_shards[0].data.shape),
            "parts": len({str(index) for _, index in places}),
        }
    found = module.value_and_grad(placed["params"], placed["x"], placed["y"])
    found = take(found, "value_and_grad", "loss", "grads")
    return found | {"placed": arrays}, facts


def _only(params):
    if not isinstance(params, dict) or set(params) != {"w"}:
        raise WrongAnswerError('place: params must still be {"w": ...}')
    return params["w"]


def want(w, x, y, *, factor=1.0, grad_factor=1.0, rows=None, only_loss=False):
    rest = (x @ w - y)[:rows]
    loss, grad = np.square(rest).mean(), 2 * x[:rows].T @ rest / rest.size
    grad = want(w, x, y)["grads"]["w"] if only_loss else grad
    placed = {"params": w, "x": x, "y": y}
    return {"loss": factor * loss, "grads": {"w": factor * grad_factor * grad}, "placed": placed}


def rule(rounds, answers, facts):
    right, fact = "the numbers are right, but ", facts[0]
    for name, found in fact.items():
        if found["devices"] != DEVICES:
            return (
                f"{right}{name} is on {found['devices']} of {DEVICES} devices: make the mesh of "
                f"all, {MESH}, and use jax.device_put"
            )
    if fact["params"]["parts"] > 1:
        return f"{right}params is divided: PartitionSpec() puts the whole on each device"
    rows, columns = fact["x"]["shape"]
    if columns < COLUMNS:
        return (
            f"{right}the columns of x are divided: PartitionSpec names the mesh's axis for the "
            "first axis of the array, the rows"
        )
    for name in ("x", "y"):
        if fact[name]["parts"] == 1:
            return (
                f"{right}each device holds all rows of {name}, and computes everything: "
                'PartitionSpec("rows") divides them'
            )
    if rows != ROWS // DEVICES:
        return f"{right}a device holds {rows} rows of x, where {ROWS // DEVICES} are wanted"
    return ""


EXERCISE = Exercise(
    number="16",
    idea="devices: the rows divided among them",
    functions=("place", "value_and_grad"),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "(?s)device assignment|Explicit",
            (
                f"the axes of the mesh are explicit, JAX's default: with {MESH}, the compiler "
                "divides the work by itself"
            ),
        ),
        (
            "incompatible devices",
            "the arrays are on different devices: put the parameters on all of the mesh too",
        ),
        (
            "PartitionSpec is passed",
            "a PartitionSpec alone does not say which devices: NamedSharding(mesh, spec) does",
        ),
        (
            "unbound axis name",
            (
                "nothing has to be added up by hand: the arrays are divided, and jax.grad of the "
                "mean over all rows is the gradient of all (psum belongs inside jax.shard_map)"
            ),
        ),
    ),
    counts={"devices": DEVICES, "rows": ROWS},
    environment={"JAX_NUM_CPU_DEVICES": str(DEVICES)},
    mistakes=(
        Mistake(
            "the loss is the sum: it must be the mean over all rows",
            partial(want, factor=float(ROWS)),
        ),
        Mistake(
            f"the loss is that of one device's {ROWS // DEVICES} rows: take the mean over all "
            "devices too, by jax.lax.pmean inside jax.shard_map",
            partial(want, rows=ROWS // DEVICES),
        ),
        Mistake(
            f"the gradient is right, but the loss is that of one device's {ROWS // DEVICES} rows: "
            "take its mean over all devices too, by jax.lax.pmean",
            partial(want, rows=ROWS // DEVICES, only_loss=True),
        ),
        Mistake(
            f"the devices' means are added: your loss is the reference's times {DEVICES}; use "
            "jax.lax.pmean, not psum",
            partial(want, factor=float(DEVICES)),
        ),
        Mistake(
            f"the devices' gradients are added, where the loss is their mean: your gradient is the "
            f"reference's times {DEVICES}",
            partial(want, grad_factor=float(DEVICES)),
        ),
        Mistake(
            f"your gradient is the reference's times 1/{DEVICES}: it is divided by the number of "
            "devices once too often",
            partial(want, grad_factor=1 / DEVICES),
        ),
        Mistake("half of the mean of squares", partial(want, factor=0.5)),
    ),
)
