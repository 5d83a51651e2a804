"""Bugs of the optimizer and its schedule; the models are right."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal, square_error

STEPS = 5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.layer_norm = nn.Linear(5, 4), nn.LayerNorm(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.layer_norm(torch.tanh(self.hidden(x))))


class NetPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.hidden = nnx.Linear(5, 4, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.layer_norm(jnp.tanh(self.hidden(x))))


def tensorflow_adam(learning_rate, eps):
    """Adam whose epsilon is added before the second moment is corrected for its bias."""
    b1, b2 = 0.9, 0.999

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        step = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        rate = learning_rate * jnp.sqrt(1 - b2**step) / (1 - b1**step)
        steps = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return steps, optax.ScaleByAdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


def matrices_decay(parameters):
    """AdamW that decays weights only, neither biases nor the scale of the norm."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def decay_mask(wrong, params):
    """wrong: the scale of the norm is looked for under a name that it does not have."""

    def decays(path, _):
        layer, leaf = names(path)
        norm = "LayerNorm" if wrong else "layer_norm"
        return leaf != "bias" and (layer, leaf) != (norm, "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def names(path):
    """Return the keys of a leaf's path: its layer and its own name."""
    return [str(key.key) for key in path if hasattr(key, "key")]


def cosine(last, step):
    return 0.05 * (0.1 + 0.9 * 0.5 * (1 + jnp.cos(math.pi * step / last)))


def clip(max_norm, eps):
    """Return the clipping of the global norm as torch writes it."""

    def scale(updates, params):
        factor = jnp.minimum(max_norm / (optax.tree.norm(updates) + eps), 1.0)
        return jax.tree.map(lambda g: g * factor, updates)

    return optax.stateless(scale)


def frozen_net():
    module = Net()
    module.hidden.requires_grad_(False)
    return module


def freeze(wrong):
    """wrong: `masked` gives the frozen leaves their gradients as updates, not zeros."""

    def where(frozen):
        def mask(params):
            return jax.tree_util.tree_map_with_path(
                lambda path, _: (names(path)[0] == "hidden") == frozen, params
            )

        return mask

    if wrong:
        return optax.masked(optax.sgd(0.002), where(frozen=False))
    return optax.chain(optax.sgd(0.002), optax.masked(optax.set_to_zero(), where(frozen=True)))


def coupled_decay(wrong):
    if wrong:
        return optax.adamw(0.01, weight_decay=0.1)
    return optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))


def small_error(prediction, batch):
    """A loss whose gradient's norm is about the limit of the clipping."""
    return 1e-3 * square_error(prediction, batch)


def optimizer_bug(source, story, cause, optimizer, port_optimizer, reference=Net, **others):
    """Return a bug of the optimizer of a right port."""
    return Bug(
        source,
        story,
        reference,
        NetPort,
        normal(x=(4, 5), y=(4, 3)),
        stage="parameters",
        layer=None,
        cause=cause,
        optimizer=optimizer,
        port_optimizer=port_optimizer,
        **others,
    )


BUGS = [
    optimizer_bug(
        "google-deepmind/optax#532",
        "optax.rmsprop adds its epsilon inside the root, PyTorch's RMSprop outside: with 0.01, as "
        "IMPALA has it, training differed visibly.",
        "eps inside the root",
        functools.partial(torch.optim.RMSprop, lr=0.01, alpha=0.99, eps=0.01),
        lambda wrong: optax.rmsprop(0.01, decay=0.99, eps=0.01, eps_in_sqrt=wrong),
    ),
    optimizer_bug(
        "google-deepmind/optax#571",
        "TensorFlow's Adam adds epsilon before the bias correction, optax and PyTorch after it: "
        "with 1e-5 a port of PPO learned otherwise. (Here the port is TensorFlow's side.)",
        "eps added before the bias correction",
        functools.partial(torch.optim.Adam, lr=0.01, eps=1e-5),
        lambda wrong: tensorflow_adam(0.01, 1e-5) if wrong else optax.adam(0.01, eps=1e-5),
    ),
    optimizer_bug(
        "google-deepmind/optax#417",
        "PyTorch's Adam with weight_decay adds the decay to the gradient; optax.adamw, taken for "
        "it, decays the weights by themselves.",
        "decoupled weight decay for L2",
        functools.partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
        coupled_decay,
    ),
    optimizer_bug(
        "huggingface/transformers#18273",
        "The mask that keeps norms from weight decay looked for (LayerNorm, scale); the layer had "
        "another name, and its scale was decayed.",
        "weight decay on layer_norm.weight",
        matrices_decay,
        lambda wrong: optax.adamw(
            0.01, weight_decay=0.1, mask=functools.partial(decay_mask, wrong)
        ),
    ),
    optimizer_bug(
        "google-deepmind/optax#290",
        "A layer was to be frozen by `optax.masked`, which passes on the gradients of what it "
        "leaves out: the frozen layer was updated by its raw gradient (told in optax#159).",
        "frozen in the reference, but moves",
        functools.partial(torch.optim.SGD, lr=0.002),
        freeze,
        reference=frozen_net,
    ),
    optimizer_bug(
        "goodfire-ai/spd#642",
        "A cosine schedule divided by the number of steps; the PyTorch one by that number less 1, "
        "and so ends one step earlier.",
        "another schedule",
        functools.partial(torch.optim.SGD, lr=0.05),
        lambda wrong: optax.sgd(functools.partial(cosine, STEPS if wrong else STEPS - 1)),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / (STEPS - 1))),
        ),
    ),
    optimizer_bug(
        "goodfire-ai/spd#643",
        "PyTorch adds 1e-6 to the norm by which it clips, optax.clip_by_global_norm does not: "
        "with a small limit each step is 1e-4 too large.",
        "clipping without 1e-6",
        functools.partial(torch.optim.SGD, lr=0.5),
        lambda wrong: optax.chain(
            optax.clip_by_global_norm(0.01) if wrong else clip(0.01, 1e-6), optax.sgd(0.5)
        ),
        clip=0.01,
        loss=small_error,
    ),
]
