"""Two forms kept for speed are the same function: weights (out, in), the first layer's dual."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from jaxnet import data, net, optimizers, parity, train
from jaxnet.engine import gram
from jaxnet.spec import Spec

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = Spec((23, 5, 4, 3), bias=True)  # more columns than the 6 rows
LOSSES = ["sum_squares", "mean_squares", "cross_entropy"]
MOMENTUM, SGD = optimizers.make("momentum", 1.0), optimizers.make("sgd", 1e-3)


def case_of(spec, name):
    batch = data.random_problem(spec, num_rows=6, seed=3, dtype="float64")
    params = spec.init(1, "float64")
    return parity.Case(name, params, lambda step: batch, steps=(1, 2, 3, 10), num_steps=10)


def names_of(spec):
    return {"activation": spec.activation, "loss": spec.loss}


@pytest.mark.parametrize(("optimizer", "loss"), [("momentum", LOSSES[0]), ("adam", LOSSES[2])])
def test_weights_held_out_in_are_the_same_function(loss, optimizer):
    spec = replace(SPEC, loss=loss)
    candidate = parity.jax_participant(
        train.transposed(partial(net.loss, **names_of(spec))),
        optimizers.make(optimizer, 1e-3),
        forward=lambda params, batch: net.forward(train.transpose(params), batch.x),
        layout={n: (n, (1, 0)) if n[0] == "w" else n for n in spec.shapes()},
        name="transposed",
    )
    case = case_of(spec, "weights held (out, in)")
    reference = parity.oracle(spec, optimizer, 1e-3)
    candidate = replace(candidate, run=None)
    parity.check(candidate, against=reference, case=case).raise_for_mismatch()


def dual_gradient(spec, params, batch):
    """Loss and gradients of the dual form: torch's first momentum buffer is the gradient."""
    form = gram.prepare(batch.x, params["w1"])
    step = gram.make_step(form.products(batch.x), batch.y, MOMENTUM, **names_of(spec))
    state, loss = step(train.init(params | form.params(), MOMENTUM), None)
    grads = state.opt_state[0].buf
    only_data = form._replace(w1=np.zeros_like(form.w1))
    return np.asarray(loss), only_data.weights(grads)


def dual_run(spec, params, batch_at, num_steps, keep):
    """The losses of free training in the dual form; no states, which a reference gives."""
    batch = batch_at(0)
    form = gram.prepare(batch.x, params["w1"])
    step = gram.make_step(form.products(batch.x), batch.y, SGD, **names_of(spec))
    state = train.init(params | form.params(), SGD)
    return train.fit_scan(step, state, lambda i: None, num_steps)[1], {}


def in_precision(function):
    def run(params, *rest):
        with jax.enable_x64(params["w1"].dtype == np.float64):
            return function(params, *rest)

    return run


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_the_dual_form_is_the_same_function(loss):
    spec = replace(SPEC, loss=loss)
    reference = parity.oracle(spec, "sgd", 1e-3)
    candidate = replace(
        reference,
        name="dual form",
        value_and_grad=in_precision(partial(dual_gradient, spec)),
        forward=None,
        run=in_precision(partial(dual_run, spec)),
        plan=None,
    )
    case = case_of(spec, "the first layer's dual form")
    parity.check(candidate, against=reference, case=case).raise_for_mismatch()
    # as a reference its states are those of single steps
    port = replace(reference, plan=None)
    parity.check(port, against=candidate, case=case).raise_for_mismatch()
