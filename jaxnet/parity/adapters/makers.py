"""Participants from JAX, Flax and PyTorch; their optimizer states get the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxnet.parity.layouts.layout import with_layout
from jaxnet.parity.participants import Participant


def jax_participant(
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    like: Any = None,
    frozen: Iterable[str] = (),
    buffers: bool = False,
    layout: Mapping[str, Any] | None = None,
    name: str = "jax",
) -> Participant:
    """Return a participant from a pure JAX loss(params, batch) and an optax optimizer.

    like: a pytree with the structure of `params`, if that is not a flat dictionary; its leaves are
    named by their paths ("layers/0/kernel"). forward(params, batch) -> prediction, one array or a
    pytree. frozen: the names of leaves that are not trained. buffers: the loss returns (loss, new
    values of frozen leaves by name), as of running statistics. layout: see `with_layout`. x64 is
    switched on inside for float64 parameters: no flag need be set.
    """
    from jaxnet.parity.adapters import jax_loss, optax_optimizer
    from jaxnet.parity.layers import in_jax

    tree = jax_loss.Tree(like)
    fixed = frozenset(frozen)

    def flat_loss(leaves, batch):
        found = loss(tree.build(leaves), batch)
        return found if buffers else (found, {})

    flat_forward = forward and (lambda leaves, batch: forward(tree.build(leaves), batch))
    functions, evaluate = jax_loss.make(flat_loss, flat_forward, fixed)
    if optimizer is not None:
        functions |= optax_optimizer.make(evaluate, optimizer, tree.without(fixed), fixed)
    value = (lambda *given: loss(*given)[0]) if buffers else loss
    functions["layers"] = lambda params, batch, locks: in_jax.run(
        value, params, batch, tree.build, locks
    )
    return with_layout(Participant(name, **functions, frozen=fixed), layout, tree.names())


def flax_participant(
    module: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    wrt: Any = None,
    layout: Mapping[str, Any] | None = None,
    name: str = "flax",
) -> Participant:
    """Return a participant from an nnx module and loss(module, batch).

    Its leaves are all its variables but random keys, named by their paths ("linear1/kernel").
    wrt: the filter of those that are trained, as `nnx.Optimizer` has it: `nnx.Param` by default;
    the others are its buffers. forward(module, batch) -> prediction, one array or a pytree. layout:
    see `with_layout`. The module itself is copied, never changed; random keys have the same state
    in every call.
    """
    from flax import nnx

    from jaxnet.parity.adapters import jax_loss, nnx_module, optax_optimizer
    from jaxnet.parity.layers import in_jax

    parts = nnx_module.split(module, nnx.Param if wrt is None else wrt)
    frozen = frozenset(parts.others.shapes)

    flat_loss = nnx_module.make_loss(parts, loss)
    flat_forward = forward and (lambda leaves, batch: forward(parts.merge(leaves), batch))
    functions, evaluate = jax_loss.make(flat_loss, flat_forward, frozen)
    if optimizer is not None:
        functions |= optax_optimizer.make(evaluate, optimizer, parts.trained, frozen)
    functions["layers"] = lambda params, batch, locks: in_jax.run(
        loss, params, batch, parts.merge, locks
    )
    own = {"own": parts.own, "frozen": frozen, "noise": nnx_module.noise(module)}
    return with_layout(Participant(name, **functions, **own), layout, list(parts.shapes))


def torch_participant(
    module: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Callable[[Any], Any] | None = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    clip: Callable[[Any], Any] | None = None,
    scheduler: Callable[[Any], Any] | None = None,
    set_to_none: bool = True,
    layout: Mapping[str, Any] | None = None,
    name: str = "torch",
) -> Participant:
    """Return a participant from a torch module, loss(module, batch of tensors), and its optimizer.

    Its leaves are the module's named parameters and buffers ("linear1.weight"); a parameter that
    does not require a gradient stays frozen. The module itself is copied, never changed.

    optimizer(parameters) -> a torch.optim optimizer. clip(parameters) is called between the
    gradient and the step, as `clip_grad_norm_` is; scheduler(optimizer) -> a scheduler, stepped
    after each step. set_to_none: as in `optimizer.zero_grad`: a parameter that the loss does not
    use has no gradient, and the optimizer leaves it alone; False: its gradient is 0.
    forward(module, batch) -> prediction, one tensor or several. layout: see `with_layout`.

    Raises: ValueError for an optimizer that evaluates the loss itself (L-BFGS), and for a scheduler
    that is made with the optimizer.
    """
    from jaxnet.parity.adapters import torch_module, torch_optimizer
    from jaxnet.parity.causes import torch_participant

    loaded = torch_module.loader(module)
    functions = torch_module.make(module, loaded, loss, forward, set_to_none)
    if optimizer is not None:
        training = torch_optimizer.Training(optimizer, clip, scheduler, set_to_none)
        functions |= torch_optimizer.make(loss, training, loaded)
        functions["replay_update"] = lambda: torch_participant.replay_update(training, loaded)
    functions["replay_layer"] = lambda *given: torch_participant.replay_layer(loaded, loss, *given)
    return with_layout(Participant(name, **functions), layout, torch_module.leaf_names(module))
