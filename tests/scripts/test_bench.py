"""The benchmark: its check finds what is wrong, its page is that of its JSON, and it runs."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quick_code

from jaxnet import numpy_net

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks import check, commands, floor, participant, report, rounds, workloads  # noqa: E402
from benchmarks.levers import LEVERS  # noqa: E402
from benchmarks.peers import PEERS  # noqa: E402

DIGITS = workloads.quick(workloads.WORKLOADS["digits"])
PARTICIPANTS = ["scan", "train", "numpy"]


def case_of(workload, **changed):
    table = workloads.table_of(workload)
    (case,) = check.cases_of(workload, table, workload.check_steps, "adam")
    return case._replace(**changed)


@pytest.mark.parametrize("name", ["tutorial-sgd", "tutorial-adam", "digits", "wide"])
def test_the_check_accepts_float32(name):
    case = case_of(workloads.quick(workloads.WORKLOADS[name]))
    assert check.judge(case, *check.reference(case, "float32")).share <= 1


WRONG = {
    "another rate": lambda case: case._replace(learning_rate=1.05 * case.learning_rate),
    "another optimizer": lambda case: case._replace(optimizer="sgd"),
    "one batch twice": lambda case: case._replace(batches=[case.batches[0]] * len(case.batches)),
    "a step too few": lambda case: case._replace(params_step=case.params_step - 1),
    "another activation": lambda case: case._replace(
        spec=workloads.Spec(case.spec.sizes, True, "tanh", case.spec.loss)
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_check_rejects_a_planted_fault(fault):
    case = case_of(DIGITS)
    assert check.judge(case, *check.reference(WRONG[fault](case), "float32")).share > 1


@pytest.mark.parametrize(("rate", "right"), [(1, True), (1.3, True), (0.5, False), (2, False)])
def test_the_check_of_bfloat16_rejects_half_of_a_learning_rate(rate, right):
    case = case_of(DIGITS, dtype="bfloat16")
    changed = case._replace(learning_rate=rate * case.learning_rate)
    assert (check.judge(case, *check.reference(changed, "float32")).share <= 1) == right


def test_the_check_rejects_what_is_not_a_number_and_other_shapes():
    case = case_of(DIGITS)
    losses, params = check.reference(case, "float32")
    assert not check.judge(case, losses * np.nan, params).share <= 1
    assert not check.judge(case, losses, params | {"w1": params["w1"] * np.nan}).share <= 1
    assert not check.judge(case, losses, params | {"w1": params["w1"].T}).share <= 1


def test_both_forms_of_adam_agree_where_epsilon_does_not_matter():
    params, grads = {"w1": np.ones((2, 2))}, {"w1": np.full((2, 2), 3.0)}
    ends = []
    for optimizer in (check.adam_hat(0.1), numpy_net.adam(0.1)):
        made, state = params, optimizer.init(params)
        for _ in range(3):
            made, state = optimizer.update(made, grads, state)
        ends.append(made["w1"])
    np.testing.assert_allclose(*ends, rtol=1e-7)


@pytest.mark.parametrize("backend", ["numpy", "xla"])
@pytest.mark.parametrize("workload", [DIGITS, workloads.quick(workloads.WORKLOADS["sweep"])])
def test_the_floor_is_above_zero(monkeypatch, backend, workload):
    monkeypatch.setattr(floor, "TRY_SECONDS", 1e-4)
    answer = floor.BACKENDS[backend](workload)()
    found = rounds.summarize_floor(workload, {backend: [answer]})
    assert found["us"] > found["traffic_us"] > 0
    assert len(found["products"]) == 5  # two layers forward, two for weights, one for inputs
    assert all(product["us"] > 0 for product in found["products"])


def test_the_operands_of_the_floor_have_the_shapes_of_the_step():
    for workload in (DIGITS, workloads.quick(workloads.WORKLOADS["sweep"])):
        for product in floor.products(workload):
            a, b = floor.operands(workload, product)
            assert (a @ b).shape[-2:] == (product[0], product[2])


def test_ratios_are_taken_within_a_round():
    found = {name: {"status": "ok"} for name in ("scan", "peer")}
    times = {"scan": [1.0, 2.0, 4.0], "peer": [2.0, 6.0, 8.0]}
    assert rounds.summarize(found, times, "scan")["peer"]["ratio"] == [2.0, 2.0, 3.0]


def test_every_participant_is_described_and_of_one_table():
    assert not set(PEERS) & set(LEVERS)
    assert all(lever.verdict for lever in LEVERS.values())
    for peer in (PEERS | LEVERS).values():
        path = SCRIPTS / "benchmarks" / (peer.module.split(":")[0] + ".py")
        assert f"def {peer.module.split(':')[1]}(" in path.read_text()
        assert peer.note


def bench(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "bench.py"), *arguments],
        capture_output=True, text=True, check=False,
        env=os.environ | quick_code.ENVIRONMENT | {"PYTHONPATH": str(SCRIPTS.parent)},
    )  # fmt: skip


def test_a_quick_run_measures_draws_and_writes(tmp_path, monkeypatch):
    done = bench(
        "--quick", "--workloads", "digits", "--peers", *PARTICIPANTS, "--rounds", "2",
        "--seconds", "0.01", "--processes", "1", "--parts", "commands", "peers", "disk",
        "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in PARTICIPANTS)
    text = (tmp_path / "benchmarks.json").read_text()
    for start in json.loads(text)["starts"]:  # of the imports alone, and of whole commands
        assert all(len(seconds) == 1 for seconds in start["seconds"].values())
        assert start["seconds"].keys() >= {"jaxnet", "scikit-learn"}
    disk = json.loads(text)["disk"]
    for seconds in (disk["floor"], *disk["conversions"].values(), *disk["epochs"].values()):
        assert next(iter(seconds.values())) > 0
    assert len(disk["conversions"]) == len(disk["epochs"]) == 2
    (found,) = json.loads(text)["workloads"]
    for name in PARTICIPANTS:
        entry = found["participants"][name]
        assert entry["status"] == "ok"
        assert entry["share"] <= 1
        assert entry["us"] > 0
        assert entry["rss_mb"] > 10
        assert entry["once"]["cold"] > 0
        assert entry["once"]["cold_mb"] > 10
    assert str(tmp_path) not in text
    assert found["floor"]["us"] > 0
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")

    page = (tmp_path / "benchmarks.md").read_text()
    assert page == report.page(json.loads(text))
    assert "## Tables on disk" in page
    (tmp_path / "benchmarks.md").unlink()
    made = script()
    monkeypatch.setattr(made.sys, "argv", ["bench.py", "--page", str(tmp_path / "benchmarks.json")])
    assert made.main() == 0
    assert (tmp_path / "benchmarks.md").read_text() == page


def script():
    spec = importlib.util.spec_from_file_location("bench_script", SCRIPTS / "bench.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_measured_before_is_kept_unless_it_is_measured_again(tmp_path, monkeypatch):
    made = script()
    monkeypatch.setattr(made.sys, "argv", ["bench.py", "--rounds", "1", "--other", sys.executable])
    options = argparse.Namespace(device="cpu", other=sys.executable, out=tmp_path, quick=False)

    def measure(name, us):
        result = made.begin(options)
        made.put(result["workloads"], {"workload": {"name": name}, "us": us})
        made.save(result, tmp_path)
        return result

    measure("wide", 1)
    measure("digits", 2)
    result = measure("wide", 3)
    assert [(w["workload"]["name"], w["us"]) for w in result["workloads"]] == [
        ("digits", 2), ("wide", 3),
    ]  # fmt: skip
    assert result == json.loads((tmp_path / "benchmarks.json").read_text())
    command = "python scripts/bench.py --rounds 1 --other other/bin/python"
    assert result["commands"] == [command] * 3  # no path of this machine
    made.put(result["levers"], {"workload": {"name": "wide"}})
    made.save(result, tmp_path)
    monkeypatch.setattr(made.machine, "describe", lambda device, other: {"processor": "another"})
    again = made.begin(options)
    assert not again["workloads"]
    assert again["levers"] == result["levers"]  # each has the machine that it was measured on


def test_what_this_python_has_not_is_found_in_another(tmp_path):
    other, packages = tmp_path / "python", ("a_peer",)
    (tmp_path / "a_peer.py").touch()
    other.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert participant.interpreter(("numpy",), str(other)) == sys.executable
    assert participant.interpreter(packages, str(other)) == str(other)
    assert participant.interpreter(packages, "") is None


def test_a_command_is_shown_over_each_peer_by_the_median_of_its_turns():
    seconds = {"slow": [2.0, 4.0, 9.0], "jaxnet": [1.0, 1.0, 3.0]}
    _, table = commands.text([{"table": "t", "rows": 1000, "epochs": 7, "seconds": seconds}])
    assert table.splitlines()[0] == "| table | rows | epochs | jaxnet | slow |"
    assert table.splitlines()[2] == "| t | 1,000 | 7 | 1.00 s | 4.00 s (0.33) |"


def test_what_is_wrong_has_no_time_on_the_page():
    floors = {"us": 1.0, "traffic_us": 0.5, "traffic_mb": 1.0, "gflops": 1.0}
    wrong = {"status": "wrong", "share": 7.0, "of": "w1", "reason": "w1 is off"}
    found = {"floor": floors, "participants": {"numpy": wrong}}
    assert report.rows(found) == [  # of what nobody has there is no column
        ["participant", "us a step", "error"],
        ["numpy", "WRONG", "7 (w1)"],
    ]


def measured(**ratios):
    """A workload as `rounds.measure` returns it, with a ratio for each participant."""
    products = floor.products(DIGITS)
    entry = {"status": "ok", "us": 10.0, "first_s": 0.1, "rss_mb": 50.0, "share": 0.1}
    ratios = {"fit_scan": 0.9} | ratios
    return {
        "workload": workloads.to_json(DIGITS),
        "reference": "scan",
        "floor": {
            "us": 5.0, "traffic_us": 0.5, "traffic_mb": 1.0, "gflops": 1.0,
            "products": [{"m": m, "k": k, "n": n, "transposed": t} for m, k, n, t in products],
            "products_us": {"xla": [1.0] * len(products), "torch": [0.5] * len(products)},
        },
        "participants": {name: entry | {"ratio": [r, r, r]} for name, r in ratios.items()},
    }  # fmt: skip


def page_of(found, levers=()):
    machine = {
        "libraries": {"jax": "1"}, "device": "cpu", "cores": 2, "memory_gb": 1, "processor": "any",
        "system": "any", "python": "3", "elsewhere": "",
    }  # fmt: skip
    result = {"machine": machine, "commands": ["any"]}
    levers = [{"machine": machine} | lever for lever in levers]
    return report.page(result | {"workloads": [found], "levers": levers})


def test_the_page_profiles_a_workload_exactly_where_a_peer_is_ahead():
    assert "A peer is ahead here" not in page_of(measured(torch=1.5))
    assert "| (32 x 64) (64 x 40) | 1.0 | 0.5 |" in page_of(measured(torch=0.5))


def test_the_page_has_a_line_for_each_lever_with_its_verdict():
    found = measured(**dict.fromkeys(LEVERS, 0.7))
    page = page_of(measured(), [found])
    for lever in LEVERS.values():
        assert f"| {lever.note} | 0.70 | {lever.verdict} |" in page
    assert "another machine" not in page
    there = {"processor": "ENIAC", "cores": 1, "libraries": {"jax": "0"}}
    page = page_of(measured(), [found | {"machine": there}])
    assert "Measured on another machine: ENIAC, 1 cores, jax 0." in page
