"""The report: the first difference, its causes, and every form tells the same."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from parity_problem import check, forward, make, strict_json, value_and_grad

from jaxnet import parity


def doubled(params, batch):
    value, grads = value_and_grad(params, batch)
    return 2 * value, {name: 2 * grad for name, grad in grads.items()}


def shifted(params, batch):
    return forward(params, batch) + 1


def test_the_first_difference_is_not_an_inherited_one():
    def moved(params, batch):
        y_pred = shifted(params, batch)
        value = np.square(y_pred - batch["y"]).sum()
        return value, doubled(params, batch)[1]

    report = check(make(moved, forward=shifted))
    first = report.first
    assert first is not None
    assert (first.stage, first.inherited) == ("forward", False)
    wrong = {leaf.stage: leaf.inherited for leaf in report.leaves if not leaf.equal}
    del wrong["free run"]
    assert wrong == {"forward": False, "loss": True, "gradient": True}
    assert "inherited" in str(report)


def test_the_report_of_a_mismatch_says_what_where_and_why():
    report = check(make(doubled))
    first = report.first
    assert first is not None
    assert (first.tier, first.step, first.stage) == ("mathematics", 1, "loss")
    np.testing.assert_allclose(first.got, 2 * first.want, rtol=1e-14)
    assert report.cause == "factor 2 (loss and gradient)"
    assert report.causes[0].distance < 1e-12
    text = str(report)
    with pytest.raises(parity.ParityError) as raised:
        report.raise_for_mismatch()
    assert str(raised.value) == text
    assert text.startswith("tanh layer: numpy against numpy: mismatch, ")
    assert "mathematics, step 1, loss, loss" in text
    assert "cause: factor 2 (loss and gradient)" in text


@pytest.mark.parametrize(
    ("distances", "cause"),
    [
        ([], "unknown"),
        ([1e-3], "nearest"),
        ([1e-3, 0.02], "nearest"),
        ([1e-3, 5e-3], "ambiguous"),  # less than ten times further
        ([0.0, 9e-4], "ambiguous"),  # ten times what is rounding
        ([0.0, 2e-3], "nearest"),
    ],
)
def test_a_cause_is_named_only_if_the_runner_up_is_ten_times_further(distances, cause):
    names = ["nearest", "runner-up"][: len(distances)]
    causes = [parity.Cause(n, "", d) for n, d in zip(names, distances, strict=True)]
    assert replace(check(make(doubled)), causes=causes).cause == cause


@pytest.mark.parametrize(
    ("candidate", "causes", "remedy"),
    [
        (make(), [], ""),
        (make(doubled), [parity.Cause("nearest", "halve it", 0.0)], "halve it"),
        (make(doubled), [parity.Cause(name, name, 0.0) for name in "ab"], "tell the causes apart"),
        (make(doubled), [], "give the layers names: `parity.tap`, or modules in place of functions"),
    ],
    ids=["equal", "named", "ambiguous", "unknown"],
)
def test_a_mismatch_always_has_a_remedy(candidate, causes, remedy):
    report = replace(check(candidate), causes=causes)
    assert report.remedy == strict_json(report.to_json())["remedy"] == remedy
    assert (remedy in str(report)) or report.cause == "ambiguous"


@pytest.mark.parametrize("candidate", [make(), make(doubled)], ids=["equal", "mismatch"])
def test_every_form_of_the_report_tells_the_same(candidate):
    report = check(candidate)
    worst = report.worst()
    failed = [leaf for leaf in worst if not leaf.equal]
    plain = strict_json(report.to_json())
    assert plain["verdict"] == report.verdict
    assert plain["n_compared"] == report.n_compared
    assert plain["cause"] == report.cause
    assert len(plain["leaves"]) == len(report.leaves)
    suite = ElementTree.fromstring(report.to_junit())[0]
    assert int(suite.get("tests", "")) == len(suite) == len(worst)
    assert int(suite.get("failures", "")) == len(suite.findall(".//failure")) == len(failed)
    assert {failure.get("message") for failure in suite.iter("failure")} <= {report.cause}
    rows = [line.split(" | ") for line in report.to_markdown().splitlines() if "|" in line]
    assert len(rows) == 2 + len(worst)
    assert len({len(row) for row in rows}) == 1
    assert sum(row[-1] == "MISMATCH |" for row in rows) == sum(not a.inherited for a in failed)
    assert (report.cause in report.to_markdown()) or report.verdict == "equal"


def test_worst_has_one_leaf_for_each_tier_and_stage_with_the_largest_share():
    report = check(make(doubled))
    worst = {(leaf.tier, leaf.stage): leaf for leaf in report.worst()}
    assert len(worst) == len(report.worst()) == 2 * 5 + 1
    for leaf in report.leaves:
        assert leaf.ratio / leaf.allowed <= worst[leaf.tier, leaf.stage].ratio / leaf.allowed


def test_junit_escapes_names():
    report = replace(check(make()), case='<a & "b">')
    assert ElementTree.fromstring(report.to_junit())[0].get("name") == '<a & "b">/numpy'


def test_a_free_run_of_a_candidate_that_diverges_is_still_json():
    report = check(make(momentum=-1e200), make(momentum=0.9), steps=(1,), num_steps=4)
    assert report.verdict == "mismatch"
    strict_json(report.to_json())
