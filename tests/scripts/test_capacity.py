"""The capacity plan: its formulas against compiled programs, its page against the script."""

import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import mesh_cases as cases
import numpy as np
import pytest

from jaxnet import data, net, optimizers, train
from jaxnet.engine import accumulate, mesh, streams
from jaxnet.spec import Spec

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import capacity  # noqa: E402
import capacity_measure  # noqa: E402

PAGE = (SCRIPTS.parent / "docs" / "scaling.md").read_text()
PROBLEMS = [((130, 120, 110), 512), ((250, 150, 200, 100), 512), ((90, 60), 1024)]
# FLOPs that XLA counts outside of products: for an element of an activation or of the loss (bias,
# ReLU and its derivative, softmax), and for a parameter (sums over rows, Adam)
ELEMENTWISE = 20


def spec_of(sizes):
    return Spec(sizes, bias=True, loss="cross_entropy")


def lowered(sizes, batch, optimizer, change=lambda loss: loss, **options):
    spec, optimizer = spec_of(sizes), optimizers.make(optimizer, 0.01)
    loss = change(partial(net.loss, loss=spec.loss))
    step = train.make_step(loss, optimizer, **options)
    state = train.init(spec.init(0), optimizer)
    return step.lower(state, data.random_problem(spec, num_rows=batch))  # type: ignore[missing-attribute]


def assert_counted(got, plan):
    """XLA's FLOPs are those of the products, and above them at most `ELEMENTWISE` for each element:
    less than any one product, so that none is missed or counted twice."""
    sizes, rows = plan.sizes, plan.rows_each
    others = ELEMENTWISE * (rows * sum(sizes[1:]) + capacity.num_params(sizes))
    smallest = min(2 * rows * i * o for i, o, *_ in capacity.layers(sizes))
    assert others < smallest
    assert 0 <= got - capacity.flops(plan) <= others


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("sizes", "batch"), PROBLEMS)
def test_the_flops_are_those_that_xla_counts(sizes, batch, optimizer):
    got = lowered(sizes, batch, optimizer).compile().cost_analysis()["flops"]
    assert_counted(got, capacity.Plan(sizes, batch, optimizer=optimizer))


@pytest.mark.parametrize(("sizes", "batch"), PROBLEMS)
def test_the_flops_of_remat_are_those_that_xla_is_given(sizes, batch):
    """Before it compiles: on a CPU it then makes both forward passes one again."""
    got = lowered(sizes, batch, "sgd", partial(partial, remat=True)).cost_analysis()["flops"]
    assert_counted(got, capacity.Plan(sizes, batch, optimizer="sgd", remat=True))


@pytest.mark.parametrize("depth", [2, 3, 6, 11])
def test_the_activations_of_remat_are_those_that_are_kept(depth):
    """And at most one part's twice, for what is made again: XLA for CPUs makes nothing again."""
    spec, rows = spec_of((7, *range(20, 20 + depth), 3)), 11
    batch, params = data.random_problem(spec, num_rows=rows), spec.init(0)
    _, backward = jax.vjp(lambda p: net.loss(p, batch, loss=spec.loss, remat=True), params)
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values()
    hidden = spec.sizes[1:-1]
    kept = sum(leaf.shape[1] for leaf in leaves if leaf.shape in {(rows, n) for n in hidden})
    got = capacity.num_activations(spec.sizes[1:], True)
    again = got - 2 * spec.sizes[-1] - kept
    assert 2 * min(hidden) <= again <= 2 * max(hidden) * max(1, int((depth - 1) ** 0.5))


@pytest.mark.parametrize("sizes", [sizes for sizes, _ in PROBLEMS])
def test_parameters_and_moments_are_counted(sizes):
    params = spec_of(sizes).init(0)
    count = sum(int(np.prod(shape)) for shape in spec_of(sizes).shapes().values())
    assert capacity.num_params(sizes) == count
    assert set(capacity.MOMENTS) == set(optimizers.OPTIMIZERS)
    for name, moments in capacity.MOMENTS.items():
        state = jax.tree.leaves(optimizers.make(name, 0.01).init(params))
        assert sum(leaf.size for leaf in state if leaf.ndim) == moments * count


def test_the_constants_are_those_of_the_library():
    assert capacity.MIN_COLUMNS == mesh.MIN_COLUMNS
    assert capacity.SLAB == streams.BYTES


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_memory_of_a_step_is_near_what_xla_sets_aside(optimizer, parts):
    """Within 15%: XLA lets some arrays share space, and keeps a copy of others."""
    sizes, batch = (130, 520, 510, 110), 2048
    options = {
        "value_and_grad": partial(accumulate.accumulated, microbatches=parts, reduction="mean")
    }
    step = lowered(sizes, batch, optimizer, **(options if parts > 1 else {}))
    got = step.compile().memory_analysis()
    plan = capacity.Plan(sizes, batch, optimizer=optimizer, parts=parts, rows=0)
    space = capacity.memory(plan)
    want = sum(space.values()) - space["best parameters"]  # a run's, not a step's
    assert got.argument_size_in_bytes + got.temp_size_in_bytes == pytest.approx(want, rel=0.15)


def exchanges(program):
    """What a compiled program exchanges: kind and shapes of each collective operation."""
    found = []
    for line in str(program).splitlines():
        if made := re.search(r"= (\(?f32.*?) (all-reduce|all-gather|reduce-scatter)\(", line):
            shapes = re.findall(r"f32\[([\d,]*)\]", made[1])
            found.append((made[2], [tuple(map(int, s.split(","))) if s else () for s in shapes]))
        else:
            assert not re.search(r"(all-to-all|collective-permute|-start)\(", line), line
    return found


@pytest.mark.parametrize(("axes", "optimizer"), cases.PROGRAMS)
def test_the_exchanges_of_a_step_are_those_of_the_compiled_program(run_case, axes, optimizer):
    """One sum of all gradients and the loss over `data`, and what the formula lists over `model`.

    XLA may join some of the latter into one operation.
    """
    found = run_case("programs", 1, 8)
    shape = mesh._axis_sizes(axes, 8)
    sizes, data, model = cases.WIDE_SPEC.sizes, shape["data"], shape.get("model", 1)
    plan = capacity.Plan(sizes, 64, data, model, optimizer)
    of_data, of_model = 0, Counter()
    for kind, shapes in exchanges(found[f"programs/{axes} {optimizer} text"]):
        if () in shapes:
            of_data += sum(int(np.prod(s)) for s in shapes)
        else:
            of_model += Counter((kind, *s) for s in shapes)
    assert of_data == (capacity.num_gradients(sizes, model) + 1 if data > 1 else 0)
    assert of_model == Counter(capacity.model_exchanges(plan))
    assert found[f"programs/{axes} {optimizer} params"] == capacity.num_params(sizes, model)


@pytest.mark.parametrize(("axes", "optimizer"), cases.PROGRAMS)
def test_the_work_of_a_device_is_that_of_its_program(run_case, axes, optimizer):
    """64 rows: a parameter's work by the optimizer, at most 20 FLOPs, is a share of its products'
    6 * 64 / 8 at most, so a bound is given rather than a ratio near 1."""
    got = float(run_case("programs", 1, 8)[f"programs/{axes} {optimizer} flops"])
    shape = mesh._axis_sizes(axes, 8)
    sizes, data, model = cases.WIDE_SPEC.sizes, shape["data"], shape.get("model", 1)
    plan = capacity.Plan(sizes, 64, data, model, optimizer)
    others = plan.rows_each * sum(sizes[1:]) + capacity.num_params(sizes, model)
    assert 0 <= got - capacity.flops(plan) <= ELEMENTWISE * others


def test_a_ring_of_one_sends_nothing_and_one_of_many_twice_the_payload():
    assert capacity.ring_bytes(80, 1) == 0
    assert capacity.ring_bytes(80, 2) == 80
    assert capacity.ring_bytes(80, 8) == 140
    assert capacity.ring_bytes(80, 8, "all-gather") == 70


def test_at_the_break_even_products_and_all_reduce_take_the_same_time():
    hardware, plan = capacity.Hardware(), capacity.Plan((784, 4096, 10), 4096, 64)
    batch = round(64 * capacity.break_even_rows(plan, hardware))
    parts = capacity.seconds(plan._replace(batch=batch), hardware, 64)
    assert parts["products"] == pytest.approx(parts["all-reduce"], rel=1 / batch)


def test_a_step_is_bound_by_the_slowest_of_what_overlaps():
    parts = {"products": 3.0, "update": 1.0, "all-reduce": 2.0, "loader": 5.0}
    assert capacity.step_seconds(parts) == (5.0, 6.0)
    assert capacity.step_seconds(parts | {"loader": 9.0}) == (9.0, 9.0)
    assert capacity.limits(parts)["device"] == 4.0


# those that are a block of their own, with the plan behind it
COMMANDS = re.findall(r"^```\npython scripts/capacity.py (--sizes .*)\n```$", PAGE, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_on_the_page_is_what_the_script_prints(capsys, command):
    capacity.main(command.split())
    assert capsys.readouterr().out in PAGE


def test_the_page_has_plans():
    assert len(COMMANDS) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sizes 7", r"`sizes` must be two or more integers of at least 1, got \[7\]"),
        ("--devices 6 --model 4", "`devices` must be a multiple of 4, got 6"),
        ("--devices 8 --batch 12", "`batch` must divide over 8 devices, got 12"),
        ("--accumulate 0", "numbers must be at least 1"),
    ],
)
def test_what_is_no_plan_is_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        capacity.main(arguments.split())
    assert re.search(message, capsys.readouterr().err)


def test_the_measurements_are_made_and_have_the_tables_of_the_page(monkeypatch, tmp_path):
    """Small, on one device; two processes in the test below."""
    small = {
        "COUNTS": (1,), "PROCESSES": (1,), "NETWORKS": {"784-2-10": ((2,), 4, 2)}, "DEPTHS": (1,),
        "MEMORY": ((7, 5, 3), 8), "TABLES": {3: 3000}, "BATCHES": (64,),
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(capacity_measure, name, value)
    monkeypatch.setattr(capacity_measure, "in_processes", lambda *_: {"784-2-10": [0.001]})
    monkeypatch.setattr(capacity_measure, "result", lambda found: found)
    monkeypatch.setattr(
        capacity_measure,
        "start",
        lambda name, *arguments, devices=1: capacity_measure.CASES[name](*map(str, arguments)),
    )
    made = capacity_measure.tables(rounds=1)
    assert all(f"{title}:" in PAGE for title in made)
    for text in made.values():
        head, rule, *lines = text.splitlines()
        assert lines
        assert {line.count("|") for line in (head, rule, *lines)} == {head.count("|")}


def test_two_processes_are_measured():
    found = capacity_measure.in_processes(2, 1, ["784-256-10"])
    assert found["784-256-10"][0] > 0
