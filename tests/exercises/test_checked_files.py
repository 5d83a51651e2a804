"""Files run in a process of their own: what goes wrong there is one message, and nothing forges."""

import re
import signal
import subprocess
import sys
import time

import pytest
from exercises.solutions import RIGHT, source

from jaxnet import exercises
from jaxnet.exercises import EXERCISES, wire
from jaxnet.exercises.files import STARTERS

RIGHT_01 = source("01", RIGHT["01"][0])
LATE = 1.5  # seconds of a file that does not end; NumPy alone is imported in a third of them


def check(tmp_path, text, **options):
    path = tmp_path / "answer.py"
    path.write_text(text)
    return exercises.check(path, **options)


def with_line(line):
    """The right answer to 01 with a line in its function."""
    return RIGHT_01.replace("    h = x @", f"    {line}\n    h = x @")


def at_top(code):
    """The right answer to 01, but for its loss, with code before it."""
    return RIGHT_01.replace("import numpy as np\n", f"import numpy as np\n{code}\n").replace(
        "return loss,", "return 3 * loss,"
    )


@pytest.mark.parametrize("number", ["01", "11"])
def test_a_right_file_is_right_with_every_seed(tmp_path, number):
    text = source(number, RIGHT[number][0])
    found = check(tmp_path, text, seed=3)
    assert found.verdict == exercises.Verdict(True)
    assert (found.exercise.number, found.seed) == (number, 3)
    assert check(tmp_path, text).seed != 3


def test_what_fails_in_a_file_is_said_with_its_own_lines(tmp_path):
    messages = {
        with_line("x.nothing"): r"AttributeError: .*'nothing'\nline 15, in value_and_grad: x.nothi",
        with_line("raise SystemExit(0)"): r"the file ends the program: line 15, .*SystemExit\(0\)",
        with_line("import os; os._exit(0)"): r"ended \(exit code 0\) before the functions had ans",
        with_line(
            "import os; os.closerange(0, 99); os.read(os.pipe()[0], 1)"
        ): "no answer can come",
        with_line("import signal, os; os.kill(os.getpid(), 9)"): r"ended \(signal 9\) before",
        with_line("input()"): "EOFError: .*\nline 15, in value_and_grad",
        with_line("return value_and_grad(params, x, y)"): "RecursionError",
        with_line("import ctypes; ctypes.string_at(0)"): r"ended \(signal 11\) before",
        RIGHT_01.replace("def value_and_grad", "def other"): "must define value_and_grad",
        RIGHT_01.replace("(params, x, y)", "(params, x)"): r"TypeError: .* takes 2 positional arg",
        RIGHT_01.replace("return loss, {", "return {"): "must return a tuple .loss, grads., got",
        RIGHT_01.replace("return loss", "(loss"): r"SyntaxError: '\(' was never closed",
        RIGHT_01.replace("return loss,", "loss,"): r"got None: is a `return` missing\?",
        RIGHT_01.replace("return loss,", "return 'text',"): "loss must be a number, got 'text'",
        RIGHT_01.replace('"w2": grad_w2', '"w3": grad_w2'): r"must be {w1: .*}, got {w1: .*w3",
        RIGHT_01.replace("return loss,", "return loss * np.nan,"): "loss is not finite",
        RIGHT_01.replace("return loss,", "return [loss],"): "loss must be a number, got .a number.",
        RIGHT_01.replace("return loss,", "return np.float16(loss),"): "nearly right|no known mist",
    }
    for text, message in messages.items():
        found = check(tmp_path, text)
        assert not found.verdict.right
        assert re.search(message, found.verdict.hint), (message, found.verdict)


def test_a_gap_is_named_before_anything_runs(tmp_path):
    for number in EXERCISES:
        text = (STARTERS / f"{number}.txt").read_text()
        found = check(tmp_path, text + "\nraise SystemExit\n")
        assert not found.verdict.right
        assert re.search(r"a gap \(\.\.\.\) is not filled: lines? \d", found.verdict.hint)
    found = check(tmp_path, RIGHT_01.replace("x @ params", "x[..., :] @ params"))
    assert found.verdict.right


def test_a_file_that_does_not_end_is_ended_and_its_line_is_named(tmp_path):
    for line in ("while True: pass", 'while True: print("x" * 1000)'):
        began = time.perf_counter()
        found = check(tmp_path, with_line(line), seconds=LATE)
        assert not found.verdict.right
        assert f"the time limit of {LATE:g} s is over" in found.verdict.hint
        assert "It was in line 15, in value_and_grad" in found.verdict.hint
        assert len(found.printed) <= 20_000
        assert time.perf_counter() - began < 60  # it was ended, not waited for


def test_what_a_file_starts_ends_with_it(tmp_path):
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {'input()'!r}"
    line = code.replace("'input()'", "'import time; time.sleep(600)'") + "]); print(p.pid)"
    found = check(tmp_path, with_line(line))
    assert found.verdict.right
    for pid in found.printed.split():
        left = subprocess.run(["ps", "-o", "stat=", "-p", pid], stdout=-1).stdout
        assert left[:1] in (b"", b"Z")  # a zombie is of the one who started it


FORGED = wire.pack({"answers": [{"loss": 0.0}] * 3, "facts": [{}] * 3})
TAMPERED = {
    "prints": f"import sys; sys.stdout.buffer.write({FORGED!r}); print('right')",
    "channel": f"""
import os
message = {len(FORGED)}.to_bytes(8, "little") + {FORGED!r}
for descriptor in range(3, 30):
    try:
        os.write(descriptor, message)
    except OSError:
        pass
""",
    "numpy": """
np.abs = np.asarray = lambda a, *_, **__: a
np.all = np.array_equal = np.allclose = lambda *_, **__: True
""",
    "judge": """
from jaxnet.exercises import files, judge, runner
judge.judge = files.judge = lambda *_: judge.Verdict(True)
judge._differing = lambda *_: []
runner.run = files.runner.run = lambda *_: None
""",
    "oracle": """
from jaxnet import numpy_net
from jaxnet.exercises import e01_numpy, numpy_twins
numpy_twins.network = e01_numpy.network = lambda **given: value_and_grad(**given)
object.__setattr__(e01_numpy.EXERCISE, "want", lambda **given: {"loss": 0, "grads": {}})
object.__setattr__(e01_numpy.EXERCISE, "tolerances", {"loss": 1e9, "grads": 1e9})
""",
    "wire": """
from jaxnet.exercises import child, wire
reply = wire.pack({"right": True, "verdict": [True, "", ""], "answers": [], "facts": []})
wire.pack = child.wire.pack = lambda tree: reply
""",
    "equal to everything": """
class Equal(np.ndarray):
    __eq__ = __le__ = lambda self, other: np.True_
    __sub__ = __rsub__ = lambda self, other: 0 * self
_square = np.square
np.square = lambda a: _square(a).view(Equal)
""",
    "exit": "import atexit, os; atexit.register(os._exit, 0)",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_check_does_not_pass(tmp_path, name):
    found = check(tmp_path, at_top(TAMPERED[name]))
    assert not found.verdict.right, found


def test_a_changed_jax_grad_does_not_help(tmp_path):
    text = source("03", RIGHT["03"][0]) + "\njax.grad = lambda f: lambda p, x, y: p\n"
    assert not check(tmp_path, text).verdict.right


def test_the_wire_refuses_what_it_did_not_write():
    for content in (b"", b"\0" * 8, b"\xff" * 30, wire.pack({"a": [1]})[:-3]):
        with pytest.raises(ValueError):  # noqa: PT011, of several libraries
            wire.unpack(content)
    text = b'{"is": "array", "dtype": "|O", "shape": [1]}'
    with pytest.raises(ValueError, match="no packed tree"):
        wire.unpack(len(text).to_bytes(8, "little") + text + b"\0" * 8)


def test_modules_beside_the_file_are_found_but_do_not_replace_the_libraries(tmp_path):
    (tmp_path / "wave.py").write_text("raise SystemExit('replaced')\n")
    (tmp_path / "helper_of_mine.py").write_text("two = 2\n")
    found = check(tmp_path, with_line("import helper_of_mine, wave"))
    assert found.verdict.right


def test_a_check_that_is_interrupted_leaves_no_process(tmp_path):
    path = tmp_path / "answer.py"
    path.write_text(with_line("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    code = f"""
import signal
from jaxnet import exercises
signal.alarm(2)
signal.signal(signal.SIGALRM, signal.default_int_handler)
exercises.check({str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    here = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [
        line for line in here.splitlines() if "exercises.child" in line and "ps" not in line
    ]
