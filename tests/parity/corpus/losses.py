"""Bugs of the loss, and of what flows back from it."""

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal

CLASSES = 5
IGNORED = -100


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(x)))


class ClassifierPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.hidden, self.out = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def draw(rng):
    """Three sequences of four; the second has one ignored token, the third two."""
    labels = rng.integers(0, CLASSES, (3, 4))
    labels[1, 3] = labels[2, 2:] = IGNORED
    return {"x": rng.standard_normal((3, 4, 4)), "labels": labels}


def torch_entropy(smoothing=0.0):
    def loss(logits, batch):
        return nn.functional.cross_entropy(
            logits.flatten(0, 1),
            batch["labels"].flatten(),
            ignore_index=IGNORED,
            label_smoothing=smoothing,
        )

    return loss


def entropies(logits, labels, smoothing=0.0, kept=None):
    """Return the cross entropy of each token, 0 for those ignored, and the mask of the others."""
    real = labels != IGNORED
    target = jax.nn.one_hot(labels, CLASSES, dtype=logits.dtype)
    kept = 1 - smoothing if kept is None else kept
    target = target * kept + smoothing / CLASSES
    return optax.softmax_cross_entropy(logits, target), real


def accumulated_loss(logits, batch, wrong):
    losses, real = entropies(logits, batch["labels"])
    if wrong:  # each sequence is a micro-batch
        return ((losses * real).sum(1) / real.sum(1)).mean()
    return (losses * real).sum() / real.sum()


def smoothed_loss(logits, batch, wrong):
    losses, real = entropies(logits, batch["labels"], 0.1)
    return losses.mean() if wrong else (losses * real).sum() / real.sum()


def smoothing_loss(logits, batch, wrong):
    kept = 1 - 0.2 / CLASSES if wrong else 0.8
    losses, real = entropies(logits, batch["labels"], 0.2, kept)
    return (losses * real).sum() / real.sum()


class Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 3)

    def forward(self, x):
        return nn.functional.normalize(self.encoder(x), dim=-1)


class ContrastPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.encoder = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        h = self.encoder(x)
        return h / jnp.sqrt((h * h).sum(-1, keepdims=True))


def contrast(queries, batch):
    labels = torch.arange(len(queries))
    return nn.functional.cross_entropy(queries @ batch["keys"].T / 0.2, labels)


def contrast_port(queries, batch, wrong):
    logits = queries @ batch["keys"].T / (1 if wrong else 0.2)
    labels = jnp.arange(len(queries))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class Critics(nn.Module):
    """Two critics of the same state and action."""

    def __init__(self):
        super().__init__()
        self.critic_1, self.critic_2 = nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x):
        return torch.cat((self.critic_1(x), self.critic_2(x)), -1)


@jax.custom_vjp
def first_gradient_for_both(first, second):
    return first, second


first_gradient_for_both.defvjp(
    lambda first, second: ((first, second), None), lambda _, grads: (grads[0], grads[0])
)


class CriticsPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.critic_1, self.critic_2 = nnx.Linear(5, 1, rngs=rngs), nnx.Linear(5, 1, rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        params = [nnx.state(critic, nnx.Param) for critic in (self.critic_1, self.critic_2)]
        first, second = first_gradient_for_both(*params) if self.wrong else params
        return jnp.concatenate([x @ p["kernel"][...] + p["bias"][...] for p in (first, second)], -1)


def loss_bug(source, story, cause, port_loss, smoothing=0.0):
    """Return a bug of the cross entropy of a right classifier."""
    return Bug(
        source,
        story,
        Classifier,
        ClassifierPort,
        draw,
        stage="loss",
        layer=None,
        cause=cause,
        loss=torch_entropy(smoothing),
        port_loss=port_loss,
    )


BUGS = [
    loss_bug(
        "huggingface/transformers#34191",
        "Gradient accumulation averaged the mean losses of micro-batches with unequal numbers of "
        "tokens, where a full batch averages over all its tokens.",
        "then over the rows",
        accumulated_loss,
    ),
    loss_bug(
        "k-tahiro/bert-summarizer#41",
        "The loss with label smoothing also counted the padding, which the one before it ignored.",
        "mean over all elements, with the smoothed part",
        smoothed_loss,
        0.1,
    ),
    loss_bug(
        "ildoonet/pytorch-randaugment#30",
        "Label smoothing took only s/K from the right class, not s, so that targets add up to more "
        "than 1.",
        "label smoothing that takes s / K",
        smoothing_loss,
        0.2,
    ),
    Bug(
        "vturrisi/solo-learn#293",
        "The contrastive loss was called without its temperature, and so used another one.",
        Contrast,
        ContrastPort,
        normal(x=(4, 5), keys=(4, 3)),
        stage="loss",
        layer=None,
        cause="divided by 0.2 left out",
        loss=contrast,
        port_loss=contrast_port,
    ),
    Bug(
        "Toni-SM/skrl#425",
        "The JAX version of SAC returned one gradient and updated both critics with it.",
        Critics,
        CriticsPort,
        normal(x=(4, 5), y=(4, 2)),
        stage="gradient",
        layer="",  # the port calls no critic: its own code works on their parameters
        cause="critic_2.weight has the values of the gradient of critic_1.weight",
    ),
]
