"""How near do correct float32 programs come to the limit? Each comparison must end as equal.

First the precision tier only: implementations x optimizers x seeds, at steps 1 to 300, against the
NumPy oracle in float64. Then, where PyTorch is installed, the right ports of tests/parity/ports
against their torch modules: ports x seeds, in both tiers. Prints the largest share of each limit;
exits 1 on a false alarm.
"""

import functools
import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from jaxnet import data, flax_net, net, optimizers, parity
from jaxnet.parity.bars import LIMIT
from jaxnet.spec import Batch, Spec

ROWS, SEEDS, STEPS = 64, 4, (1, 2, 3, 10, 100, 300)
PORT_SEEDS = 12
NETWORKS = {"plain": Spec((200, 50, 10), bias=True), "dynamic": Spec((200, 50, 50, 10), bias=True)}
RATES = {"sgd": 1e-4, "momentum": 1e-5, "adam": 1e-3}
MODULES = {
    "plain": (flax_net.TwoLayerNet, "linear1 linear2"),
    "dynamic": (flax_net.DynamicNet, "input_linear middle_linear output_linear"),
}
TORCH = importlib.util.find_spec("torch") is not None


def make_case(network, seed):
    """Random data and parameters; the dynamic network draws its repeats at each step."""
    spec = NETWORKS[network]
    batch = data.random_problem(spec, ROWS, seed, "float64")
    repeats = np.random.default_rng(seed).integers(0, 4, max(STEPS))

    def batch_at(i) -> Batch:
        return batch._replace(repeats=repeats[i]) if network == "dynamic" else batch

    return parity.Case(f"{network} {seed}", spec.init(seed, "float64"), batch_at, STEPS, 1)


def activation_of(name, network):
    """The tutorial's custom rule, but for the one implementation that is named for the other."""
    return "relu" if "relu" in name.split() else "my_relu"


@functools.cache
def participant(name, network, optimizer):
    """An implementation, compiled once for all seeds."""
    spec, rate = NETWORKS[network], RATES[optimizer]
    activation = activation_of(name, network)
    if name == "numpy float32":
        return replace(reference(activation, network, optimizer), name=name, plan=None)
    if name == "flax":
        return flax_participant(network, optimizers.make(optimizer, rate))
    if name == "torch":
        return torch_participant(spec, optimizer, rate)
    return parity.jax_participant(
        functools.partial(net.loss, activation=activation),
        optimizers.make(optimizer, rate),
        forward=lambda params, batch: net.forward(
            params, batch.x, activation=activation, repeats=batch.repeats
        ),
        name=name,
    )


def flax_participant(network, optimizer):
    """The tutorial's modules."""
    make, names = MODULES[network]
    layout = {}
    for k, layer in enumerate(names.split(), start=1):
        layout |= {f"{layer}/kernel": f"w{k}", f"{layer}/bias": f"b{k}"}

    def forward(module, batch):
        return module(batch.x) if batch.repeats is None else module(batch.x, batch.repeats)

    return parity.flax_participant(
        make(200, 50, 10, rngs=nnx.Rngs(0)),
        lambda module, batch: flax_net.LOSSES["sum_squares"](forward(module, batch), batch.y),
        optimizer,
        forward=forward,
        layout=layout,
        name="flax",
    )


def torch_participant(spec, optimizer, rate):
    """The twin's functions over a module that only holds the parameters."""
    import torch

    from jaxnet import torch_net

    torch.set_num_threads(1)
    module = torch.nn.ParameterDict(torch_net.from_numpy(spec.init(0)))
    return parity.torch_participant(
        module,
        lambda module, batch: torch_net.loss(dict(module), batch, activation="my_relu"),
        lambda parameters: torch_net.OPTIMIZERS[optimizer](parameters, lr=rate),
        forward=lambda module, batch: torch_net.forward(
            dict(module), batch.x, activation="my_relu", repeats=batch.repeats
        ),
    )


def reference(activation, network, optimizer):
    """The oracle, which brings the error bars."""
    return parity.oracle(
        replace(NETWORKS[network], activation=activation), optimizer, RATES[optimizer]
    )


@functools.cache
def reference_run(activation, network, optimizer, seed):
    """The oracle's trajectory, once for all implementations."""
    return parity.trajectory(reference(activation, network, optimizer), make_case(network, seed))


def ports() -> int:
    """Compare the right ports for each seed in both tiers; return the number of false alarms."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "parity"))
    from ports import KINDS, checking

    started, alarms, count = time.perf_counter(), 0, 0
    print(f"{'port':12}{'form':28}{'equal':>9}{'largest share of a limit':>26}  where")
    for name, kind in KINDS.items():
        for form, change in {"right": {}, **kind.rights}.items():
            candidate, worst, equal = checking.candidate(name, **change), [], 0
            for seed in range(PORT_SEEDS):
                against = checking.reference_run(name, seed=seed)
                report = parity.check(candidate, against=against)
                worst.append(max(report.leaves, key=lambda leaf: leaf.ratio / leaf.allowed))
                for tier in ("mathematics", "precision"):
                    equal += all(leaf.equal for leaf in report.leaves if leaf.tier == tier)
            count, alarms = count + 2 * PORT_SEEDS, alarms + 2 * PORT_SEEDS - equal
            leaf = max(worst, key=lambda leaf: leaf.ratio / leaf.allowed)
            share = f"{leaf.ratio / leaf.allowed:26.3f}"
            where = f"{leaf.tier}, {leaf.stage} {leaf.leaf}, step {leaf.step} {leaf.probe}"
            print(f"{name:12}{form:28}{equal:>3} of {2 * PORT_SEEDS}{share}  {where}", flush=True)
    print(f"{count} comparisons in {time.perf_counter() - started:.0f} s, {alarms} false alarms")
    return alarms


def main() -> int:
    """Run every comparison and print the table."""
    names = ["jax relu", "jax my_relu", "flax", *(["torch"] if TORCH else []), "numpy float32"]
    started, ratios, alarms = time.perf_counter(), [], 0
    head = f"{'implementation':15}{'network':9}{'optimizer':10}"
    print(f"{head}{'equal':>8}{'largest ratio':>15}  where")
    for name in names:
        for network in NETWORKS:
            for optimizer in RATES:
                leaves, equal = [], 0
                for seed in range(SEEDS):
                    against = reference_run(activation_of(name, network), network, optimizer, seed)
                    candidate = participant(name, network, optimizer)
                    report = parity.check(candidate, against=against, tiers=("precision",))
                    leaves.append(max(report.leaves, key=lambda leaf: leaf.ratio))
                    equal += report.verdict == "equal"
                worst = max(leaves, key=lambda leaf: leaf.ratio)
                ratios += [leaf.ratio for leaf in leaves]
                alarms += SEEDS - equal
                where = f"{worst.stage} {worst.leaf}, step {worst.step}"
                print(
                    f"{name:15}{network:9}{optimizer:10}{equal:>4} of {SEEDS}{worst.ratio:15.2f}"
                    f"  {where}",
                    flush=True,
                )
    print(
        f"{len(ratios)} comparisons in {time.perf_counter() - started:.0f} s, {alarms} false alarms"
    )
    print(
        f"largest ratio of a comparison: {min(ratios):.2f} to {max(ratios):.2f} of {LIMIT:g} bars"
    )
    return int(alarms + (ports() if TORCH else 0) > 0)


if __name__ == "__main__":
    sys.exit(main())
