"""Compiled programs on disk: found again, never trusted blindly, and never in the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import compilation_cache as jax_cache

import jaxnet
from jaxnet.cli import commands as cli
from jaxnet.engine import compile_cache
from jaxnet.engine.compile_cache import Programs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of an empty cache, which the test may enable."""
    minimum = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    monkeypatch.setattr(jax_cache, "_cache", None)
    monkeypatch.setattr(jax_cache, "get_executable_and_time", jax_cache.get_executable_and_time)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "jaxnet" / "compiled"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", minimum)


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path / "programs")


def kept(folder):
    """The files of the programs in a folder."""
    return sorted(folder.glob("*-cache"))


def norms(x):
    return (x / (x * x).sum(1, keepdims=True) ** 0.5) @ x.T


def compiled(x):
    """What a fresh compilation makes of x, or a program that is found."""
    jax.clear_caches()
    return np.asarray(jax.jit(norms)(x))


def test_a_program_is_found_again_and_gives_the_same_bits(folder, monkeypatch):
    x = np.random.default_rng(0).random((50, 30), np.float32)
    without = compiled(x)
    assert kept(folder) == []
    compile_cache.enable()
    assert compiled(x).tobytes() == without.tobytes()
    found = kept(folder)
    assert [path.name.split("-")[0] for path in found] == ["jit_norms"]
    monkeypatch.setattr(Programs, "put", lambda *args: pytest.fail("compiled again"))
    assert compiled(x).tobytes() == without.tobytes()
    assert kept(folder) == found


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:-1] + b"!"])
def test_a_damaged_program_is_compiled_anew(folder, damage):
    x = np.random.default_rng(0).random((50, 30), np.float32)
    compile_cache.enable()
    first = compiled(x)
    (path,) = kept(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert compiled(x).tobytes() == first.tobytes()
    assert len(path.read_bytes()) == pytest.approx(len(whole), abs=99)  # written again


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:-1] + b"!"])
def test_a_damaged_program_is_never_returned_and_removed(programs, damage):
    programs.put("a", b"program")
    (path,) = kept(programs._path)
    path.write_bytes(damage(path.read_bytes()))
    assert programs.get("a") is None
    assert kept(programs._path) == []


def test_a_program_under_anothers_key_is_never_returned(programs):
    programs.put("a", b"program")
    programs.put("b", b"another")
    first, second = kept(programs._path)
    first.write_bytes(second.read_bytes())
    assert (programs.get("a"), programs.get("b")) == (None, b"another")


def test_the_least_recently_used_programs_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 4000)
    programs = Programs(tmp_path / "programs")
    for key in "abcd":
        programs.put(key, bytes(900))
    assert programs.get("a") == bytes(900)  # and so it is the last used
    programs.put("e", bytes(900))
    assert [path.name[0] for path in kept(programs._path)] == ["a", "c", "d", "e"]


def test_the_folder_is_looked_through_for_few_of_the_programs(programs, monkeypatch):
    looks = []
    monkeypatch.setattr(programs, "_evict", lambda **sizes: looks.append(sizes))
    for number in range(50):
        programs.put(f"key{number}", bytes(2**17))  # 6 MiB, of which 4 fit between two looks
    assert len(looks) == 2


def test_a_folder_that_cannot_be_written_is_no_matter(folder, programs, monkeypatch, caplog):
    def no_room(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(programs._cache.path), "write_bytes", no_room)
    programs.put("a", b"program")
    assert programs.get("a") is None
    monkeypatch.setattr(compile_cache.Path, "mkdir", no_room)
    compile_cache.enable()
    assert jax_cache._cache is None
    assert caplog.records == []


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_into_is_not_used(folder, mode, caplog):
    folder.mkdir(parents=True)
    folder.chmod(mode)
    compile_cache.enable()
    assert jax_cache._cache is None
    assert "compiled: not used, since other users can write into this folder" in caplog.text


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch, caplog):
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    compile_cache.enable()
    assert jax_cache._cache is None
    assert "other users" in caplog.text


def test_the_folder_is_made_for_this_user_alone(folder):
    compile_cache.enable()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_entries_that_are_pipes_links_or_huge_are_removed(programs, tmp_path):
    folder, precious = programs._path, tmp_path / "precious"
    programs.put("a", b"program")
    precious.write_text("precious")
    suffix = compile_cache._threads()
    for name in (f"b{suffix}-cache", f"b{suffix}-atime", "x-cache", "x-atime"):
        os.mkfifo(folder / name)
    (folder / f"c{suffix}-cache").symlink_to("/dev/zero")
    (folder / f"c{suffix}-atime").symlink_to(precious)
    (folder / f"d{suffix}-cache").touch()
    os.truncate(folder / f"d{suffix}-cache", 100 * 2**30)
    signal.alarm(60)  # to read a pipe would have no end
    again = Programs(folder)
    assert again.get("a") == b"program"
    for key in "bcd":
        assert again.get(key) is None
        again.put(key, b"another")
        assert again.get(key) == b"another"
    signal.alarm(0)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_folder_that_jax_was_given_is_not_used_if_others_can_write_into_it(tmp_path, mode):
    code = """
import jax, sys
from jaxnet.engine import compile_cache
compile_cache.enable()
print(jax.config.jax_enable_compilation_cache)
"""
    tmp_path.chmod(mode)
    path = str(Path(jaxnet.__file__).parent.parent)
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == f"{mode == 0o700}\n"
    assert ("not used, since other users can write" in done.stderr) == (mode == 0o777)


KILLED = """
import sys
from pathlib import Path
from jaxnet.engine.compile_cache import Programs
programs = Programs(Path(sys.argv[1]))
for i in range(10**9):
    programs.put(f"key{i}", bytes([i % 256]) * 2**20)
    print(i, flush=True)
"""


def test_a_killed_process_leaves_programs_that_are_whole_or_not_found(programs, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(programs._path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout or ())
        for _ in range(9):
            next(lines)
        process.send_signal(signal.SIGKILL)
    for number in range(9):
        assert programs.get(f"key{number}") == bytes([number]) * 2**20
    assert programs.get("key9") in (None, bytes([9]) * 2**20)


def test_a_program_cut_short_by_a_kill_keeps_no_other_from_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 4000)
    programs = Programs(tmp_path / "programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(programs._cache.path), "write_bytes", lambda path, content: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # as if killed there
            programs.put("cut", bytes(900))
    (tmp_path / "programs" / f"cut{compile_cache._threads()}-cache").write_bytes(bytes(450))
    programs.put("next", bytes(900))
    assert programs.get("next") == bytes(900)
    assert programs.get("cut") is None
    programs.put("cut", bytes(900))
    assert programs.get("cut") == bytes(900)


def test_commands_print_and_write_the_same_with_without_and_with_damaged_programs(
    folder, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--epochs", "2", "--out"]
    results = []
    for name, *options in (["none", "--no-cache"], ["new"], ["found"], ["damaged"]):
        jax.clear_caches()
        if name == "damaged":
            for path in kept(folder):
                path.write_bytes(path.read_bytes()[:-7])
        assert cli.main([*command, name, *options]) == 0
        assert bool(kept(folder)) == (name != "none")
        params = (tmp_path / name / "model" / "params.safetensors").read_bytes()
        results.append((params, (tmp_path / name / "metrics.jsonl").read_bytes()))
    assert results == results[:1] * 4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_that_compiles_has_the_option(command, capsys):
    cli.main([command, "--help"])
    compiles = command not in ("show", "doctor", "exercise")
    assert ("--no-cache" in capsys.readouterr().out) == compiles


def test_only_enable_sets_anything():
    code = """
import importlib, jax, jaxnet
from jax._src import compilation_cache
before = dict(jax.config.values)
for name in ("cli", "runs", "engine.compile_cache", "train"):
    importlib.import_module(f"jaxnet.{name}")
assert compilation_cache._cache is None
assert jax.config.values == before
jax.config.update("jax_compilation_cache_dir", "/of/the/user")
jaxnet.engine.compile_cache.enable()
assert compilation_cache._cache is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_is_not_found_with_another_number_of_threads(programs, monkeypatch):
    for number in "1", "2":
        monkeypatch.setenv("NPROC", number)
        programs.put("a", number.encode())
    assert programs.get("a") == b"2"
    monkeypatch.setenv("NPROC", "1")
    assert programs.get("a") == b"1"
    monkeypatch.setenv("NPROC", "3")
    assert programs.get("a") is None


def test_several_threads_that_load_programs_print_nothing(tmp_path):
    """A sweep loads in two threads; JAX 0.10 would print an error for each program."""
    rows = "".join(f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("a,b,y\n" + rows)
    options = ["--epochs", "2", "--seeds", "2", "--learning-rate", "1e-3", "1e-2"]
    command = ["-m", "jaxnet", "sweep", "--data", "t.csv", "--target", "y", *options]
    env = {name: text for name, text in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    path = str(Path(jaxnet.__file__).parent.parent)
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_without_a_home_nothing_is_kept(folder, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compile_cache.Path, "home", no_home)
    compile_cache.enable()
    cache: Any = jax_cache._cache
    assert cache is None
