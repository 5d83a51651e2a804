"""`jaxnet parity`: exit codes, what is printed, the files that are written."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from jaxnet import numpy_net
from jaxnet.cli import main
from jaxnet.parity import plants, selftest, tutorial
from jaxnet.parity.participants import numpy_participant, oracle

SMALL = ("--sizes", "8", "13", "11", "5", "--steps", "3")


def call(capsys, *argv):
    """The exit code, standard output and standard error."""
    return main(["parity", *argv]), *capsys.readouterr()


def in_numpy(program, sizes, *, activation=None, name="numpy"):
    """A program in NumPy, as a candidate that needs no compilation."""
    spec = program.spec(sizes)
    activation = spec.activation if activation is None else activation

    def value_and_grad(params, batch):
        return numpy_net.value_and_grad(params, batch, activation=activation, loss=spec.loss)

    optimizer = numpy_net.make_optimizer(program.optimizer, program.learning_rate)
    return numpy_participant(value_and_grad, optimizer, name=name)


@pytest.fixture
def quick(monkeypatch):
    """Each program has one implementation, in NumPy, and torch's recordings are not needed."""
    monkeypatch.setattr(
        tutorial,
        "implementations",
        lambda program, sizes: [(in_numpy(program, sizes), program.activation)],
    )
    monkeypatch.setattr(tutorial, "has_torch", lambda: True)


@pytest.fixture
def wrong(quick, monkeypatch):
    """The programs `tensors` and `module` also have an implementation with the wrong ReLU rule."""

    def implementations(program, sizes):
        right = [(in_numpy(program, sizes), program.activation)]
        if program.activation != "my_relu":
            return right
        other = in_numpy(program, sizes, activation="relu", name="wrong at 0")
        return [*right, (other, program.activation)]

    monkeypatch.setattr(tutorial, "implementations", implementations)


def test_a_program_whose_implementations_are_equal_exits_with_0_and_a_table(capsys):
    code, out, err = call(capsys, "tensors", *SMALL)
    assert (code, err) == (0, "")
    assert out.startswith("== tensors: 8 rows, 13-11-5, sgd 1e-06, against the NumPy oracle\n")
    count = 4  # two ReLU rules in JAX, Flax, and torch, live or recorded
    for tier, stage in (("mathematics", "free run"), ("precision", "gradient")):
        assert len(re.findall(rf"{tier} +{stage} .* equal$", out, re.M)) == count
    assert "MISMATCH" not in out
    assert "shadow of numpy" in out
    assert re.search(rf"^{count} of {count} equal, [\d,]+ numbers, \d+ s$", out, re.M)


@pytest.mark.usefixtures("quick")
def test_without_a_name_every_program_is_run(capsys):
    code, out, _ = call(capsys, *SMALL)
    assert code == 0
    assert re.findall(r"^== (\w+):", out, re.M) == ["tensors", "sequential", "module", "dynamic"]


@pytest.mark.usefixtures("quick")
def test_reports_are_written_whole_in_each_form(capsys, tmp_path):
    paths = {form: tmp_path / f"report.{form}" for form in ("json", "junit", "markdown")}
    options = [text for form, path in paths.items() for text in (f"--{form}", str(path))]
    code, out, _ = call(capsys, "tensors", "dynamic", *SMALL, *options)
    assert code == 0
    assert re.findall("written: (.*)", out) == [str(path) for path in paths.values()]
    reports = json.loads(paths["json"].read_text())["reports"]
    assert [report["case"] for report in reports] == ["tensors", "dynamic"]
    assert all(report["verdict"] == "equal" and report["leaves"] for report in reports)
    suites = ElementTree.fromstring(paths["junit"].read_text()).findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["tensors/numpy", "dynamic/numpy"]
    assert all(suite.get("failures") == "0" and len(suite) > 4 for suite in suites)
    lines = paths["markdown"].read_text().splitlines()
    assert {line.count("|") for line in lines} == {11}
    assert {line.split("|")[1].strip() for line in lines[2:]} == {"tensors", "dynamic"}


@pytest.mark.usefixtures("wrong")
def test_a_mismatch_exits_with_1_and_prints_the_cause(capsys, tmp_path):
    path, junit, markdown = (tmp_path / name for name in ("a.json", "a.xml", "a.md"))
    files = ("--json", str(path), "--junit", str(junit), "--markdown", str(markdown))
    code, out, err = call(capsys, "tensors", *SMALL, *files)
    assert (code, err) == (1, "")
    assert "tensors: wrong at 0 against numpy: mismatch" in out
    assert "cause: ReLU derivative 0 at 0" in out
    assert "mathematics, probe ties, gradient, w1" in out
    assert "\n1 of 2 equal, " in out
    reports = json.loads(path.read_text())["reports"]
    assert [report["verdict"] for report in reports] == ["equal", "mismatch"]
    failures = ElementTree.fromstring(junit.read_text()).iter("failure")
    assert {failure.get("message") for failure in failures} == {"ReLU derivative 0 at 0"}
    assert "**tensors, wrong at 0: ReLU derivative 0 at 0**" in markdown.read_text()


@pytest.mark.usefixtures("wrong")
def test_one_mismatch_among_many_programs_exits_with_1(capsys):
    code, out, _ = call(capsys, "sequential", "module", *SMALL)
    assert code == 1
    assert "\n2 of 3 equal, " in out


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("dtype", "tiers"), [("float64", {"mathematics"}), ("float32", {"precision"})]
)
def test_one_dtype_is_one_tier(dtype, tiers, capsys, tmp_path):
    path = tmp_path / "report.json"
    code, out, _ = call(capsys, "tensors", *SMALL, "--dtype", dtype, "--json", str(path))
    assert code == 0
    (report,) = json.loads(path.read_text())["reports"]
    assert {leaf["tier"] for leaf in report["leaves"]} == tiers
    assert {"mathematics", "precision"} - tiers - set(out.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("lstm",), r"PROGRAMS must be of tensors, sequential, module, dynamic; got 'lstm'"),
        (("tensors", "lstm"), r"PROGRAMS must be of .*; got 'lstm'"),
        (("--sizes", "8", "0", "11", "5"), r"--sizes must be at least 1 each, got \(8, 0, 11, 5\)"),
        (("--sizes", "-8", "13", "11", "5"), r"--sizes must be at least 1 each, got \(-8, "),
        (("--steps", "0"), r"--steps must be at least 1, got 0"),
        (("--dtype", "int8"), r"--dtype must be one of both, float64, float32; got 'int8'"),
        (("--json", "none/report.json"), r"--json must be in a folder that exists, got none"),
        (("--junit", "none/report.xml"), r"--junit must be in a folder that exists, got none"),
        (("--markdown", "none/report.md"), r"--markdown must be in a folder that exists, got none"),
        (("tensors", "--self-test"), r"PROGRAMS must not be given with --self-test, got tensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_exits_with_2_and_one_line(argv, message, capsys):
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"jaxnet: {message}.*\n", err), err


@pytest.mark.usefixtures("quick")
def test_a_report_that_cannot_be_written_exits_with_2(capsys, tmp_path):
    code, _, err = call(capsys, "tensors", *SMALL, "--json", str(tmp_path))
    assert code == 2
    assert re.fullmatch(r"jaxnet: .*\n", err)


def test_without_torch_its_recording_stands_in_and_the_last_line_says_so(
    quick, monkeypatch, capsys
):
    monkeypatch.setattr(tutorial, "has_torch", lambda: False)
    code, out, _ = call(capsys, "tensors", *SMALL)
    assert code == 0
    assert "\n2 of 2 equal, " in out
    assert re.search(r"^torch Sequential \(recorded\) +precision +gradient .* equal$", out, re.M)
    assert out.splitlines()[-1] == (
        "PyTorch is not installed: its recorded runs were compared instead (pip install "
        "'jaxnet[torch]')"
    )


def plant(name, activation):
    """The rule of `my_relu`, with what a NumPy candidate of another rule is called."""
    reference = oracle(plants.TIED, "sgd", plants.RATE)

    def value_and_grad(params, batch):
        return numpy_net.value_and_grad(params, batch, activation=activation)

    candidate = replace(reference, name="numpy", value_and_grad=value_and_grad, plan=None)
    return plants.Plant(name, reference, candidate)


TIE = "ReLU derivative 0 at 0"


@pytest.mark.parametrize(
    ("planted", "code", "verdicts", "last"),
    [
        ([(TIE, "relu")], 0, ["named "], "1 mistakes planted, 1 caught, 1 named"),
        (
            [(TIE, "relu"), ("nothing at all", "my_relu")],
            1,
            ["named ", "MISSED"],
            "2 mistakes planted, 1 caught, 1 named",
        ),
        ([("a misnomer", "relu")], 1, ["caught"], "1 mistakes planted, 1 caught, 0 named"),
    ],
)
def test_the_self_test_exits_with_0_if_all_are_named(
    planted, code, verdicts, last, capsys, monkeypatch, tmp_path
):
    made = [plant(*arguments) for arguments in planted]
    monkeypatch.setattr(selftest, "plants", lambda: iter(made))
    monkeypatch.setattr(selftest, "has_torch", lambda: False)  # no mistakes in torch's modules
    path = tmp_path / "report.json"
    got, out, err = call(capsys, "--self-test", "--json", str(path))
    assert (got, err) == (code, "")
    lines = out.splitlines()
    assert [line[:6] for line in lines[: len(planted)]] == verdicts
    assert lines[-1] == last
    assert len(json.loads(path.read_text())["reports"]) == len(planted)
    assert ("diagnosed as: ReLU derivative 0 at 0" in out) == ("caught" in verdicts)
