"""Many networks at once: what trains a sweep's members, each from its own weights and rate."""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import data
from jaxnet.spec import Batch

from .check import Case
from .peers_jax import Scan, gather, plain_loss
from .workloads import Workload

SWEEP_EPOCHS = 20


def stack(members: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parameters of all members, the members first."""
    return {name: np.stack([params[name] for params in members]) for name in members[0]}


def initial(workload: Workload) -> dict[str, np.ndarray]:
    """All members' initial weights."""
    return stack([workload.params(member) for member in range(workload.members)])


def vmapped(workload: Workload, table: Batch) -> Transposed:
    """The scan's step under vmap; the rate is an axis like the weights."""
    loss, optimizer = plain_loss(workload), optax.scale_by_adam()
    rates = jnp.asarray(workload.learning_rates(), jnp.float32)

    def one(state, rate, x, y):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, opt_state = optimizer.update(grads, opt_state)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return (optax.apply_updates(params, updates), opt_state), value

    def body(x, y, state, rows):
        x, y = gather(x, y, rows)
        return jax.vmap(one, in_axes=(0, 0, None, None))(state, rates, x, y)

    params = jax.device_put(initial(workload))
    state = params, jax.vmap(optimizer.init)(params)
    scan = Scan(workload, table, state, body, params=lambda state: state[0])
    return Transposed(scan)


class Transposed:
    """Losses (steps, members) turned to (members, steps)."""

    def __init__(self, scan):
        self._scan, self.params = scan, scan.params

    def run(self, num_steps):
        return self._scan.run(num_steps).T


class OneByOne:
    """A runner for each member, run one after the other."""

    def __init__(self, runners):
        self._runners = runners

    def run(self, num_steps):
        return np.stack([runner.run(num_steps) for runner in self._runners])

    def params(self):
        return stack([runner.params() for runner in self._runners])


def torch_one_by_one(workload: Workload, table: Batch) -> OneByOne:
    """PyTorch's loop for each member."""
    import torch

    from . import peers_torch as peer

    def runner(member, rate):
        model = peer.network(workload, member)
        optimizer = torch.optim.Adam(model.parameters(), float(rate), fused=True)
        step = peer.plain_step(model, peer.loss_function(workload), optimizer)
        return peer.Loop(workload, table, model, step)

    return OneByOne([runner(*item) for item in enumerate(workload.learning_rates())])


def sklearn_one_by_one(workload: Workload, table: Batch) -> OneByOne:
    """scikit-learn for each member."""
    from .peers_sklearn import Mlp

    return OneByOne([Mlp(workload, table, member) for member in range(workload.members)])


class Stacked:
    """All members' weights in one tensor of each layer, one Adam in place for them all."""

    def __init__(self, workload: Workload, table: Batch):
        import torch

        from . import peers_torch as peer

        self._torch, self._layers = torch, len(workload.sizes) - 1
        self._batch, self._made = peer.batches_of(workload, *peer.tensors(table)), 0
        params = {k: v[:, None] if k[0] == "b" else v for k, v in initial(workload).items()}
        self._params = {
            k: torch.from_numpy(v.copy()).to(peer.DEVICE).requires_grad_()
            for k, v in params.items()
        }
        leaves = list(self._params.values())
        self._m = [torch.zeros_like(leaf) for leaf in leaves]
        self._v = [torch.zeros_like(leaf) for leaf in leaves]
        rates = torch.from_numpy(workload.learning_rates().astype("float32"))
        self._rates = rates.to(peer.DEVICE)[:, None, None]

    def run(self, num_steps):
        losses = []
        for _ in range(num_steps):
            losses.append(self._step(*self._batch(self._made)))
        return self._torch.stack(losses, 1).cpu().numpy()

    def _step(self, x, y):
        torch, params = self._torch, self._params
        members = len(self._rates)
        h = x.expand(members, *x.shape)
        for k in range(1, self._layers + 1):
            h = torch.baddbmm(params[f"b{k}"], h, params[f"w{k}"])
            h = torch.relu(h) if k < self._layers else h
        each = torch.nn.functional.cross_entropy(
            h.flatten(0, 1), y.repeat(members), reduction="none"
        )
        losses = each.view(members, -1).mean(1)
        leaves = list(params.values())
        grads = torch.autograd.grad(losses.sum(), leaves)
        self._adam(leaves, grads)
        return losses.detach()

    def _adam(self, leaves, grads):
        torch = self._torch
        self._made += 1
        with torch.no_grad():
            torch._foreach_lerp_(self._m, grads, 0.1)
            torch._foreach_mul_(self._v, 0.999)
            torch._foreach_addcmul_(self._v, grads, grads, 0.001)
            below = torch._foreach_sqrt(self._v)
            torch._foreach_div_(below, (1 - 0.999**self._made) ** 0.5)
            torch._foreach_add_(below, 1e-8)
            rates = self._rates / -(1 - 0.9**self._made)
            for leaf, m, divisor in zip(leaves, self._m, below, strict=True):
                leaf.addcmul_(m / divisor, rates)

    def params(self):
        found = {k: v.detach().cpu().numpy() for k, v in self._params.items()}
        return {k: v[:, 0] if k[0] == "b" else v for k, v in found.items()}


def torch_bmm(workload: Workload, table: Batch) -> Stacked:
    """PyTorch, stacked by hand."""
    return Stacked(workload, table)


class JaxnetSweep:
    """jaxnet's sweep of the workload's rates and seeds, with an evaluation after each epoch."""

    def __init__(self, workload: Workload, table: Batch):
        from .peers_run import config_of

        self._workload = workload
        self._per_epoch = workload.rows // workload.step_rows
        self._config, self._workers = config_of(workload, workload.rows), {}
        self._results: list = []

    def run(self, num_steps):
        self._train(num_steps)
        return np.stack([member.losses[:, 0] for member, _ in self._results])

    def seconds(self, num_steps):
        """Of all members' epochs, compiled before: a sweep of twenty epochs or more, since it makes
        its networks within that time, and the others before.
        """
        num_steps = max(num_steps, SWEEP_EPOCHS * self._per_epoch)
        self._workers_of(num_steps)
        began = time.perf_counter()
        self._train(num_steps)
        return time.perf_counter() - began, self._epochs(num_steps) * self._per_epoch

    def params(self):
        return stack([params for _, params in self._results])

    def own_results(self, num_steps):
        """Each member, and its steps as NumPy would make them."""
        self._train(num_steps)
        plan, epochs = self._workers_of(num_steps).plan, self._epochs(num_steps)
        results = []
        for member, params in self._results:
            dataset = plan.dataset_of(member.setting, member.key)
            seed = plan.config_of(member.setting, member.key).seed
            rows_at = data.row_batches(len(dataset.train.x), dataset.batch_size, seed)
            steps = range(epochs * self._per_epoch)
            case = Case(
                dataset.spec, dataset.spec.init(seed),
                [dataset.train.batch(rows_at(step)) for step in steps],
                self._workload.optimizer, member.setting.learning_rate,
                member.epoch * self._per_epoch,
            )  # fmt: skip
            results.append((case, member.losses[:, 0], params))
        return results

    def _epochs(self, num_steps):
        return max(1, -(-num_steps // self._per_epoch))

    def _workers_of(self, num_steps):
        from jaxnet import sweep
        from jaxnet.sweep.members import Workers

        epochs = self._epochs(num_steps)
        if epochs not in self._workers:
            plan = sweep.plan(
                replace(self._config, epochs=epochs),
                learning_rate=[float(r) for r in dict.fromkeys(self._workload.learning_rates())],
                seeds=min(4, self._workload.members),
            )
            (hidden,) = plan.architectures
            mapping = sweep.mapping_of(plan, hidden)
            self._workers = {epochs: Workers(plan, hidden, mapping)}
        return self._workers[epochs]

    def _train(self, num_steps):
        self._results = list(self._workers_of(num_steps).results(lambda share: None, lambda: None))


def jaxnet_sweep(workload: Workload, table: Batch) -> JaxnetSweep:
    """jaxnet.sweep.sweep."""
    return JaxnetSweep(workload, table)
