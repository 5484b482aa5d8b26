"""The wheel, away from the source tree: it holds what it needs, and nothing that it should not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of this tree."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_wheel_holds_the_two_packages_and_their_assets(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"knapsack_prune", "solvers"}
    for file in (
        "report/templates/report.html",
        "assets/digits.npz",
        "assets/digits_resnet14.safetensors",
        "py.typed",
    ):
        assert (installed / "knapsack_prune" / file).is_file()
    assert (installed / "knapsack_prune/assets/digits_resnet14.safetensors").stat().st_size < 1_500_000
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))


def test_default_plan_is_made_away_from_the_source_tree(installed: Path, tmp_path: Path) -> None:
    # -P: the working directory is not importable, so that only the wheel can serve the import.
    request = ["plan", "--flops-budget", "0.3", "--samples", "64", "-o", "plan.json"]
    found = subprocess.run(
        [sys.executable, "-P", "-m", "knapsack_prune", *request],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "removed" in found.stdout
    assert (tmp_path / "plan.json").is_file()
