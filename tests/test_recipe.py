"""The recipe: schedules, runs that stop anywhere and resume, and that it learns and prunes."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern
from vdropkern.recipes import RECIPES, timing
from vdropkern.recipes.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from vdropkern.recipes.config import METHODS, SCHEDULE_STEPS, ConfigError, Schedule, TrainConfig
from vdropkern.recipes.data import Digits
from vdropkern.recipes.lenet_300_100 import PUBLISHED, SMALL_DATA
from vdropkern.recipes.recipe import cross_entropy
from vdropkern.recipes.results import dense_twin, layer_states, restore_model
from vdropkern.recipes.stop import StopRequest
from vdropkern.recipes.train import Trainer, TrainingError, evaluate

LENET = RECIPES["lenet-300-100"]


def digits(train: int = 90, test: int = 30, seed: int = 0) -> Digits:
    """Easy pictures: each class lights up rows of its own, on top of noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(train + test) % 10
    x = torch.randint(0, 60, (train + test, 28, 28), generator=generator)
    for digit in range(10):
        x[y == digit, 2 * digit + 3 : 2 * digit + 6] += 150
    x = x.to(torch.uint8).reshape(-1, 784)
    return Digits(x[:train], y[:train], x[train:], y[train:], "stripes", "made here", "", f"sha-{seed}")


def config(**changes: Any) -> TrainConfig:
    return dataclasses.replace(TrainConfig(epochs=3, batch_size=25), **changes)


class StopAfter:
    """True once asked `steps` times."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


# -- settings and schedules


def test_published_schedule_is_followed_epoch_by_epoch() -> None:
    """Adam 1e-3 for 100 epochs then linear to 0; KL weight 0 below epoch 5, (e - 5) / 15, 1 from 20."""
    steps = 600
    schedule = Schedule(PUBLISHED, PUBLISHED.epochs * steps)
    for epoch in range(200):
        for step in (0, 1, steps - 1):
            position = schedule.position(epoch * steps + step)
            assert position == epoch
            lr = PUBLISHED.lr * schedule.lr_factor(position)
            assert lr == pytest.approx(1e-3 * max(0, min(2 - epoch / 100, 1)), rel=1e-12)
            weight = 0 if epoch < 5 else min((epoch - 5) / 15, 1)
            assert schedule.kl_weight(position) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 3, 20, 500])
def test_shorter_and_longer_runs_squeeze_or_stretch_the_same_curve(epochs: int) -> None:
    schedule = Schedule(config(epochs=epochs), total_steps=epochs * 600)
    positions = [schedule.position(step) for step in range(epochs * 600)]
    assert positions == sorted(positions)
    assert set(positions) == set(range(SCHEDULE_STEPS))
    lengths = [positions.count(p) for p in (0, 99, 199)]
    assert lengths == [epochs * 3] * 3


def test_no_warm_up_is_full_weight_from_the_first_step() -> None:
    schedule = Schedule(config(kl_start=0.0, kl_end=0.0, kl_scale=0.5), total_steps=600)
    assert [schedule.kl_weight(position) for position in (0, 1, SCHEDULE_STEPS - 1)] == [0.5] * 3
    late = Schedule(config(kl_start=0.5, kl_end=0.5), total_steps=600)
    assert [late.kl_weight(position) for position in (0, 99, 100)] == [0, 0, 1]


@pytest.mark.parametrize("stair", range(1, SCHEDULE_STEPS))
def test_steps_are_on_their_stairs(stair: int) -> None:
    """Also where the part of the run times the stairs rounds to more than the stair: 14 / 200 * 200 > 14."""
    part = stair / SCHEDULE_STEPS
    settings = config(lr_decay_start=1.0, lr_steps=(part,), clip_start=part, kl_start=part, kl_end=part)
    schedule = Schedule(settings, SCHEDULE_STEPS)
    before, after = stair - 1, stair
    assert (schedule.lr_factor(before), schedule.lr_factor(after)) == (1.0, 0.1)
    assert (schedule.clips(before), schedule.clips(after)) == (False, True)
    assert (schedule.kl_weight(before), schedule.kl_weight(after)) == (0.0, 1.0)


def test_fewer_steps_than_stairs() -> None:
    schedule = Schedule(config(epochs=1), total_steps=4)
    assert [schedule.position(step) for step in range(4)] == [0, 50, 100, 150]
    assert schedule.lr_factor(150) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "dropconnect"}, {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.nan},
        {"noise_lr": -1.0}, {"noise_lr": math.inf}, {"kl_start": -0.1}, {"kl_end": 1.1}, {"kl_end": 0.02},
        {"lr_decay_start": 2.0}, {"clip_start": -0.1}, {"threshold": 99.0}, {"log_sigma2": math.nan},
        {"seed": -1}, {"seed": 2**63},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=rf"^({name}|kl_start): .*accepted"):
        config(**change)


def test_settings_survive_a_dict_and_unknown_ones_do_not() -> None:
    given = config(method="hvd", seed=7)
    assert given.method == "hierarchical-vd"
    assert TrainConfig.from_dict(given.as_dict()) == given
    with pytest.raises(ConfigError, match="unknown settings: depth"):
        TrainConfig.from_dict({"depth": 0.9})


def test_default_settings_depend_on_the_amount_of_data() -> None:
    assert LENET.default_config(60_000) == PUBLISHED
    assert LENET.default_config(4_000) == SMALL_DATA


# -- stopping and resuming


@pytest.mark.parametrize("stop_after", [1, 3, 4, 6])
@pytest.mark.parametrize("method", ["sparse-vd", "bernoulli"])
def test_resumed_equals_uninterrupted(method: str, stop_after: int, tmp_path: Path) -> None:
    """Four steps an epoch: stops inside an epoch, at its end, and inside a later one."""
    settings, data, file = config(method=method), digits(), tmp_path / "checkpoint.pt"
    whole = Trainer(LENET, settings, data)
    assert whole.run()

    torch.manual_seed(1)  # whatever the generator holds, training sets its own seed
    first = Trainer(LENET, settings, data)
    assert not first.run(file, stop=StopAfter(stop_after))
    torch.manual_seed(2)
    second = Trainer(LENET, settings, data)
    second.load_state_dict(load_checkpoint(file))
    assert (second.epoch, second.step) == (first.epoch, first.step)
    assert second.run(file)

    assert without_times(second.history) == without_times(whole.history)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    for theirs, ours in zip(
        whole.optimizer.state_dict()["state"].values(),
        second.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_seeds_decide_the_run() -> None:
    runs = []
    for seed in (0, 0, 1):
        trainer = Trainer(LENET, config(epochs=1, seed=seed), digits())
        trainer.run()
        runs.append(without_times(trainer.history))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_checkpoint_of_other_data_or_settings_is_refused() -> None:
    state = Trainer(LENET, config(), digits()).state_dict()
    with pytest.raises(CheckpointError, match="other data"):
        Trainer(LENET, config(), digits(seed=1)).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"other settings: .*epochs=3"):
        Trainer(LENET, config(epochs=4), digits()).load_state_dict(state)


def test_checkpoints_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, {"epoch": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(file, {"epoch": 2})
    assert load_checkpoint(file)["epoch"] == 1
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_checkpoint(file)
    save_checkpoint(file, Trainer(LENET, config(), digits()).state_dict())
    content = file.read_bytes()
    for damaged in (b"", b"not a checkpoint", content[: len(content) // 2], content[:-30]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_checkpoint(file)
    torch.save({"format": 99}, file)
    with pytest.raises(CheckpointError, match="format 1 expected, found 99"):
        load_checkpoint(tmp_path)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo should never run",)


def test_checkpoints_run_no_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": 1, "model": Payload()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)
    assert "should never run" not in capfd.readouterr().out


def test_a_signal_stops_between_steps_and_a_second_one_at_once() -> None:
    class Interrupt:
        def on_step(self, trainer: Trainer) -> None:
            signal.raise_signal(signal.SIGINT)

        def on_epoch(self, trainer: Trainer) -> None: ...

    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        trainer = Trainer(LENET, config(), digits())
        assert not trainer.run(observer=Interrupt(), stop=stop)
        assert (trainer.step, stop.signal) == (1, signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # from a launcher, after Ctrl-C that reached all
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    trainer = Trainer(LENET, config(), digits())
    with torch.no_grad():
        trainer.model.fc1.weight[0, 0] = math.nan
    with pytest.raises(TrainingError, match="loss of epoch 1 is nan; try a lower lr"):
        trainer.run(tmp_path / "checkpoint.pt")
    assert os.listdir(tmp_path) == []


def test_a_net_that_diverges_in_its_last_step_ends_the_run_too() -> None:
    trainer = Trainer(LENET, config(epochs=1, batch_size=90, lr=1e30), digits())
    with pytest.raises(TrainingError, match="the test NLL of epoch 1 is nan; try a lower lr"):
        trainer.run()


@pytest.mark.parametrize(
    "train, batch, sizes", [(31, 10, [10, 10, 11]), (32, 10, [10, 10, 10, 2]), (3, 1, 3 * [1])]
)
def test_no_last_batch_of_one_example(train: int, batch: int, sizes: list[int]) -> None:
    """Of one, batch normalisation cannot take statistics."""
    seen: list[int] = []

    def loss(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return cross_entropy(model, x, y)

    norm = [torch.nn.BatchNorm1d(784)] if batch > 1 else []
    net = torch.nn.Sequential(*norm, torch.nn.Linear(784, 10))
    recipe = dataclasses.replace(LENET, build=lambda _: net, loss=loss)
    trainer = Trainer(recipe, config(epochs=1, batch_size=batch, method="none"), digits(train))
    assert trainer.run()
    assert (trainer.steps, seen) == (len(sizes), sizes)


def test_timed_batches_are_no_larger_than_said() -> None:
    net = torch.nn.Linear(784, 10)
    rows = timing.compare(net, net, torch.zeros(30, 784), batches=(1, 8, 100), rounds=2)
    assert [row["batch"] for row in rows] == [1, 8, 30]


def test_digits_are_not_augmented() -> None:
    with pytest.raises(ConfigError, match="augment: 'flip' is for images; of lenet-300-100 accepted: none"):
        Trainer(LENET, config(augment="flip"), digits())


# -- what is trained


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_reports(method: str) -> None:
    data = digits(train=200)
    # so few digits are not worth the KL of any weight: let it weigh in late
    trainer = Trainer(LENET, config(method=method, epochs=10, lr=2e-3, kl_start=0.8, kl_end=0.99), data)
    assert trainer.run()
    last = trainer.history[-1]
    assert last["test_error"] < 35, last  # guessing: 90
    assert last["weights"] == 266_200
    assert 0 < last["nonzero"] <= 266_200
    has_kl = method.startswith("variational") or method in ("sparse-vd", "ard", "hierarchical-vd")
    assert (last["kl"] > 0) == has_kl
    assert last["loss"] == pytest.approx(last["nll"] + last["kl_weight"] * last["kl"] / 200, rel=1e-6)
    if method == "variational-b":
        layers = [module for module in trainer.model if hasattr(module, "method")]
        assert max(float(layer.log_alpha.detach().max()) for layer in layers) <= 0


def test_sparse_vd_prunes_and_pruned_nets_compute_the_same() -> None:
    settings = config(epochs=12, batch_size=100, lr=3e-3, noise_lr=5e-2, kl_start=0.2, kl_end=0.6)
    trainer = Trainer(LENET, settings, digits(train=2000, test=100))
    trainer.run()
    assert trainer.history[-1]["sparsity"] > 0.9
    assert trainer.history[-1]["test_error"] < 20
    model = trainer.model.eval()
    pruned = vdropkern.sparsify(model)
    assert any(isinstance(module, vdropkern.sparse.SparseLinear) for module in pruned)
    expected = evaluate(model, trainer.test_x, trainer.test_y)
    for other in (pruned, dense_twin(model), dense_twin(pruned)):
        assert evaluate(other, trainer.test_x, trainer.test_y) == pytest.approx(expected, rel=1e-5)
    assert all(type(m) in (torch.nn.Linear, torch.nn.ReLU) for m in dense_twin(pruned))


def test_evaluation_restores_the_mode_and_draws_no_noise() -> None:
    trainer = Trainer(LENET, config(), digits())
    state = torch.get_rng_state()
    first = evaluate(trainer.model, trainer.test_x, trainer.test_y)
    assert trainer.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(trainer.model, trainer.test_x, trainer.test_y) == first


def test_training_reads_no_value_back_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step must not wait for a number: on a GPU each read-back would stall the queue."""
    trainer = Trainer(LENET, config(), digits())

    def refuse(*_: Any) -> float:
        raise AssertionError("read back inside a step")

    for name in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    trainer._step(torch.arange(25))


@pytest.mark.parametrize(
    "clip_start, expected", [(0.0, [1, 1, 1, 1]), (0.5, [0, 0, 1, 1]), (1.0, [0, 0, 0, 0])]
)
def test_clip_start(clip_start: float, expected: list[int]) -> None:
    """From that part of the run on weights past the threshold have no say in the mean, and not before."""
    trainer = Trainer(LENET, config(epochs=1, clip_start=clip_start), digits(train=100))
    with torch.no_grad():
        for layer in trainer.clipped_layers:
            layer.log_sigma2.fill_(4.0)  # of every weight: past any threshold
    clipped = []
    for step in range(trainer.steps):
        trainer._step(torch.arange(25))
        layer = trainer.clipped_layers[0]
        layer.zero_grad()
        torch.manual_seed(0)
        layer(trainer.train_x[:5]).sum().backward()
        # the mean's part of the gradient is the sum of the inputs
        plain = torch.autograd.grad(
            torch.nn.functional.linear(trainer.train_x[:5], layer.weight).sum(), layer.weight
        )
        clipped.append(int(not torch.allclose(layer.weight.grad, plain[0])))
        assert clipped[-1] == 0 or not layer.weight.grad.any()
        trainer.step = step + 1
    assert clipped == expected


def test_methods_that_prune_nothing_are_not_clipped() -> None:
    assert not Trainer(LENET, config(method="gaussian-w", clip_start=0.0), digits()).clipped_layers


def test_layer_states_and_restored_models_are_those_of_the_run(tmp_path: Path) -> None:
    trainer = Trainer(LENET, config(epochs=1, threshold=-3.0), digits())
    trainer.run(tmp_path / "checkpoint.pt")
    restored = restore_model(LENET, load_checkpoint(tmp_path))
    for mine, theirs in zip(layer_states(trainer.model), layer_states(restored), strict=True):
        assert mine.name == theirs.name
        assert mine.threshold == -3.0
        assert torch.equal(mine.weight, theirs.weight)
        assert mine.log_alpha is not None
        assert torch.equal(mine.keep, mine.log_alpha < -3.0)
    assert [state.name for state in layer_states(restored)] == ["fc1", "fc2", "fc3"]


def test_restoring_into_another_net_is_refused() -> None:
    state = Trainer(LENET, config(method="none"), digits()).state_dict()
    state["config"]["method"] = "sparse-vd"
    with pytest.raises(CheckpointError, match="does not fit recipe lenet-300-100"):
        restore_model(LENET, state)
