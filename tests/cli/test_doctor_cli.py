"""`jaxnet doctor`: exit codes, what is printed, the file that is written."""

import json
import re

import jax
import numpy as np
import pytest
from run_helpers import write_run

from jaxnet import files
from jaxnet.cli import main
from jaxnet.export import lifetime
from jaxnet.parity.doctor import examine, reference, trials
from jaxnet.parity.doctor.programs import KNOWN, RIGHT, Program


def call(capsys, *argv):
    """The exit code, standard output and standard error."""
    return main(["doctor", *map(str, argv)]), *capsys.readouterr()


def test_a_right_installation_exits_with_0(capsys, monkeypatch, tmp_path):
    if jax.__version__ != RIGHT:  # whose releases are wrong without it
        monkeypatch.setenv("XLA_FLAGS", examine.FLAGS["cpu"][0])
    code, out, err = call(capsys, "--seconds", "1", "--json", tmp_path / "doctor.json")
    assert (code, err) == (0, ""), out
    lines = out.splitlines()
    first = [line.split()[0] for line in lines[:6]]
    assert first == ["versions", "threads", "XLA_FLAGS", "devices", "precision", "cache"]
    assert f"jax {jax.__version__}" in lines[0]
    assert [line[:16] for line in lines[6:10]] == ["known      right"] * len(KNOWN)
    assert re.match(
        r"search     \d+ programs at random \(seed 0\): all right; the largest", lines[10]
    )
    about = json.loads((tmp_path / "doctor.json").read_text())
    assert about["platform"] == "cpu"
    assert all(known["right"] for known in about["known"])
    assert (about["wrong"], about["ended"], about["flags"]) == (None, None, {})


@pytest.fixture
def here(monkeypatch):
    """The examination runs in this process, compiles nothing, and the first flag helps; the form
    that is put into the list is wrong.
    """
    wrong = []

    def run(program, compiled):
        with program.settings():
            _, args = program.load()
        got = reference.exact(program, args)
        if compiled and program.form in wrong and program.rows > 20:
            got = {name: 2 * leaf for name, leaf in got.items()}
        return got, args

    def events(request, flag=""):
        if "programs" in request:
            return [("right", True)]
        told = []
        examine.work(request["seconds"], request["seed"], lambda *event: told.append(event))
        return told

    monkeypatch.setattr(trials, "run", run)
    monkeypatch.setattr(examine, "events", events)
    return wrong


def test_a_known_fault_exits_with_1_the_smallest_program_and_what_to_do(here, capsys, tmp_path):
    here.append("constant")
    code, out, err = call(capsys, "--seconds", "30", "--json", tmp_path / "doctor.json")
    assert (code, err) == (1, "")
    small = Program("constant", 21, (1,))
    known = [line[11:16] for line in out.splitlines() if line.startswith("known")]
    assert known == ["right", "right", "WRONG", "WRONG"]
    assert "search" not in out
    told = out[out.index("\nWRONG: ") :].splitlines()
    assert told[1] == f"WRONG: {small}"
    assert told[2] == (
        "compiled, 1 of 1 numbers of the result are wrong, by up to 1 of the largest; op by op it "
        "is right. The program:"
    )
    assert "\n".join(f"    {line}" for line in small.runnable().splitlines()) in out
    first, *others = told[told.index("what to do:") + 1 : -1]
    assert first == (
        "  set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= before Python starts (tried here: "
        "all is right then)"
    )
    assert others == [
        "  or install a right release: pip install jax==0.10.1 jaxlib==0.10.1",
        "  known to be wrong on CPUs: jaxlib 0.10.2 to 0.12.0.1",
    ]
    about = json.loads((tmp_path / "doctor.json").read_text())
    assert about["wrong"]["program"] == json.loads(json.dumps(small._asdict()))
    assert about["wrong"]["source"] == small.runnable()
    assert [known["right"] for known in about["known"]] == [True, True, False, False]


def test_an_unknown_fault_is_to_be_reported(here, capsys):
    here.append("network")
    code, out, _ = call(capsys, "--seconds", "30", "--seed", "4")
    assert code == 1
    assert f"\nWRONG: {Program('network', 21, (1, 1))}\n" in out.replace("float32", "float64")
    assert "this fault is not known here: try another release of JAX, and report" in out


def test_a_process_that_ended_exits_with_1_and_names_the_program(monkeypatch, capsys):
    program = Program("network", 3, (4, 2))
    told = [
        ("facts", {"platform": "cpu", "devices": [], "matmul_precision": None, "x64": False}),
        ("begun", program),
        ("ended", "the process ended by SIGSEGV"),
    ]
    monkeypatch.setattr(examine, "events", lambda request, flag="": told)
    code, out, _ = call(capsys)
    assert code == 1
    assert f"\nWRONG: the process ended by SIGSEGV\nIt had begun {program}. The program:\n" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--seconds", "-1"), r"--seconds must be a number of at least 0, got -1\.0"),
        (("--seconds", "nan"), r"--seconds must be a number of at least 0, got nan"),
        (("--seed", "-1"), r"--seed must be at least 0, got -1"),
        (("--json", "none/doctor.json"), r"--json must be in a folder that exists, got none"),
        (("none.stablehlo",), r"none\.stablehlo: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_exits_with_2_and_one_line(argv, message, capsys):
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"jaxnet: {message}.*\n", err), err


def test_an_export_says_until_when_it_loads_and_the_doctor_too(tmp_path, capsys):
    x = np.arange(6.0)
    np.savez(tmp_path / "t.npz", x=x, y=x**2)
    write_run(tmp_path / "run", tmp_path / "t.npz", "y")
    promise = lifetime.promise(lifetime.installed())
    assert main(["export", str(tmp_path / "run"), "--format", "pytorch"]) == 0
    assert promise not in capsys.readouterr().out
    assert main(["export", str(tmp_path / "run"), "--format", "stablehlo"]) == 0
    assert f"\n{promise}\n" in capsys.readouterr().out
    path = tmp_path / "run/model/model.stablehlo"
    code, out, _ = call(capsys, path, "--json", tmp_path / "doctor.json")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"file       {path}"
    assert lines[1].startswith("written by jaxnet ")
    assert lines[3] == f"promise    {promise}"
    assert lines[4] == f"loads      yes (jaxlib {lifetime.installed()})"
    about = json.loads((tmp_path / "doctor.json").read_text())
    assert about["loads_until"] == str(lifetime.loads_until(lifetime.installed()))


def test_a_file_that_does_not_load_exits_with_1(tmp_path, capsys):
    path = tmp_path / "other.stablehlo"
    files.write(path, b"nothing of the kind")
    code, out, _ = call(capsys, path)
    assert code == 1
    assert "written by unknown: there is no model.json beside it\n" in out
    assert "promise" not in out
    assert re.search(r"^loads      no: ", out, re.M)
