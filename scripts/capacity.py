"""A capacity plan: memory, work, communication and the limit of a step, on paper; or measured here.

    python scripts/capacity.py --sizes 784 4096 4096 10 --batch 65536 --devices 8 64 1024
    python scripts/capacity.py --measure

The formulas and their assumptions: docs/scaling.md. `--measure` makes the tables of its last part,
in about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MIN_COLUMNS = 512  # as `parallel.MIN_COLUMNS`: narrower layers are not divided
SLAB = 2**24  # as `streams.BYTES`: what a mapped table's loader gives at once
# arrays of the parameters' shapes that an optimizer keeps
MOMENTS = {
    "sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2, "rmsprop": 1, "adagrad": 1,
}  # fmt: skip
PASSES = 5  # over an activation, outside of products: read z, write h; read dh and h, write dz


class Plan(NamedTuple):
    """What is trained, and on how many devices.

    sizes: of the layers. batch: rows of the whole batch. data, model: devices on either axis of the
    mesh. parts: `--accumulate`. rows: of the table. mapped: whether it stays on the disk.
    """

    sizes: tuple[int, ...]
    batch: int
    data: int = 1
    model: int = 1
    optimizer: str = "adam"
    parts: int = 1
    remat: bool = False
    bfloat16: bool = False
    rows: int = 60_000
    mapped: bool = False

    @property
    def rows_each(self) -> float:
        """The rows of a batch on each device."""
        return self.batch / self.data


class Hardware(NamedTuple):
    """What a device and its surroundings reach: assumptions, of an H100 SXM in nodes of eight.

    flops, flops_bfloat16: of products, FLOP/s, half of the data sheet's dense TF32 and bfloat16.
    The others are four fifths of their peak. memory_bandwidth, link (between devices of a node),
    network (of a node, for each device), host (to a device): bytes/s in one direction. memory:
    bytes. latency: seconds a hop of an all-reduce. loader: rows/s of a process, storage: bytes/s of
    all processes together.
    """

    flops: float = 0.5 * 494.7e12
    flops_bfloat16: float = 0.5 * 989.4e12
    memory_bandwidth: float = 0.8 * 3.35e12
    memory: float = 80e9
    link: float = 0.8 * 450e9
    network: float = 0.8 * 50e9
    host: float = 0.8 * 64e9
    per_node: int = 8
    latency: float = 5e-6
    loader: float = 130e3
    storage: float = 40e9


def layers(sizes: Sequence[int], model: int = 1) -> list[tuple[int, int, bool, bool]]:
    """Of each layer: inputs, outputs, whether its columns are divided over the model axis, and
    whether its input's are (`parallel.shard_params`).
    """
    divided = [model > 1 and n >= MIN_COLUMNS and n % model == 0 for n in sizes]
    divided[0] = False
    ends = pairwise(zip(sizes, divided, strict=True))
    return [(n_in, n_out, d_out, d_in) for (n_in, d_in), (n_out, d_out) in ends]


def num_params(sizes: Sequence[int], model: int = 1) -> float:
    """The parameters on each device, with biases."""
    return sum((i + 1) * o / (model if own else 1) for i, o, own, _ in layers(sizes, model))


def num_gradients(sizes: Sequence[int], model: int = 1) -> float:
    """The elements of the gradient that each device sums over the data axis.

    Those of a whole layer behind a divided one are made in parts too.
    """
    return sum(
        i * o / (model if own or before else 1) + o / (model if own else 1)
        for i, o, own, before in layers(sizes, model)
    )


def flops(plan: Plan) -> float:
    """The FLOPs of a step's products on each device: forward, for weights, for inputs (which the
    first layer does without); `remat` makes those of the hidden layers' outputs twice.
    """
    total, last = 0.0, len(plan.sizes) - 2
    for number, (i, o, own, before) in enumerate(layers(plan.sizes, plan.model)):
        products = 2 + (number > 0) + (plan.remat and number < last)
        total += products * 2 * i * o * plan.rows_each / (plan.model if own or before else 1)
    return total


def ring_bytes(payload: float, devices: int, kind: str = "all-reduce") -> float:
    """What each device sends in a ring that reduces (or gathers) `payload` bytes."""
    return (2 if kind == "all-reduce" else 1) * (devices - 1) / devices * payload


def model_exchanges(plan: Plan) -> list[tuple[str, float, int]]:
    """What is exchanged over the model axis in a step: kind, rows and columns of each array."""
    if plan.model == 1:
        return []
    found: list[tuple[str, float, int]] = []
    for number, (i, o, own, before) in enumerate(layers(plan.sizes, plan.model)):
        if own and before:
            found.append(("all-gather", plan.rows_each, i))  # the input, forwards
        if own and number:
            found.append(("all-reduce", plan.rows_each, i))  # its gradient, backwards
        if before and not own:
            found.append(("all-reduce", plan.rows_each, o))  # the output, of parts of the input
            # what is whole on each device is made of the parts of its gradient
            found += [("all-gather", i, o)] * max(1, MOMENTS[plan.optimizer])
    return found


def model_bytes(plan: Plan) -> float:
    """What each device sends over the model axis in a step."""
    return sum(ring_bytes(4 * r * c, plan.model, kind) for kind, r, c in model_exchanges(plan))


def num_activations(outputs: Sequence[float], remat: bool) -> float:
    """The most elements for each row that are kept for the way back, or made again for it.

    outputs: of each layer, which has them before and after its function. `remat` keeps one array of
    each part (`net.forward`), and makes the others again for one part at a time.
    """
    *hidden, last = outputs
    if not remat or not hidden:
        return 2 * sum(outputs)
    size = max(1, math.isqrt(len(hidden) - 1))
    rest = hidden[1:]
    parts = [hidden[:1], *(rest[start : start + size] for start in range(0, len(rest), size))]
    return sum(part[-1] for part in parts) + max(2 * sum(part) for part in parts) + 2 * last


def memory(plan: Plan) -> dict[str, float]:
    """The bytes on each device by what they are for, in training by `jaxnet train`."""
    params, rows = num_params(plan.sizes, plan.model), plan.rows_each
    outputs = [o / (plan.model if own else 1) for _, o, own, _ in layers(plan.sizes, plan.model)]
    # accumulation keeps a sum and a part; a sum over devices is not made in place then
    copies = 1 if plan.parts == 1 else 2 + (plan.data * plan.model > 1)
    activations = 4 * rows / plan.parts * num_activations(outputs, plan.remat)
    if plan.bfloat16:  # copies of what is multiplied
        activations += 2 * rows / plan.parts * sum(plan.sizes) + 2 * params
    batch = 4 * rows * (plan.sizes[0] + 1)
    table = 4.0 * plan.rows * (plan.sizes[0] + 1)  # whole on every device, unless mapped:
    slabs = 2 * max(SLAB, batch)  # the one in use, and the next
    return {
        "parameters and moments": 4 * params * (1 + MOMENTS[plan.optimizer]),
        "best parameters": 4 * params,
        "gradients": 4 * params * copies,
        "activations": activations,
        "rows": (slabs if plan.mapped else table + batch) + (batch if plan.parts > 1 else 0),
    }


def bus(devices: int, hardware: Hardware, groups: int = 1) -> float:
    """Bytes/s that each device of a ring sends at once, if `groups` rings share a node's network.

    Within a node that of its links. A ring between nodes enters and leaves each once, by all of the
    node's network.
    """
    if devices * groups <= hardware.per_node:
        return hardware.link
    return min(hardware.link, hardware.per_node * hardware.network / groups)


def all_reduce_seconds(plan: Plan, hardware: Hardware) -> float:
    """The sum of gradients and loss over the data axis, not overlapped; hops as of a tree."""
    if plan.data == 1:
        return 0.0
    payload = 4 * (num_gradients(plan.sizes, plan.model) + 1)
    hops = 2 * math.ceil(math.log2(plan.data))
    rate = bus(plan.data, hardware, plan.model)
    return ring_bytes(payload, plan.data) / rate + hops * hardware.latency


def break_even_rows(plan: Plan, hardware: Hardware) -> float:
    """The rows on each device below which the all-reduce takes longer than the products."""
    rate = hardware.flops_bfloat16 if plan.bfloat16 else hardware.flops
    return all_reduce_seconds(plan, hardware) * rate * plan.rows_each / flops(plan)


def seconds(plan: Plan, hardware: Hardware, processes: int) -> dict[str, float]:
    """The time of each part of a step, as if it were alone. processes: those that load rows."""
    rows, params = plan.rows_each, num_params(plan.sizes, plan.model)
    divided = [o / (plan.model if own else 1) for _, o, own, _ in layers(plan.sizes, plan.model)]
    update = 4 * params * (2 * (1 + MOMENTS[plan.optimizer]) + 1)
    rate = hardware.flops_bfloat16 if plan.bfloat16 else hardware.flops
    found = {
        "products": flops(plan) / rate,
        "update": update / hardware.memory_bandwidth,
        "activations": PASSES * 4 * rows * sum(divided) / hardware.memory_bandwidth,
        "all-reduce": all_reduce_seconds(plan, hardware),
    }
    if plan.model > 1:
        found["model axis"] = model_bytes(plan) / bus(plan.model, hardware)
    batch = 4 * rows * plan.sizes[0]
    if plan.mapped:
        return found | {
            "loader": plan.batch / processes / hardware.loader,
            "storage": plan.batch * 4.0 * plan.sizes[0] / hardware.storage,
            "host to device": batch / hardware.host,
        }
    return found | {"gather": 2 * batch / hardware.memory_bandwidth}


ON_DEVICE = ("products", "update", "activations", "gather", "model axis")  # one after the other


def limits(parts: dict[str, float]) -> dict[str, float]:
    """The same times, those that a device makes one after the other as one: "device"."""
    rest = {name: s for name, s in parts.items() if name not in ON_DEVICE}
    return {"device": sum(parts.get(name, 0.0) for name in ON_DEVICE)} | rest


def step_seconds(parts: dict[str, float]) -> tuple[float, float]:
    """The least and the most time of a step: with the all-reduce behind the products, or after."""
    found = limits(parts)
    return max(found.values()), max(
        found["device"] + found["all-reduce"],
        *(s for name, s in found.items() if name not in ("device", "all-reduce")),
        0.0,
    )


def side_by_side(plans: Sequence[Plan], hardware: Hardware, per_process: int) -> str:
    """The plans as a Markdown table, for processes of `per_process` devices each."""
    columns = []
    for plan in plans:
        parts = seconds(plan, hardware, max(1, plan.data * plan.model // per_process))
        least, most = step_seconds(parts)
        space = memory(plan)
        found = limits(parts)
        columns.append(
            {"rows of the batch on each": f"{plan.rows_each:,.0f}"}
            | {f"{name}, GB": f"{size / 1e9:,.2f}" for name, size in space.items()}
            | {"all, GB": f"{sum(space.values()) / 1e9:,.2f}"}
            | {f"{name}, ms": f"{1e3 * s:,.3f}" for name, s in parts.items()}
            | {"step, ms": f"{1e3 * least:,.3f} to {1e3 * most:,.3f}"}
            | {"epoch, s": f"{plan.rows / plan.batch * most:,.1f}"}
            | {"products outlast the all-reduce from": rows_of(break_even_rows(plan, hardware))}
            | {
                "the limit": max(found, key=lambda name: found[name])
                if sum(space.values()) <= hardware.memory
                else "memory: it does not fit"
            }
        )
    heads = ["on each device", *(f"{plan.data * plan.model:,} devices" for plan in plans)]
    return markdown(heads, [[name, *(c[name] for c in columns)] for name in columns[0]])


def rows_of(number: float) -> str:
    return f"{math.ceil(number):,} rows"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--measure", action="store_true", help="measure on this machine instead")
    made.add_argument("--sizes", type=int, nargs="+", default=[784, 4096, 4096, 10])
    made.add_argument("--batch", type=int, default=65_536, help="rows, over all devices")
    made.add_argument("--devices", type=int, nargs="+", default=[8], help="a plan for each")
    made.add_argument("--model", type=int, default=1, help="devices of them on the model axis")
    made.add_argument("--per-process", type=int, default=1, help="devices of a process")
    made.add_argument("--optimizer", choices=MOMENTS, default="adam")
    made.add_argument("--accumulate", type=int, default=1)
    made.add_argument("--remat", action="store_true")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--rows", type=lambda text: int(float(text)), default=60_000)
    made.add_argument("--mapped", action="store_true", help="the table stays on the disk")
    group = made.add_argument_group("what the hardware reaches", Hardware.__doc__)
    for name, value in Hardware._field_defaults.items():
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=type(value), default=value, help=f"{value:g}")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan, or what was measured, as Markdown."""
    made = parser()
    options = made.parse_args(arguments)
    if options.measure:
        import capacity_measure  # which imports JAX

        capacity_measure.main()
        return
    if len(options.sizes) < 2 or min(options.sizes) < 1:
        made.error(f"`sizes` must be two or more integers of at least 1, got {options.sizes}")
    if min(options.batch, options.accumulate, options.model, options.per_process, options.rows) < 1:
        made.error("numbers must be at least 1")
    for number in options.devices:
        if number < 1 or number % options.model:
            made.error(f"`devices` must be a multiple of {options.model}, got {number}")
        if options.batch % (number // options.model * options.accumulate):
            made.error(f"`batch` must divide over {number} devices, got {options.batch}")
    plans = [
        Plan(
            tuple(options.sizes), options.batch, number // options.model, options.model,
            options.optimizer, options.accumulate, options.remat, options.dtype == "bfloat16",
            options.rows, options.mapped,
        )
        for number in options.devices
    ]  # fmt: skip
    hardware = Hardware(*(getattr(options, name) for name in Hardware._fields))
    sizes = "-".join(map(str, options.sizes))
    where = "from the disk" if options.mapped else "in memory"
    print(
        f"{sizes}: {num_params(options.sizes):,.0f} parameters, {options.optimizer}, "
        f"{options.dtype}, batch {options.batch:,}, a table of {options.rows:,} rows {where}\n"
    )
    print(side_by_side(plans, hardware, options.per_process))


if __name__ == "__main__":
    main()
