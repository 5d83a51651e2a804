"""Imports point down only, read from the source; the oracle needs no JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet

PACKAGE = Path(jaxnet.__file__).parent

# module -> layer, and what it may import at its top besides the standard library
LAYERS = {
    "__init__": (0, set()),
    "spec": (0, {"numpy"}),
    "config": (0, {"jaxnet.spec"}),
    "numpy_net": (1, {"numpy", "jaxnet.spec"}),
    "order": (1, {"numpy"}),
    "data": (1, {"numpy", "jaxnet.order", "jaxnet.spec"}),
    "tables": (1, {"numpy"}),
    "encoding": (1, {"numpy", "jaxnet.data", "jaxnet.spec", "jaxnet.tables"}),
    "csv_blocks": (1, {"jaxnet.tables"}),
    "streaming": (1, {"numpy", "jaxnet.csv_blocks", "jaxnet.tables"}),
    "metrics": (1, {"numpy", "jaxnet.encoding", "jaxnet.numpy_net"}),
    "mapped": (
        1,
        {"numpy", "jaxnet.encoding", "jaxnet.order", "jaxnet.spec", "jaxnet.tables"},
    ),
    "mapped_fit": (1, {"numpy", "jaxnet.encoding", "jaxnet.mapped", "jaxnet.order"}),
    "mapped_records": (
        1,
        {"numpy", "jaxnet.mapped", "jaxnet.run_folder", "jaxnet.streaming", "jaxnet.tables"},
    ),
    "mapped_convert": (
        1,
        {"filelock", "jaxnet.mapped", "jaxnet.mapped_records", "jaxnet.run_folder"}
        | {"jaxnet.streaming", "jaxnet.tables"},
    ),
    "run_folder": (1, {"filelock"}),
    "stopping": (1, set()),
    "tensorboard": (1, set()),
    "torch_weights": (1, {"numpy", "safetensors", "jaxnet.spec"}),
    "checkpoint": (1, {"numpy", "jax"}),
    "compile_cache": (1, {"jax", "jaxlib"}),
    "net": (1, {"jax", "jaxnet.spec"}),
    "flax_net": (1, {"jax", "flax", "optax", "jaxnet.spec"}),
    "torch_net": (1, {"numpy", "torch", "jaxnet.spec"}),
    "optimizers": (1, {"jax", "optax", "jaxnet.spec"}),
    "train": (1, {"numpy", "jax", "optax"}),
    "parallel": (1, {"numpy", "jax"}),
    "processes": (1, {"numpy", "jax", "jaxnet.stopping"}),
    "gradients": (1, {"numpy", "jax"}),
    "deterministic": (1.1, {"numpy", "jax", "optax", "jaxnet.gradients", "jaxnet.train"}),
    "gram": (2, {"numpy", "jax", "optax"}),
    "epochs": (2, {"numpy", "jax"}),
    "streams": (2.05, {"numpy", "jax"}),
    "parity.participants": (2.0, {"numpy"}),
    "parity.bars": (2.0, {"numpy"}),
    "parity.frameworks": (2.1, {"numpy"}),
    "parity.torch_functions": (2.2, {"numpy", "torch"}),
    "parity.oracle_mistakes": (2.05, {"numpy"}),
    "parity.mistakes": (2.1, {"numpy"}),
    "parity.compare": (2.1, {"numpy"}),
    "parity.diagnose": (2.2, {"numpy"}),
    "parity.trajectory": (2.2, {"numpy"}),
    "parity.report": (2.3, set()),
    "parity.taylor": (2.0, {"numpy"}),
    "parity.gradient": (2.4, {"numpy"}),
    "parity.checks": (2.4, {"numpy"}),
    "parity.__init__": (2.5, set()),
    "parity.stages": (2.5, {"numpy"}),
    "parity.selftest": (2.6, {"numpy", "jax", "optax"}),
    "parity.plugin": (2.6, {"pytest"}),
    "plots": (2, {"numpy", "matplotlib"}),
    "problem": (2, {"numpy"}),
    "model": (2, {"numpy", "jax", "safetensors"}),
    "placing": (2.1, {"numpy", "jax"}),
    "description": (2.1, {"jax", "jaxnet"}),
    "forms": (2.15, {"numpy", "jax", "optax"}),
    "snapshot": (2.2, {"numpy", "jax"}),
    "loop": (2.3, {"numpy"}),
    "inference": (2.1, {"numpy"}),
    "onnx_graph": (2.1, {"numpy", "onnx"}),
    "export_programs": (2.1, set()),
    "export": (2.2, {"numpy", "jax"}),
    "session": (2.4, {"numpy", "jax"}),
    "runs": (2.42, {"numpy", "jax"}),
    "show": (2.1, set()),
    "sweep_program": (2.1, {"numpy", "jax"}),
    "sweep_plan": (2.45, {"numpy"}),
    "sweep_members": (2.5, {"numpy", "jax"}),
    "sweep": (2.6, {"numpy"}),
    "cli_parity": (3, set()),
    "cli_processes": (3, set()),
    "cli_show": (3, {"tyro"}),
    "cli_sweep": (3.05, set()),
    "cli_inference": (3, {"tyro"}),
    "cli_export": (3, {"tyro"}),
    "cli_train": (3, set()),
    "cli": (3.1, {"tyro", "jaxnet"}),
    "__main__": (3.2, set()),
}
# module -> what it imports inside functions, so that it is paid for only when it is used
INSIDE = {
    "tables": {"pyarrow"},
    "checkpoint": {"orbax"},
    "session": {"jaxnet.plots"},
    "sweep": {"jaxnet.plots"},
    "cli_train": {"jax", "rich"},
    "cli_sweep": {"rich"},
    "show": {"rich"},
    "csv_blocks": {"pyarrow"},
    "streaming": {"pyarrow"},
    "inference": {"pyarrow"},
    "tensorboard": {"tensorboardX"},
    "parity.frameworks": {"jax", "flax", "jaxnet.parity.torch_functions"},
    "parity.gradient": {"jax"},
    "parity.stages": {"flax"},
    "parity.plugin": {"jaxnet.parity"},
}
NO_JAX = (
    "spec",
    "config",
    "numpy_net",
    "order",
    "data",
    "tables",
    "encoding",
    "csv_blocks",
    "streaming",
    "metrics",
)
NO_JAX += (
    "mapped",
    "mapped_fit",
    "mapped_records",
    "mapped_convert",
    "run_folder",
    "tensorboard",
    "torch_weights",
    "show",
    "parity",
)


def module(name):
    return f"jaxnet.{name}".removesuffix(".__init__")


MODULES = {module(name) for name in LAYERS}


def imports(name, everywhere=False):
    """The modules that a file imports: those of this package whole, the others by first name."""
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
    top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    found = set()
    for node in ast.walk(tree) if everywhere else top:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("jaxnet", "jaxnet.parity"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {m if m in MODULES else node.module for m in inside}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    short = {m if m.startswith("jaxnet") else m.partition(".")[0] for m in found}
    return short - sys.stdlib_module_names


def allowed(name):
    layer, names = LAYERS[name]
    if layer < 2:
        return names
    return names | {module(other) for other, (below, _) in LAYERS.items() if below < layer}


def test_every_module_has_a_layer():
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    assert {".".join(path.parts) for path in paths} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_down_only(name):
    assert imports(name) <= allowed(name)
    assert imports(name, everywhere=True) <= allowed(name) | INSIDE.get(name, set())


def test_the_oracle_and_the_data_need_no_jax():
    forbid = "import sys; sys.modules['jax'] = sys.modules['torch'] = None; "
    modules = ", ".join(f"jaxnet.{name}" for name in NO_JAX)
    code = f"{forbid}import {modules}; print(jaxnet.numpy_net.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "jaxnet.numpy_net\n"
    code = f"{forbid}import jaxnet.net"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1


def test_submodules_are_reached_from_the_package():
    names = {name.partition(".")[0] for name in LAYERS} - {"__init__", "__main__"}
    assert names <= set(dir(jaxnet))
    assert jaxnet.numpy_net.__name__ == "jaxnet.numpy_net"
    with pytest.raises(AttributeError, match="no attribute 'nets'"):
        jaxnet.nets  # noqa: B018
