"""The rooms of the house: imports point down only, read from the source, and pieces stay small."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet

PACKAGE = Path(jaxnet.__file__).parent
README = PACKAGE.parent / "README.md"
CORE = "spec numpy_net net flax_net torch_net optimizers train data files"

# room -> what it may import: of jaxnet; of other packages; of others inside functions only
ROOMS = {
    "spec": ("", "numpy", ""),
    "numpy_net": ("spec", "numpy", ""),
    "net": ("spec", "jax", ""),
    "flax_net": ("spec", "jax flax optax", ""),
    "torch_net": ("spec", "numpy torch", ""),
    "optimizers": ("spec", "jax optax", ""),
    "train": ("", "numpy jax optax", ""),
    "data": ("spec", "numpy", ""),
    "files": ("", "filelock", ""),
    "parity": (CORE, "numpy", "jax flax optax torch pytest"),
    "tables": ("spec data files numpy_net", "numpy", "pyarrow"),
    "engine": ("spec net train files", "numpy jax optax safetensors", ""),
    "runs": (
        f"{CORE} tables engine",
        "numpy jax optax safetensors",
        "pyarrow matplotlib tensorboardX",
    ),
    "sweep": (f"{CORE} tables engine runs", "numpy jax", ""),
    "export": (f"{CORE} tables engine runs", "numpy jax safetensors", "onnx"),
    "estimators": (f"{CORE} tables engine runs", "numpy jax sklearn", ""),
    "exercises": ("spec numpy_net files parity", "numpy", "jax flax"),
    "cli": (f"{CORE} parity tables engine runs sweep export exercises", "tyro", "jax numpy rich"),
}
AT_TOP = {  # files that are imported only where they are used, and so may import more at their top
    "parity/adapters/jax_loss.py": "jax",
    "parity/adapters/nnx_module.py": "jax flax",
    "parity/adapters/optax_optimizer.py": "jax",
    "parity/adapters/torch_module.py": "torch",
    "parity/adapters/torch_optimizer.py": "torch",
    "parity/causes/torch_participant.py": "torch",
    "parity/causes/torch_attention.py": "torch",
    "parity/causes/torch_calls.py": "torch",
    "parity/causes/torch_layers.py": "torch",
    "parity/causes/torch_recurrent.py": "torch",
    "parity/causes/torch_training.py": "torch",
    "parity/causes/torch_replay.py": "torch",
    "parity/plugin.py": "pytest",
    "parity/plants.py": "jax optax",
    "parity/module_plants.py": "jax flax torch",
    "parity/layers/in_jax.py": "jax flax",
    "parity/layers/in_torch.py": "torch",
    "runs/model_plots.py": "matplotlib",
    "runs/plots.py": "matplotlib",
    "runs/sweep_plots.py": "matplotlib",
    "export/onnx_graph.py": "onnx",
}
NO_JAX = "spec files numpy_net data tables.table tables.encoding tables.store runs.config"
NO_JAX += " parity exercises"
# the templates of export are programs without jaxnet
FILES = sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("export/templates/*")))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path, inside=True):
    """Yield the modules that a file imports, at its top or inside functions too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def modules_of(path, inside=True):
    """The files of the package that a file imports."""
    paths = (Path(*name.split(".")) for name in imports(path, inside) if name.startswith("jaxnet"))
    found = {PACKAGE.parent / p.with_suffix(".py") for p in paths}
    return found & set(FILES) - {path}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down_only(path):
    if room(path).startswith("__"):
        return
    below, top, inside = (set(names.split()) for names in ROOMS[room(path)])
    top |= set(AT_TOP.get(name_of(path), "").split())
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "jaxnet":
            assert not rest or rest[0] in below | {room(path), "__version__"}, name
        else:
            assert first in sys.stdlib_module_names | top | inside, name
    heavy = {name.split(".")[0] for name in imports(path, inside=False)} - {"jaxnet"}
    assert heavy - sys.stdlib_module_names <= top


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_private_names_stay_in_their_room(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            other = f"{node.module}.".split(".")[1]
            private = [a.name for a in node.names if re.match("_[^_]", a.name)]
            assert not private or other == room(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, node.name


def test_the_chain_of_imports_is_short_and_has_no_circle():
    @functools.cache
    def length(path):
        return 1 + max(map(length, modules_of(path, inside=False)), default=0)

    assert max(map(length, FILES)) <= 12  # a circle would be a RecursionError


def test_the_readme_shows_the_rooms_and_what_they_import():
    rows = re.findall(
        r"^\| `(\w+)(?:\.py|/)` \|[^|]*\|([^|]*)\|([^|]*)\|$", README.read_text(), re.M
    )
    shown = {name: [set(re.findall(r"\w+", text)) for text in texts] for name, *texts in rows}
    wanted = {name: [set(r.split()), set(f"{t} {i}".split())] for name, (r, t, i) in ROOMS.items()}
    for name, (below, _) in shown.items():
        if "core" in below:
            shown[name][0] = below - {"core"} | set(CORE.split())
    assert shown == wanted
    assert set(ROOMS) == {room(path) for path in FILES} - {"__init__", "__main__"}


def test_the_oracle_the_tables_and_parity_need_no_jax():
    forbid = "import sys; sys.modules['jax'] = sys.modules['torch'] = None; "
    code = forbid + "; ".join(f"import jaxnet.{name}" for name in NO_JAX.split())
    subprocess.run([sys.executable, "-c", code], check=True)
    done = subprocess.run([sys.executable, "-c", f"{forbid}import jaxnet.net"], capture_output=True)
    assert done.returncode == 1


def test_rooms_are_reached_from_the_package():
    assert set(ROOMS) <= set(dir(jaxnet))
    assert jaxnet.numpy_net.__name__ == "jaxnet.numpy_net"
    with pytest.raises(AttributeError, match="no attribute 'nets'"):
        jaxnet.nets  # noqa: B018


def test_every_folder_of_code_is_installed():
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    packages = set(re.findall(r'"([\w.]+)"', text.split("packages = [")[1].split("]")[0]))
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} <= packages
