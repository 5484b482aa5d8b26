"""Make `knapsack_prune/assets/digits.npz` from the digits table that scikit-learn distributes.

    python benchmarks/make_digits_asset.py digits.csv.gz knapsack_prune/assets/digits.npz

The table has 1,797 lines of 64 pixels (0 to 16) and a label. The parts are drawn once and stored, so that
nothing that reads them depends on the version of a random generator.
"""

from __future__ import annotations

import argparse
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np

TEST, VALIDATION = 360, 180
SEED = 20020825


def draw_parts(labels: np.ndarray) -> np.ndarray:
    """0 train, 1 validation, 2 test for every image; the classes are in the same proportion in all parts."""
    rng = np.random.default_rng(SEED)
    # Rank every image within its class and then interleave the classes: any prefix is balanced.
    rank = np.empty(len(labels))
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        rank[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(rank, kind="stable")
    parts = np.zeros(len(labels), np.uint8)
    parts[order[:TEST]] = 2
    parts[order[TEST : TEST + VALIDATION]] = 1
    return parts


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed `.npz` whose bytes depend on its content only (no time stamps)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1998, 7, 1, 0, 0, 0))
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    table = np.loadtxt(options.table, delimiter=",", dtype=np.uint8)
    if table.shape != (1797, 65) or table[:, :64].max() > 16 or table[:, 64].max() > 9:
        raise SystemExit(f"{options.table} is not the digits table: {table.shape}, expected (1797, 65)")
    images, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    parts = draw_parts(labels)
    write_npz(options.output, {"images": images, "labels": labels, "split": parts})
    for index, name in enumerate(("train", "validation", "test")):
        print(f"{name}: {np.bincount(labels[parts == index], minlength=10).tolist()}")


if __name__ == "__main__":
    main()
