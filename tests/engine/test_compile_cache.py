"""Compiled programs on disk: found again, never trusted blindly, and never in the way."""

import os
import signal
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import compilation_cache as jax_cache

from jaxnet.cli import commands as cli
from jaxnet.engine import compile_cache
from jaxnet.engine.compile_cache import Programs


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of an empty cache, which the test may enable."""
    minimum = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    monkeypatch.setattr(jax_cache, "_cache", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield compile_cache.folder()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", minimum)


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path / "root", tmp_path / "root" / "here")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def norms(x):
    return (x / (x * x).sum(1, keepdims=True) ** 0.5) @ x.T


def compiled(x):
    """What a fresh compilation makes of x, or a program that is found."""
    jax.clear_caches()
    return np.asarray(jax.jit(norms)(x))


def test_a_program_is_found_again_and_gives_the_same_bits(root, monkeypatch):
    x = np.random.default_rng(0).random((50, 30), np.float32)
    without = compiled(x)
    assert files(root) == []
    compile_cache.enable()
    assert compiled(x).tobytes() == without.tobytes()
    kept = files(root)
    assert [path.name.split("-")[0] for path in kept] == ["jit_norms"]
    monkeypatch.setattr(Programs, "put", lambda *args: pytest.fail("compiled again"))
    assert compiled(x).tobytes() == without.tobytes()
    assert files(root) == kept


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:-1] + b"!"])
def test_a_damaged_program_is_compiled_anew(root, damage):
    x = np.random.default_rng(0).random((50, 30), np.float32)
    compile_cache.enable()
    cache: Any = jax_cache._cache
    first = compiled(x)
    (path,) = files(root)
    path.write_bytes(damage(path.read_bytes()))
    assert compiled(x).tobytes() == first.tobytes()
    assert cache.get(path.name) is not None  # written again
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(path.name) is None
    assert not path.exists()


def test_the_longest_unused_programs_make_room(programs, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 4000)
    other = Programs(programs._root, programs._root / "older")
    other.put("a", bytes(1000))
    for i, key in enumerate("bcd"):
        programs.put(key, bytes(900))
        os.utime(programs._path / key, (i, i))
    os.utime(other._path / "a", (5, 5))
    assert programs.get("b") == bytes(900)  # and is now the last used
    programs.put("e", bytes(900))
    assert [path.name for path in files(programs._root)] == ["b", "d", "e", "a"]


def test_a_folder_that_cannot_be_written_is_no_matter(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    nowhere = Programs(tmp_path / "file", tmp_path / "file" / "here")
    nowhere.put("a", b"program")
    assert nowhere.get("a") is None
    full = Programs(tmp_path / "root", tmp_path / "root" / "here")

    def no_room(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    full.put("a", b"program")
    assert files(tmp_path / "root") == []
    assert caplog.records == []


KILLED = """
import sys
from pathlib import Path
from jaxnet.engine.compile_cache import Programs
programs = Programs(Path(sys.argv[1]), Path(sys.argv[1], "here"))
for i in range(10**9):
    programs.put(f"key{i % 20}", bytes([i % 256]) * 2**20)
    print(i, flush=True)
"""


def test_a_killed_process_leaves_whole_programs(programs):
    for lines in (3, 5, 7, 9):
        command = [sys.executable, "-c", KILLED, str(programs._root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines_of = iter(process.stdout or ())
            for _ in range(lines):
                next(lines_of)
            process.send_signal(signal.SIGKILL)
    keys = [path.name for path in files(programs._path) if path.name.startswith("key")]
    assert len(keys) >= 9
    for key in keys:
        value = programs.get(key)
        assert len(value) == 2**20
        assert len(set(value)) == 1


def test_commands_print_and_write_the_same_with_without_and_with_damaged_programs(
    root, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--epochs", "2", "--out"]
    results = []
    for name, *options in (["none", "--no-cache"], ["new"], ["found"], ["damaged"]):
        jax.clear_caches()
        if name == "damaged":
            for path in files(root):
                path.write_bytes(path.read_bytes()[:-7])
        assert cli.main([*command, name, *options]) == 0
        assert bool(files(root)) == (name != "none")
        params = (tmp_path / name / "model" / "params.safetensors").read_bytes()
        results.append((params, (tmp_path / name / "metrics.jsonl").read_bytes()))
    assert results == results[:1] * 4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_that_compiles_has_the_option(command, capsys):
    cli.main([command, "--help"])
    assert ("--no-cache" in capsys.readouterr().out) == (command != "show")


def test_only_enable_sets_anything():
    code = """
import importlib, jax, jaxnet
from jax._src import compilation_cache
before = dict(jax.config.values)
for name in ("cli", "runs", "compile_cache", "train"):
    importlib.import_module(f"jaxnet.{name}")
assert compilation_cache._cache is None
assert jax.config.values == before
jax.config.update("jax_compilation_cache_dir", "/of/the/user")
jaxnet.compile_cache.enable()
assert compilation_cache._cache is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_programs_are_compiled_for(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    here = compile_cache._environment()
    assert here == compile_cache._environment()
    assert here.startswith(f"jax-{jax.__version__}-")
    monkeypatch.setenv("NPROC", "7")
    assert compile_cache._environment() != here
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(compile_cache, "_processor", lambda: ["flags : another"])
    assert compile_cache._environment() != here


def test_without_a_home_nothing_is_kept(root, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compile_cache, "folder", no_home)
    compile_cache.enable()
    assert jax_cache._cache is None
