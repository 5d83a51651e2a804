"""The rooms of the house: imports point down only, read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet

PACKAGE = Path(jaxnet.__file__).parent
README = PACKAGE.parent / "README.md"
CORE = "spec numpy_net net flax_net torch_net optimizers train data files"

# room -> (what it may import of jaxnet, of other packages at the top, and inside functions)
ROOMS = {
    "__init__": ("", "", ""),
    "__main__": ("cli", "", ""),
    "spec": ("", "numpy", ""),
    "files": ("", "filelock", ""),
    "train": ("", "numpy jax optax", ""),
    "numpy_net": ("spec", "numpy", ""),
    "net": ("spec", "jax", ""),
    "flax_net": ("spec", "jax flax optax", ""),
    "torch_net": ("spec", "numpy torch", ""),
    "optimizers": ("spec", "jax optax", ""),
    "data": ("spec order", "numpy", ""),
    "order": ("", "numpy", ""),
    "parity": (CORE, "numpy jax optax torch pytest", "flax"),
    "tables": ("spec data order files numpy_net", "numpy filelock", "pyarrow"),
    "engine": ("spec net train files", "numpy jax jaxlib optax safetensors", "orbax"),
    "runs": (
        f"{CORE} order tables engine",
        "numpy jax optax safetensors matplotlib",
        "pyarrow tensorboardX",
    ),
    "sweep": (f"{CORE} tables engine runs", "numpy jax", ""),
    "export": (f"{CORE} tables engine runs", "numpy jax onnx safetensors", ""),
    "cli": (f"{CORE} parity tables engine runs sweep export", "tyro", "jax rich numpy"),
}
NO_JAX = "spec files numpy_net data tables.table tables.encoding tables.store parity runs.config"


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path, everywhere):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxnet":
            yield from (f"jaxnet.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down_only(path):
    here, (rooms, top, inside) = room(path), ROOMS[room(path)]
    for everywhere, others in ((False, top), (True, f"{top} {inside}")):
        for name in imports(path, everywhere):
            first, _, rest = name.partition(".")
            if first == "jaxnet":
                target = rest.partition(".")[0]
                assert target in {here, "__version__", *rooms.split()} or not target, name
            elif first not in sys.stdlib_module_names:
                assert first in others.split(), name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_private_name_of_another_room(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            other = (node.module or "").partition("jaxnet.")[2].partition(".")[0]
            private = [a.name for a in node.names if re.match("_[^_]", a.name)]
            assert not other or other == room(path) or not private


def test_the_oracle_the_data_the_tables_and_parity_need_no_jax():
    forbid = "import sys; sys.modules['jax'] = sys.modules['torch'] = None; "
    code = forbid + "; ".join(f"import jaxnet.{name}" for name in NO_JAX.split())
    subprocess.run([sys.executable, "-c", code], check=True)
    assert subprocess.run([sys.executable, "-c", f"{forbid}import jaxnet.net"]).returncode == 1


def test_rooms_are_reached_from_the_package():
    assert set(ROOMS) - {"__init__", "__main__", "files", "order"} <= set(dir(jaxnet))
    assert jaxnet.numpy_net.__name__ == "jaxnet.numpy_net"
    with pytest.raises(AttributeError, match="no attribute 'nets'"):
        jaxnet.nets  # noqa: B018
