"""The recipes on residual nets: what they build, what they measure, and one run each by the command line."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vdropkern import methods, nn
from vdropkern.recipes import RECIPES
from vdropkern.recipes.images import load_images
from vdropkern.recipes.targeted_dropout import SHARES, pruned
from vdropkern.recipes.text import cell
from vdropkern.recipes.train import Trainer

from .command_line import run, train_refuses

SMALLER: dict[str, dict[str, Any]] = {
    "xnor-resnet18": {"width": 4},
    "targeted-dropout": {"width": 0.125, "blocks": 1},
}
WEIGHTS, UNITS = (f"Accuracy after pruning {what}" for what in ("weights of each output", "whole outputs"))


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VDROPKERN_IMAGES", raising=False)
    torch.set_num_threads(1)


def images(folder: Path, channels: int = 3) -> Path:
    rng, y = np.random.default_rng(0), np.arange(24) % 3
    x, test_x = (rng.integers(0, 256, (n, 16, 16, channels), dtype=np.uint8) for n in (24, 9))
    np.savez(folder / "tiny.npz", x_train=x, y_train=y, x_test=test_x, y_test=y[:9])
    return folder / "tiny.npz"


def config(name: str, **changes: Any) -> Any:
    default = RECIPES[name].default_config(24).for_data((3, 16, 16), 3)
    return dataclasses.replace(default, **{"epochs": 2, "batch_size": 12, **SMALLER[name], **changes})


def trained(name: str, folder: Path, **changes: Any) -> Trainer:
    trainer = Trainer(RECIPES[name], config(name, **changes), load_images(images(folder)))
    assert trainer.run()
    trainer.model.eval()
    return trainer


def smoke(name: str, folder: Path, *further: str) -> dict[str, Any]:
    """Results of a run from the command line."""
    smaller = [word for key, value in SMALLER[name].items() for word in (f"--{key}", str(value))]
    code, text = run(
        "train", name, "--scale", "smoke", "--epochs", "2", "--batch-size", "12", "--threads", "1",
        "--data", str(images(folder)), "--out", "run", *smaller, *further,
    )  # fmt: skip
    assert code == 0, text
    results: dict[str, Any] = json.loads(Path("run/results.json").read_text())
    page = Path("run/report.html").read_text()
    for title in results["further"]:
        assert title in page
        assert title in text
    return results


def test_xnor_resnet18_runs_and_packs(tmp_path: Path) -> None:
    results = smoke("xnor-resnet18", tmp_path, "--weight-decay", "1e-5")
    assert results["config"]["weight_decay"] == 1e-5
    assert {"train", "test"} <= set(results["accuracy"])
    errors = [record["train_error"] for record in results["history"]]
    assert results["accuracy"]["train"]["mean_of_last_ten"] == pytest.approx(100 - sum(errors) / 2)
    agreement, times = results["further"].values()
    assert agreement[0]["equal to the bit"] is True
    assert agreement[0]["other predictions"] == agreement[0]["largest difference"] == 0
    assert agreement[0]["images"] == 9
    assert agreement[0]["bytes packed"] < agreement[0]["bytes of floats"]
    assert [row["batch"] for row in times] == [1, 8]
    assert all(row["speed-up"] > 0 for row in times)


def test_xnor_resnet18_measures_the_training_images_as_they_are(tmp_path: Path) -> None:
    trainer = trained("xnor-resnet18", tmp_path, epochs=1)
    x = RECIPES["xnor-resnet18"].prepare(trainer.data.train_x)
    with torch.no_grad():
        logits = trainer.model(x)
    wrong = (logits.argmax(1) != trainer.data.train_y).float().mean()
    assert trainer.history[0]["train_error"] == pytest.approx(100 * float(wrong))
    nll = torch.nn.functional.cross_entropy(logits, trainer.data.train_y)
    assert trainer.history[0]["train_nll"] == pytest.approx(float(nll), rel=1e-5)


def test_xnor_resnet18_in_full_precision() -> None:
    recipe = RECIPES["xnor-resnet18"]
    layers = [type(m) for m in recipe.build(config("xnor-resnet18")).modules()]
    assert layers.count(nn.BinaryConv2d) == 16
    plain = [type(m) for m in recipe.build(config("xnor-resnet18", binary=False)).modules()]
    assert nn.BinaryConv2d not in plain
    assert plain.count(torch.nn.Conv2d) == 20  # 16, the stem and three shortcuts


def test_targeted_dropout_runs_and_prunes(tmp_path: Path) -> None:
    results = smoke("targeted-dropout", tmp_path)
    weights, units = results["further"][WEIGHTS], results["further"][UNITS]
    for table in (weights, units):
        assert [row["share"] for row in table] == list(SHARES)
        assert table[0]["accuracy"] == pytest.approx(100 - results["test"]["error"], abs=1e-3)
        assert table[0]["nonzero"] == table[0]["weights"] == results["total"]["weights"]
        left = [row["nonzero"] for row in table]
        assert left == sorted(left, reverse=True)
    assert weights[-1]["nonzero"] < weights[0]["nonzero"] / 5


def test_resnet_32_is_of_the_published_size() -> None:
    net = RECIPES["targeted-dropout"].build(config("targeted-dropout", width=1.0, blocks=5, method="none"))
    shapes = [tuple(m.weight.shape) for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    blocks = [shape for shape in shapes if shape[2] == 3]
    assert shapes[0] == (16, 3, 7, 7)
    assert len(blocks) == 30
    assert sum(shape[2] == 1 for shape in shapes) == 3
    assert [shape[0] for shape in blocks] == [32] * 10 + [64] * 10 + [128] * 10
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("method", RECIPES["targeted-dropout"].config.methods)
def test_every_method_trains_and_its_twin_computes_the_same(method: str, tmp_path: Path) -> None:
    trainer = trained("targeted-dropout", tmp_path, method=method)
    tables = RECIPES["targeted-dropout"].finish(trainer)
    assert tables[WEIGHTS][0]["accuracy"] == pytest.approx(100 - trainer.test()[1], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "none"}, methods.NoDropout()),
        ({"method": "bernoulli"}, methods.Bernoulli(0.25)),
        ({"method": "drop-connect", "alpha": 0.5}, methods.DropConnect(0.5)),
        ({"method": "targeted-weight"}, methods.TargetedDropout(0.5, 0.5)),
        ({"method": "targeted-unit", "gamma": 0.75, "alpha": 0.33},
         methods.TargetedDropout(0.75, 0.33, targets="unit")),
        # 10 epochs of 2 steps, 0.4 of them
        ({"method": "ramping-targeted-weight"}, methods.TargetedDropout(0.99, 0.99, ramp_steps=8)),
        ({"method": "ramping-targeted-unit"},
         methods.TargetedDropout(0.9, 0.99, targets="unit", ramp_steps=8)),
        ({"method": "magnitude-weight"}, methods.MagnitudePruning(0.9, ramp_steps=8)),
        ({"method": "magnitude-unit"}, methods.MagnitudePruning(0.5, targets="unit", ramp_steps=8)),
        ({"method": "smallify"}, methods.Smallify()),
        ({"method": "sparse-vd"}, methods.SparseVD()),
    ],
)  # fmt: skip
def test_methods_are_the_published_ones(settings: dict[str, Any], expected: methods.Method) -> None:
    assert config("targeted-dropout", epochs=10, **settings).layer_method() == expected


def test_pruning_takes_the_smallest_of_each_output_or_the_smallest_outputs() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 1), torch.nn.Linear(4, 2))
    weight = torch.tensor([[1.0, -2, 3, -4], [8, 7, 6, 5], [-0.1, 0.2, 0.4, 0.3], [9, 9, 9, 10]])
    with torch.no_grad():
        net[1].weight.copy_(weight[:, :, None, None])
    by_weight, by_unit = pruned(net, 0.5, "weight"), pruned(net, 0.5, "unit")
    kept = torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])  # of equals all
    assert torch.equal(by_weight[1].weight.flatten(1), kept * weight)
    kept = torch.tensor([0.0, 1, 0, 1])[:, None] * weight
    assert torch.equal(by_unit[1].weight.flatten(1), kept)
    for other in (by_weight, by_unit):
        assert torch.equal(other[0].weight, net[0].weight)
        assert torch.equal(other[2].weight, net[2].weight)
    assert torch.equal(net[1].weight.flatten(1), weight)
    assert torch.equal(pruned(net, 0.0, "weight")[1].weight, net[1].weight)


def test_the_prior_takes_the_place_of_weight_decay() -> None:
    recipe = RECIPES["targeted-dropout"]
    for method, decays in (("sparse-vd", {0.0}), ("targeted-weight", {2e-4})):
        settings = config("targeted-dropout", method=method)
        assert {group["weight_decay"] for group in recipe.groups(recipe.build(settings), settings)} == decays


def test_values_in_tables() -> None:
    values = (True, False, 1852976, 63428.4, 0.95, 91.234, "a")
    assert [cell(v) for v in values] == ["yes", "no", "1,852,976", "63,428", "0.95", "91.23", "a"]


def test_images_are_standardised() -> None:
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    y = RECIPES["targeted-dropout"].prepare(torch.cat([x, torch.full_like(x[:1], 7)]))
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[:4].square().mean((1, 2, 3)), torch.ones(4))
    assert torch.equal(y[4], torch.zeros(3, 8, 8))


def test_images_of_allconv6_lose_the_mean_colour_of_its_study() -> None:
    grey = torch.full((1, 3, 2, 2), 124, dtype=torch.uint8)
    y = RECIPES["allconv6"].prepare(grey)
    assert y[0, :, 0, 0].tolist() == [0.0, 7.0, 20.0], "red, green, blue"
    assert (RECIPES["allconv6"].prepare(grey[:, :1]) == 7.0).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("xnor-resnet18", "--width", "0"), "--width: 0 given, 1 to 1024 accepted"),
        (("xnor-resnet18", "--width", "wide"), "--width: 'wide' given, an integer accepted"),
        (("xnor-resnet18", "--method", "sparse-vd"), "--method: 'sparse-vd' is unknown; accepted: none"),
        (("xnor-resnet18", "--estimator", "exact"), "--estimator: 'exact' is unknown"),
        (("xnor-resnet18", "--gamma", "0.5"), "No such option: --gamma"),
        (("targeted-dropout", "--method", "ard"), "--method: 'ard' is unknown; accepted: none, bernoulli"),
        (("targeted-dropout", "--gamma", "1.5"), "--gamma: 1.5 given, 0 to 1 accepted"),
        (("targeted-dropout", "--method", "bernoulli", "--alpha", "1"), "--alpha: 1.0 given, 0 to 0.99"),
        (("targeted-dropout", "--blocks", "0"), "--blocks: 0 given, 1 to 32 accepted"),
        (("targeted-dropout", "--train-size", "9"), "No such option: --train-size"),
    ],
)
def test_wrong_flags_exit_with_2_and_write_nothing(
    args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    train_refuses(args, message, tmp_path)


def test_grey_images_are_refused_by_the_colour_net(tmp_path: Path) -> None:
    code, text = run("train", "xnor-resnet18", "--data", str(images(tmp_path, channels=1)))
    assert code == 2, text
    assert "1 channels given, 3 accepted" in text
    assert os.listdir(tmp_path) == ["tiny.npz"]
