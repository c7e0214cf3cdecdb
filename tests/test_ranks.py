"""Training on several processes: one net, one process's where nothing is random, one folder, one end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vdropkern.recipes.checkpoint import CheckpointError, load_checkpoint
from vdropkern.recipes.config import ConfigError
from vdropkern.recipes.ranks import Ranks
from vdropkern.recipes.train import Trainer

from . import rank_processes
from .command_line import run as cli
from .digit_files import make_files, write_folder
from .rank_processes import LENET, cases, environment, tensors
from .test_cli import WRITTEN
from .test_recipe import config, digits

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="torch has no gloo here"
)
NAMES = tuple(cases())
TRAIN = ["-m", "vdropkern", "train", "lenet-300-100", "--epochs", "2", "--batch-size", "20"]


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of checkpoints, and what came of `rank_processes.train_all` in each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    for code, _, errors in rank_processes.run(["-m", "tests.rank_processes", str(folder)], [{}, {}]):
        assert code == 0, errors
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_end_with_the_same_net(name: str, came: tuple[Path, list[dict[str, Any]]]) -> None:
    """Parameters, running statistics, ramps, switches, what the optimiser keeps: equal to the bit."""
    first, second = came[1]
    assert_equal(first["ends"][name], second["ends"][name])
    assert all(value.isfinite().all() for value in first["ends"][name].values())
    assert first["history"][name] == second["history"][name]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_bits(name: str, came: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank in came[1]:
        assert_equal(rank["resumed"][name], rank["ends"][name])


@pytest.mark.parametrize("name", NAMES)
def test_noise_differs_and_the_order_of_examples_does_not(
    name: str, came: tuple[Path, list[dict[str, Any]]]
) -> None:
    (noise, order), (other_noise, other_order) = (rank["draws"][name] for rank in came[1])
    assert noise != other_noise
    assert torch.equal(order, other_order)


def test_ramps_have_counted_the_steps(came: tuple[Path, list[dict[str, Any]]]) -> None:
    steps = [value for name, value in came[1][1]["ends"]["ramps"].items() if name.endswith("mask_step")]
    assert steps and all(value == 2 * 3 for value in steps)


def test_without_noise_it_is_the_run_of_one_process(came: tuple[Path, list[dict[str, Any]]]) -> None:
    recipe, settings, data = cases()["plain"]
    alone = Trainer(recipe, settings, data)
    assert alone.run()
    moved = 0.0
    at_first = Trainer(recipe, settings, data).model.state_dict()
    for name, value in tensors(alone).items():
        theirs = came[1][0]["ends"]["plain"][name]
        # sums in another order; the rate is too low to blow that up
        torch.testing.assert_close(theirs, value, rtol=1e-5, atol=1e-6)
        moved = max(moved, float((value - at_first[name]).abs().max()) if name in at_first else 0.0)
    assert moved > 0.01
    for ours, theirs in zip(alone.history, came[1][0]["history"]["plain"], strict=True):
        for name, value in theirs.items():
            assert value == pytest.approx(ours[name], rel=1e-5), name


def test_another_number_of_processes_is_refused(came: tuple[Path, list[dict[str, Any]]]) -> None:
    recipe, settings, data = cases()["noise"]
    state = load_checkpoint(came[0] / "noise")
    with pytest.raises(CheckpointError, match=r"is of 2 processes, .* this run has 1; .* --init"):
        Trainer(recipe, settings, data).load_state_dict(state)
    assert len(state["other_ranks"]) == 1
    alone = Trainer(LENET, config(), digits()).state_dict()
    with pytest.raises(CheckpointError, match=r"is of 1 process, .* this run has 3"):
        Trainer(LENET, config(), digits(), ranks=Ranks(1, 3)).load_state_dict(alone)


def test_shares_are_the_whole_and_seeds_are_mixed() -> None:
    examples = torch.arange(11)
    for count in (1, 2, 3, 11, 12):
        shares = [Ranks(rank, count).share(examples) for rank in range(count)]
        assert torch.equal(torch.cat(shares), examples)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    draws = []
    for seed in (0, 1, 2**32):
        for rank in (1, 2):
            torch.manual_seed(seed)
            Ranks(rank, 3).seed(seed)
            draws.append(int(torch.randint(2**62, ())))
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize(
    "size, weights", [(25, [9, 8, 8]), (6, [2, 2, 2]), (5, [3, 2, 0]), (3, [3, 0, 0]), (1, [1, 0, 0])]
)
def test_a_batch_is_shared_out_two_examples_at_least(size: int, weights: list[int]) -> None:
    index = torch.randperm(90)[:size]
    shares = [Trainer(LENET, config(), digits(), ranks=Ranks(rank, 3))._share(index) for rank in range(3)]
    assert [weight * size for _, weight in shares] == pytest.approx(weights)
    assert torch.equal(torch.cat([mine for mine, weight in shares if weight]), index)
    assert all(0 < len(mine) <= 2 for mine, weight in shares if not weight)


def test_batches_too_small_to_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size: 5 given, at least 6 accepted: 2 a process"):
        Trainer(LENET, config(batch_size=5), digits(), ranks=Ranks(0, 3))


def test_a_process_that_fails_ends_the_others() -> None:
    ends = rank_processes.run(["-m", "tests.rank_processes", "fail"], [{}, {}, {}])
    assert [code for code, _, _ in ends] == [1, 1, 1]
    assert "MemoryError: as if" in ends[2][2]
    for rank in (0, 1):
        assert ends[rank][2].startswith(f"RanksError: process {rank} of 3 lost another"), ends[rank]


# -- the command line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("digits"), make_files()))


def test_one_process_prints_and_writes_one_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TRAIN, "--data", data, "--out", "run", "--tensorboard"]
    (code, output, errors), (other_code, *other) = rank_processes.run(words, [{}, {}])
    assert (code, other_code) == (0, 0), errors
    assert other == ["", ""]
    assert "2 processes, each with its share of every batch" in output and "test error" in output
    assert os.listdir(tmp_path) == ["run"]
    assert set(os.listdir("run")) == WRITTEN | {"tensorboard"}
    assert len(os.listdir("run/tensorboard")) == 1
    results = json.loads(Path("run/results.json").read_text())
    assert results["command"].startswith("torchrun --nproc-per-node 2 -m vdropkern train lenet-300-100 ")
    assert results["machine"]["processes"] == 2
    # one process does not go on with it
    code, text = cli("train", "lenet-300-100", "--data", data, "--out", "run", "--resume")
    assert code == 2
    assert "the checkpoint is of 2 processes, each with noise of its own, and this run has 1" in text


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_what_is_wrong_in_one_process_is_told_once_and_ends_all(
    kind: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = make_files()
    labels = files["t10k-labels-idx1-ubyte"]
    files["t10k-labels-idx1-ubyte"] = labels[:8] + bytes(len(labels) - 8)
    other = write_folder(tmp_path / "other", files) if kind == "other" else tmp_path / "missing"
    before = os.listdir(tmp_path)
    ends = rank_processes.run(TRAIN, [{"VDROPKERN_DATA": data}, {"VDROPKERN_DATA": str(other)}])
    assert [code for code, _, _ in ends] == [2, 2]
    said = {"missing": f"{other}: no such file", "other": "has other settings or data than process 0"}[kind]
    assert ends[0][1] == "" and ends[0][2].startswith("vdropkern train: process 1 of 2")
    assert said in ends[0][2]
    assert ends[1][1:] == ("", "")
    assert os.listdir(tmp_path) == before


LEAVES = """
import atexit, sys, weakref, torch
from vdropkern.recipes.ranks import Ranks, RanksError
ranks = Ranks.join()
group = weakref.ref(torch.distributed.group.WORLD)
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
ranks.gather(None)
"""
TELLS = 'print("gone" if group() is None else "kept")\n'
LOSES = """
try:
    while True:
        if ranks.rank == 0:
            sys.exit("fails")
        ranks.sum_([torch.zeros(1)])
except RanksError as err:
    lost = err
"""


def test_nothing_keeps_the_group_and_its_threads_once_left() -> None:
    words = ["-c", f"{LEAVES}ranks.leave()\n{TELLS}"]
    assert rank_processes.run(words, [{}, {}]) == [(0, "gone", "")] * 2


def test_nor_does_the_error_that_another_is_lost() -> None:
    ends = rank_processes.run(["-c", f"{LEAVES}{LOSES}ranks.leave()\n{TELLS}"], [{}, {}])
    assert ends == [(1, "", "fails"), (0, "gone", "")]


def test_who_does_not_leave_does_so_when_python_ends() -> None:
    late = LEAVES.replace("ranks = ", f"atexit.register(lambda: {TELLS.strip()})\nranks = ")
    assert rank_processes.run(["-c", late], [{}, {}]) == [(0, "gone", "")] * 2


def test_a_sweep_refuses_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "vdropkern", "sweep", "lenet-300-100"]
    (code, output, errors), (other_code, *other) = rank_processes.run(words, [{}, {}])
    assert (code, other_code, output, other) == (2, 2, "", ["", ""])
    assert errors.startswith("vdropkern sweep: 2 processes given (torchrun?), 1 accepted")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [("train", "estimator-study"), ("info",), ("report", "runs")])
def test_so_does_everything_but_a_recipe(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(Ranks, "join", lambda: Ranks())
    code, text = cli(*words)
    assert code == 2
    assert text.startswith(f"vdropkern {' '.join(words[: 1 + (words[0] == 'train')])}: 3 processes given")
    assert os.listdir(tmp_path) == []


def test_torchrun_passes_ctrl_c_on_and_the_run_goes_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split("torchrun --nproc-per-node 2 -m vdropkern train lenet-300-100 --epochs 5000")
    words += ["--batch-size", "10", "--data", data, "--out", "run"]
    reached = []
    for again in (False, True):
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )  # fmt: skip
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.communicate(timeout=300)
        output = "".join(seen) + rest
        assert process.returncode != 0
        assert output.count("stopped in epoch") == 1, errors
        assert set(os.listdir("run")) == {"checkpoint.pt", "config.json", "environment.json", "metrics.csv"}
        state = load_checkpoint(Path("run"))
        reached.append((state["epoch"], state["step"]))
        if again:
            assert f"going on after epoch {reached[0][0]}, step {reached[0][1]} of 6" in output
        words = shlex.split(output.rpartition("Go on with:")[2])
        assert (
            words[:5] == ["torchrun", "--nproc-per-node", "2", "-m", "vdropkern"] and words[-1] == "--resume"
        )
    assert reached[0] < reached[1]
