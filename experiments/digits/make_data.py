"""Write the UCI handwritten digits as one `.npz` file, byte for byte the same on every machine.

1,797 grey images of 8 × 8 pixels with values 0 to 16, and the digit each one shows. They come with scikit-learn, so
nothing is downloaded. `numpy.savez` would put the clock into the archive; here the dates are fixed, the members are
stored uncompressed (compressors differ) and single bytes have no byte order: equal data, equal hash.

Usage: python experiments/digits/make_data.py data/digits.npz
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
UNIX = 3


def read_digits() -> dict[str, npt.NDArray[np.uint8]]:
    """Return `images` (1797, 64), values 0 to 16, and `labels` (1797,), values 0 to 9."""
    pixels, labels = load_digits(return_X_y=True)
    return {"images": pixels.astype(np.uint8), "labels": labels.astype(np.uint8)}


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    """Write the arrays so that equal arrays give equal bytes; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = zipfile.ZipInfo(f"{name}.npy", EARLIEST_ZIP_DATE)
            member.create_system = UNIX
            archive.writestr(member, npy_bytes(arrays[name]))
    beside.replace(path)


def npy_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """Return one array in NumPy's own file format, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def main() -> None:
    """Write the file named on the command line."""
    parser = argparse.ArgumentParser(description="Write the UCI handwritten digits as one .npz file.")
    parser.add_argument("path", type=Path, help="the file to write, for instance data/digits.npz")
    path: Path = parser.parse_args().path
    write_npz(path, read_digits())
    print(f"wrote {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
