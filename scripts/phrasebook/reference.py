"""What torch does in a row: live, or from the recording."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import files, parity
from phrasebook.row import Row

RECORDING = Path(__file__).parents[2] / "tests/recordings/phrasebook.npz"
Reference = parity.Trajectory | list[np.ndarray]  # a list: the `y` of a row without gradient


def live(row: Row) -> Reference:
    """Run torch."""
    from phrasebook import torch_side

    if row.check == "value":
        return torch_side.run(row)
    return parity.trajectory(*torch_side.reference(row))


def record(rows: list[Row]) -> None:
    """Write what torch does in every row, with torch's version, into one file."""
    import torch

    from phrasebook import torch_side

    arrays: dict[str, Any] = {"torch": np.array(torch.__version__)}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            if row.check == "value":
                found = enumerate(torch_side.run(row))
                arrays |= {f"{row.slug}/{i}": value for i, value in found}
            else:
                path = Path(folder) / "row.npz"
                parity.record(path, *torch_side.reference(row))
                arrays[row.slug] = np.frombuffer(path.read_bytes(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # what it holds is compressed already
    files.write(RECORDING, stream.getvalue())


def recorded(row: Row) -> Reference:
    """Read what torch did.

    Raises: ValueError for a row that was not recorded.
    """
    with np.load(RECORDING, allow_pickle=False) as found:
        names = [name for name in found.files if name.partition("/")[0] == row.slug]
        if not names:
            raise ValueError(
                f"`row` must be recorded, got {row.slug!r}: run scripts/tools/phrasebook.py "
                "--record where PyTorch is installed"
            )
        if row.check == "value":
            return [found[name] for name in names]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "row.npz"
            path.write_bytes(found[row.slug].tobytes())
            return parity.load(path)
