"""Grids of settings: which cells there are, and what is refused."""

from __future__ import annotations

import pytest

from vdropkern.recipes.grid import GridError, parse_grid

RECIPE = "lenet-300-100"


def test_cells_are_all_combinations() -> None:
    grid = parse_grid(RECIPE, ["method=ard,none", "kl-start=0.1,0.2"], ["--noise-lr=1e-2"])
    assert [cell.name for cell in grid.cells()] == [
        "method=ard_kl_start=0.1", "method=ard_kl_start=0.2", "method=none_kl_start=0.1",
        "method=none_kl_start=0.2",
    ]  # fmt: skip
    assert grid.cells()[1].settings == {"noise_lr": "1e-2", "method": "ard", "kl_start": "0.2"}


def test_a_value_brings_further_settings() -> None:
    grid = parse_grid(RECIPE, ["method=ard,ard+kl_start=0+kl_end=0.5", "lr=1e+3"], [])
    assert [(cell.name, cell.settings) for cell in grid.cells()] == [
        ("method=ard_lr=1e+3", {"method": "ard", "lr": "1e+3"}),
        (
            "method=ard+kl_start=0+kl_end=0.5_lr=1e+3",
            {"method": "ard", "kl_start": "0", "kl_end": "0.5", "lr": "1e+3"},
        ),
    ]


@pytest.mark.parametrize(
    "over, fixed, said",
    [
        (["seed"], [], "'seed' given; NAME=VALUE,VALUE"), (["seed=0,,1"], [], "none of them empty"),
        (["seed=0,0"], [], "values that differ"), (["seed=0", "seed=1"], [], "seed is given twice"),
        (["seed=0"], ["seed=1"], "seed is given twice"), (["out=a,b"], [], "flag of the sweep itself"),
        (["seed=a/b,a:b"], [], "share a folder"), ([], ["epochs="], "NAME=VALUE accepted"),
        ([], ["a b=1"], "NAME=VALUE accepted"),
        (["method=ard+seed=1"], ["seed=2"], r"\+seed= given"), (["seed=1+out=a"], [], r"\+out= given"),
        (["method=ard+lr=1", "seed=1+lr=2"], [], r"\+lr= given"),
    ],
)  # fmt: skip
def test_bad_grids_are_told(over: list[str], fixed: list[str], said: str) -> None:
    with pytest.raises(GridError, match=said):
        parse_grid(RECIPE, over, fixed)
