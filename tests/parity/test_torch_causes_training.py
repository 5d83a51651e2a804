"""Each known mistake of an optimizer, written by hand, is what the changed torch optimizer does."""

import math
from functools import partial

import pytest
import torch

from jaxnet.parity.causes.torch_training import training_changes

SAME = 1e-12  # float64, values of size 1
RATE = 0.1


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


START = {"w": draw(3, 4, seed=0), "b": draw(4, seed=1)}
GRADS = [
    {name: 1e-4 * draw(*p.shape, seed=10 * i + len(name)) for name, p in START.items()}
    for i in (1, 2, 3)
]
GRADS[1] = {name: 1e4 * g for name, g in GRADS[1].items()}  # sizes at which every eps shows


def train(optimizer, clip=None, scheduler=None):
    """Return the parameters after three steps of a torch optimizer."""
    own = {name: p.clone().requires_grad_(True) for name, p in START.items()}
    made = optimizer([own["w"], own["b"]])
    schedule = scheduler(made) if scheduler else None
    for grads in GRADS:
        for name, p in own.items():
            p.grad = grads[name].clone()
        if clip:
            clip(iter(own.values()))
        made.step()
        if schedule:
            schedule.step()
    return [p.detach() for p in own.values()]


def by_hand(rule, clip=None):
    """Return the parameters after three steps of rule(p, g, t, state) -> p."""
    params, states = dict(START), {name: {} for name in START}
    for t, grads in enumerate(GRADS, 1):
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        for name, g in grads.items():
            params[name] = rule(params[name], clip(g, norm) if clip else g, t, states[name])
    return [*params.values()]


def decays(p, decay, which):
    return decay if {"all": True, "matrices": p.ndim > 1, "none": False}[which] else 0.0


def adam(
    p,
    g,
    t,
    s,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    decay=0.02,
    which="all",
    decoupled=False,
    shift=0,
    corrected=True,
    inside=False,
    amsgrad=False,
    early=False,
):
    wd = decays(p, decay, which)
    g = g if decoupled else g + wd * p
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    s["max"] = torch.maximum(s.get("max", s["v"]), s["v"]) if amsgrad else s["v"]
    c1, c2 = (1 - b1 ** (t + shift), 1 - b2 ** (t + shift)) if corrected else (1, 1)
    eps = eps / math.sqrt(c2) if early else eps
    root = (s["max"] / c2 + eps).sqrt() if inside else (s["max"] / c2).sqrt() + eps
    return p - RATE * (s["m"] / c1 / root + (wd * p if decoupled else 0))


def sgd(
    p,
    g,
    t,
    s,
    momentum=0.8,
    damp=0.3,
    decay=0.02,
    which="all",
    nesterov=False,
    damped_first=False,
    decoupled=False,
):
    wd = decays(p, decay, which)
    g = g if decoupled else g + wd * p
    first = (1 - damp) * g if damped_first else g
    s["buf"] = momentum * s["buf"] + (1 - damp) * g if "buf" in s else first
    step = g + momentum * s["buf"] if nesterov else s["buf"]
    return p - RATE * (step + (wd * p if decoupled else 0))


def rmsprop(p, g, t, s, alpha=0.95, eps=1e-8, inside=False, decay=0.0):
    g = g + decay * p
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    return p - RATE * g / ((s["v"] + eps).sqrt() if inside else s["v"].sqrt() + eps)


DECAYS = {
    "weight_decay 0 for 0.02": {"decay": 0.0},
    "weight_decay 0.0001 for 0.02": {"decay": 1e-4},
    "weight_decay 0.01 for 0.02": {"decay": 1e-2},
}
ADAM = DECAYS | {
    **{f"eps {eps:g} for 1e-08": {"eps": eps} for eps in (1e-6, 1e-7, 1e-10)},
    **{f"b1 {b:g} for 0.9": {"b1": b} for b in (0.0, 0.5, 0.95, 0.99)},
    **{f"b2 {b:g} for 0.999": {"b2": b} for b in (0.9, 0.95, 0.99, 0.9999)},
    "eps inside the root": {"inside": True},
    "eps added before the bias correction": {"early": True},
    "Adam's step off by one": {"shift": 1},
    "Adam without bias correction": {"corrected": False},
    "no weight decay on biases and other 1-D leaves": {"which": "matrices"},
}


def groups(params):
    w, b = params
    return [{"params": [w]}, {"params": [b], "weight_decay": 0.0}]


SGD = partial(torch.optim.SGD, lr=RATE, momentum=0.8)
CASES = {
    "Adam": (
        partial(torch.optim.Adam, lr=RATE, weight_decay=0.02),
        adam,
        ADAM | {"decoupled weight decay for L2": {"decoupled": True}},
    ),
    "AdamW": (
        partial(torch.optim.AdamW, lr=RATE, weight_decay=0.02),
        partial(adam, decoupled=True),
        ADAM | {"L2 weight decay for decoupled": {"decoupled": False}},
    ),
    "Adam with amsgrad": (
        partial(torch.optim.Adam, lr=RATE, weight_decay=0.02, amsgrad=True),
        partial(adam, amsgrad=True),
        {
            "amsgrad False for True": {"amsgrad": False},
            "Adam without bias correction": {"corrected": False},
        },
    ),
    "Adam without decay on the bias": (
        lambda params: torch.optim.AdamW(groups(params), lr=RATE, weight_decay=0.02),
        partial(adam, decoupled=True, which="matrices"),
        {
            "weight decay on all leaves": {"which": "all"},
            "weight_decay 0.01 for 0.02": {"decay": 0.01},
        },
    ),
    "Adam without decay": (
        partial(torch.optim.Adam, lr=RATE),
        partial(adam, decay=0.0),
        {"weight_decay 0.0001 for 0": {"decay": 1e-4}},
    ),
    "SGD": (
        partial(SGD, dampening=0.3, weight_decay=0.02),
        sgd,
        DECAYS
        | {f"momentum {m:g} for 0.8": {"momentum": m} for m in (0.5, 0.9, 0.99)}
        | {
            "dampening 0 for 0.3": {"damp": 0.0},
            "dampened first step": {"damped_first": True},
            "nesterov True for False": {"nesterov": True},
            "decoupled weight decay for L2": {"decoupled": True},
        },
    ),
    "SGD without dampening": (
        SGD,
        partial(sgd, damp=0.0, decay=0.0),
        {"momentum 0 for 0.8": {"momentum": 0.0}},
    ),
    "SGD with Nesterov": (
        partial(SGD, nesterov=True),
        partial(sgd, damp=0.0, decay=0.0, nesterov=True),
        {"nesterov False for True": {"nesterov": False}},
    ),
    "RMSprop": (
        partial(torch.optim.RMSprop, lr=RATE, alpha=0.95),
        rmsprop,
        {
            "alpha 0.9 for 0.95": {"alpha": 0.9},
            "alpha 0.99 for 0.95": {"alpha": 0.99},
            "eps inside the root": {"inside": True},
        },
    ),
}
MOST = 0.2  # of the three gradients only the second has a norm, and an update, above it


def clip(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, MOST)


CLIPS = {
    "clipping left out": lambda g, norm: g,
    "clipping without 1e-6 in the denominator": lambda g, norm: g * min(1, MOST / norm),
    "clipping by value": lambda g, norm: g.clip(-MOST, MOST),
    "clipping by each leaf's norm": lambda g, norm: (
        g * min(1, MOST / (math.sqrt(float((g * g).sum())) + 1e-6))
    ),
    "clipping that scales small gradients up": lambda g, norm: g * MOST / (norm + 1e-6),
    # plain SGD's update is the gradient times the rate
    "clipping of the update, not the gradient": lambda g, norm: g * min(1, MOST / (RATE * norm)),
}
SCHEDULES = {
    "schedule off by one (+1)": (1, 2, 3),
    "schedule off by one (-1)": (0, 0, 1),
    "schedule stays at its first value": (0, 0, 0),
}


def agree(a, b):
    return all((x - y).abs().max() <= SAME for x, y in zip(a, b, strict=True))


def changes(**training):
    made = training["optimizer"]([p.clone().requires_grad_(True) for p in START.values()])
    return {name: training | new for name, _, new in training_changes(made, **training)}


def names_of(wanted, **training):
    found = {name: train(**changed) for name, changed in changes(**training).items()}
    return [name for name, params in found.items() if agree(params, wanted)]


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, (*_, names) in CASES.items() for name in names]
)
def test_a_mistake_written_by_hand_is_that_of_the_changed_optimizer_and_no_other(case, name):
    make, rule, mistakes = CASES[case]
    assert agree(train(make), by_hand(rule))
    wanted = by_hand(partial(rule, **mistakes[name]))
    assert not agree(train(make), wanted)
    assert names_of(wanted, optimizer=make) == [name]


PLAIN = partial(torch.optim.SGD, lr=RATE)


def descend(p, g, t, state, rates=(RATE, RATE, RATE)):
    return p - rates[t - 1] * g


@pytest.mark.parametrize("name", CLIPS)
def test_a_mistake_in_clipping_is_that_of_the_changed_training_and_no_other(name):
    right = by_hand(descend, lambda g, norm: g * min(1, MOST / (norm + 1e-6)))
    assert agree(train(PLAIN, clip), right)
    assert names_of(by_hand(descend, CLIPS[name]), optimizer=PLAIN, clip=clip) == [name]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_shifted_schedule_is_that_of_the_changed_scheduler_and_no_other(name):
    halves = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    rates = [RATE * 0.5**i for i in SCHEDULES[name]]
    wanted = by_hand(partial(descend, rates=rates))
    assert names_of(wanted, optimizer=PLAIN, scheduler=halves) == [name]


def test_every_change_of_the_training_is_planted():
    planted = {name for *_, names in CASES.values() for name in names} | {*CLIPS, *SCHEDULES}
    families = {name.split(" for ")[0].rsplit(" ", 1)[0] for name in planted if " for " in name}
    for make, *_ in CASES.values():
        for name in changes(optimizer=make, clip=clip, scheduler=lambda optimizer: None):
            assert name in planted or name.split(" for ")[0].rsplit(" ", 1)[0] in families, name


def test_a_scheduler_steps_a_changed_optimizer():
    changed = changes(optimizer=partial(torch.optim.Adam, lr=RATE))["b1 0.5 for 0.9"]
    optimizer = changed["optimizer"]([p.clone().requires_grad_(True) for p in START.values()])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == RATE / 2
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
