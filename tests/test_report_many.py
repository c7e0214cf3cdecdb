"""Reports of several runs: grouped over seeds, judged by published numbers, readable on a phone."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vdropkern.recipes import RECIPES
from vdropkern.recipes.checkpoint import CheckpointError, save_checkpoint
from vdropkern.recipes.compare import RunRecord, collect, compare, comparisons, group, margin
from vdropkern.recipes.compare_figures import Point, front, left_by_layer
from vdropkern.recipes.compare_tables import Row, Table, cells_table, costs_table, published_table, size
from vdropkern.recipes.config import TrainConfig
from vdropkern.recipes.published import PUBLISHED, published_for
from vdropkern.recipes.sweep import STAMP_NAME, SWEEP_NAME

from . import browser
from .command_line import run as cli
from .test_report import history, read, results

RECIPE = "lenet-300-100"


def run(method: str = "sparse-vd", seed: int = 0, error: float = 1.9, **changes: Any) -> dict[str, Any]:
    """What results.json holds after a run of the published length."""
    made = copy.deepcopy(results())
    made["config"] = {"recipe": RECIPE, "method": method, "epochs": 200, "lr": 1e-3, "seed": seed}
    made["test"]["pruned_error"] = error
    if method == "none":
        made["total"] = {"weights": 266_200, "nonzero": 266_200, "sparsity": 0.0}
        made["layers"] = [{"name": "fc1", "weights": 235_200, "nonzero": 235_200, "sparsity": 0.0}]
    made["config"] |= changes.pop("config", {})
    return {**made, **changes}


def write(folder: Path, document: dict[str, Any], **stamp: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(document))
    if stamp:
        (folder / STAMP_NAME).write_text(json.dumps(stamp))
    return folder


def records(*documents: dict[str, Any]) -> list[RunRecord]:
    return [RunRecord(document, None) for document in documents]


def row(table: Table | None, first: str) -> dict[str, str]:
    """A row by its first cell, its cells by their column; a name that stands twice counts from the left."""
    assert table is not None
    (found,) = [row.cells for row in table.rows if row.cells[0] == first]
    return dict(reversed(list(zip(table.head, found, strict=True))))


# -- numbers


def test_runs_that_differ_in_their_seeds_alone_are_one_group() -> None:
    found = group(
        records(run(seed=0, error=1.8), run("none"), run(seed=1, error=2.0), run(config={"lr": 2e-3}))
    )
    assert list(found) == [RECIPE]
    assert [(own.label, len(own.runs)) for own in found[RECIPE]] == [
        ("sparse-vd, lr 0.001", 2), ("none, lr 0.001", 1), ("sparse-vd, lr 0.002", 1),
    ]  # fmt: skip
    own = found[RECIPE][0]
    assert own.mean("error") == pytest.approx(1.9)
    assert own.spread("error") == pytest.approx(math.sqrt(0.02))
    assert found[RECIPE][1].spread("error") is None


def test_other_data_or_recipes_are_other_groups() -> None:
    elsewhere = run(data={**results()["data"], "name": "others", "sha256": "cd"})
    found = group(records(run(), elsewhere, run(recipe="lenet-5")))
    assert {recipe: [own.label for own in groups] for recipe, groups in found.items()} == {
        RECIPE: ["sparse-vd, IDX files", "sparse-vd, others"], "lenet-5": ["sparse-vd"],
    }  # fmt: skip


def test_the_table_of_runs() -> None:
    table = cells_table(
        group(records(run(error=1.8), run(seed=1, error=2.0), run("none", error=1.5)))[RECIPE]
    )
    pruned, dense = row(table, "sparse-vd"), row(table, "none")
    assert pruned["error, %"] == "1.90 ± 0.14"
    assert pruned["best, %"] == "2.50 ± 0.00"  # of the history: 10 / 4
    assert pruned["compression"] == "68.3 ± 0.0"
    assert pruned["sparsity"] == "98.9"
    assert (dense["seeds"], dense["error, %"], dense["compression"]) == ("1", "1.50", "1.0")


@pytest.mark.parametrize(
    "error, verdict", [(1.92, "within"), (2.29, "within"), (2.35, "worse"), (1.5, "better")]
)
def test_verdicts_of_a_run_at_the_published_scale(error: float, verdict: str) -> None:
    """The published 1.92 % of 10,000 are known to 2 sqrt(2 · 0.0192 · 0.9808 / 10,000) = 0.388 points."""
    assert margin(1.92, 10_000) == pytest.approx(0.3881, abs=1e-4)
    (own,) = group(records(run(error=error)))[RECIPE]
    (theirs,) = [p for p in published_for(RECIPE) if p.error == 1.92 and p.compression == 68]
    found = compare(own, theirs)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(error - 1.92)
    assert found.compression_ratio == pytest.approx(266_200 / 3_900 / 68)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"config": {"epochs": 5}}, "not comparable: 5 of 200 epochs"),
        (
            {"data": {**results()["data"], "train_size": 4_000, "note": "a subset"}},
            "not comparable: 4,000 of 60,000 training examples",
        ),
        ({"data": {**results()["data"], "note": "JPEG copy"}}, "not comparable: JPEG copy"),
    ],
)
def test_runs_of_another_scale_are_not_judged(changes: dict[str, Any], said: str) -> None:
    groups = group(records(run(error=0.1, **changes)))[RECIPE]
    found, _ = comparisons(RECIPE, groups)
    assert {comparison.verdict for comparison in found} == {said}


def test_every_published_row_is_shown_once_repeated_or_not() -> None:
    groups = group(records(run(), run("ard")))[RECIPE]
    table = published_table(RECIPE, groups)
    assert table is not None
    assert len(table.rows) == len(published_for(RECIPE))
    assert {r.cells[table.head.index("here")] for r in table.rows} == {"sparse-vd", ""}
    assert row(table, "pruning (Han et al. 2015)")["compression"] == "12"
    assert row(table, "sparse variational dropout, Molchanov et al.")["compression"] == "68 (1.00)"
    assert published_table("no such recipe", groups) is None


def test_rows_measured_on_a_noisy_sample_compare_to_a_noisy_sample() -> None:
    rows = published_for("cifar-dropout")
    (published,) = [p for p in rows if p.label == "SparseB, on W, scale 1.5"]
    assert (published.error, published.best, published.measured) == (45.09, 44.62, "sample")
    settings = {"recipe": "cifar-dropout", "epochs": 100, **published.match}
    accuracy = {"test": {"last": 60.0, "best": 61.0}, "sample": {"last": 54.0, "best": 54.38}}
    whole = run(recipe="cifar-dropout", error=40.0, config=settings, accuracy=accuracy)
    whole["data"] |= {"train_size": 50_000, "note": ""}
    groups = group(records(whole))["cifar-dropout"]
    compared = compare(groups[0], published)
    assert compared.error == pytest.approx(46.0)
    assert compared.difference == pytest.approx(0.91)
    assert compared.best_difference == pytest.approx(1.0)
    assert compared.verdict == "within"  # 1.41 points
    shown = published_table("cifar-dropout", groups)
    assert shown is not None
    assert "46.00 (sample)" in [cell for line in shown.rows for cell in line.cells]
    bare = {name: value for name, value in whole.items() if name != "accuracy"}
    assert "noisy sample not measured" in compare(group(records(bare))["cifar-dropout"][0], published).verdict


def test_means_of_the_last_ten_epochs_compare_to_such_means() -> None:
    (published,) = [p for p in published_for("xnor-resnet18") if p.label.endswith("width 64, weight decay 0")]
    settings = {"recipe": "xnor-resnet18", "epochs": 200, **published.match}
    accuracy = {"test": {"last": 80.0, "best": 91.0, "mean_of_last_ten": 90.0}}
    whole = run(recipe="xnor-resnet18", error=20.0, config=settings, accuracy=accuracy)
    groups = group(records(whole))["xnor-resnet18"]
    assert compare(groups[0], published).error == pytest.approx(10.0)
    assert not published.fits("xnor-resnet18", {**settings, "binary": False})


def test_published_numbers_are_whole() -> None:
    for published in PUBLISHED:
        assert 0 < published.error < 100
        assert published.best is None or published.best <= published.error
        assert all(0 <= part <= 100 for part in published.sparsity)
        assert published.source and published.label
    labels = [(p.recipe, p.label, p.source) for p in PUBLISHED]
    assert len(set(labels)) == len(labels)
    assert sum(p.recipe == "cifar-dropout" for p in PUBLISHED) == 21 * 3


def test_costs_come_from_stamp_files_and_results(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", run(), peak_memory=519_000_000)
    (folder / "pruned.safetensors").write_bytes(bytes(12_300))
    found, _ = collect([folder])
    costs = row(costs_table(group(found)[RECIPE]), "sparse-vd")
    assert costs == {
        "settings": "sparse-vd", "training": "1:02:03", "an epoch": "18.61 s", "threads": "2",
        "peak memory": "519 MB", "pruned net": "12.3 KB", "inference, times dense": "6.54x at 1",
    }  # fmt: skip


def test_a_slim_run_gives_the_same_tables(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", run(), peak_memory=5)
    (folder / "pruned.safetensors").write_bytes(b"12")
    (whole,), _ = collect([folder])
    (tmp_path / "a.json").write_text(json.dumps({"runs": [whole.slim()]}))
    (slim,), _ = collect([tmp_path / "a.json"])
    assert "history" not in slim.results
    for tables in (cells_table, costs_table):
        assert tables(group([slim])[RECIPE]) == tables(group([whole])[RECIPE])


def test_sizes_and_empty_columns() -> None:
    assert [size(n) for n in (None, 5, 999, 1000, 3_218_450, 2e9)] == [
        "",
        "5 B",
        "999 B",
        "1 KB",
        "3.22 MB",
        "2 GB",
    ]
    table = Table("t", ("a", "b"), (Row(("1", "")), Row(("x|y", "")))).without_empty()
    assert table.head == ("a",)
    assert table.markdown() == "| a |\n| --- |\n| 1 |\n| x/y |"


def test_the_front_holds_what_nothing_beats() -> None:
    points = [Point(1, 1.5), Point(50, 2.0), Point(60, 1.8), Point(60, 1.9), Point(90, 3.0), Point(10, 1.5)]
    assert front(points) == [Point(10, 1.5), Point(60, 1.8), Point(90, 3.0)]
    assert front([]) == []


def test_weights_left_are_means_over_seeds() -> None:
    other = run(seed=1)
    other["layers"] = [{"name": "fc1", "weights": 235_200, "nonzero": 5_200, "sparsity": 0.97}]
    (own,) = group(records(run(), other))[RECIPE]
    assert left_by_layer(own) == {"fc1": pytest.approx(100 * 3_900 / 235_200)}


# -- folders


def sweep_folder(folder: Path) -> Path:
    """A sweep of two methods and two seeds, one of whose cells is not finished."""
    for method, seed, error in (("none", 0, 1.6), ("none", 1, 1.7), ("sparse-vd", 0, 1.9)):
        document = run(method, seed, error, history=history(200))
        write(folder / f"method={method}_seed={seed}", document, peak_memory=400_000_000)
    torch.manual_seed(0)
    config = TrainConfig(epochs=200)
    model = RECIPES[RECIPE].build(config)
    state = {"config": config.as_dict(), "model": model.state_dict()}
    save_checkpoint(folder / "method=sparse-vd_seed=0" / "checkpoint.pt", state)
    names = [f"method={method}_seed={seed}" for method in ("none", "sparse-vd") for seed in (0, 1)]
    (folder / SWEEP_NAME).write_text(json.dumps({"cells": [{"name": name} for name in names]}))
    return folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder with its report."""
    folder = sweep_folder(tmp_path_factory.mktemp("sweeps") / "s")
    code, text = cli("report", str(folder))
    assert code == 0, text
    return folder


def test_the_report_of_a_sweep(reported: Path) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    text, parsed = read(page.replace('<link rel="icon" href="data:,">', ""))
    for part in (
        "lenet-300-100: 3 runs", "Not finished, and not in here: method=sparse-vd_seed=1.", "1.65 ± 0.07",
        "within", "better", "Molchanov et al. 2017", "pruning (Han et al. 2015)", "400 MB", "98.9", "3:06:09",
    ):  # fmt: skip
        assert part in text, part
    assert len(parsed.addresses) == 2 * 7  # pareto, weights left, four curves, one histogram
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert "://" not in page.replace("data:", "")
    markdown = (reported / "report.md").read_text(encoding="utf-8")
    for part in (
        "| none | 2 | 1.65 ± 0.07 |",
        "### Beside published numbers",
        "vdropkern train lenet-300-100",
    ):
        assert part in markdown, part


def test_reports_of_everything_that_folders_can_be(tmp_path: Path) -> None:
    sweep_folder(tmp_path / "runs" / "s")
    write(tmp_path / "runs" / "alone", run("ard", recipe="another"))
    write(tmp_path / "more" / "one", run("ard"))
    found, missing = collect([tmp_path / "runs" / "s", tmp_path / "runs" / "alone", tmp_path / "more"])
    assert len(found) == 5
    assert missing == ["method=sparse-vd_seed=1"]
    again, _ = collect([tmp_path / "runs" / "s", tmp_path / "runs" / "s" / "method=none_seed=0"])
    assert len(again) == 3
    study = write(tmp_path / "more" / "study", {"format": 2, "recipe": "estimator-study"})
    for name in ("study.png", "report.html"):
        (study / name).touch()
    assert len(collect([tmp_path / "more"])[0]) == 1
    with pytest.raises(CheckpointError, match=r"study/results\.json: results of a training"):
        collect([study])


def test_wrong_folders_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    whole = write(tmp_path / "whole", run())
    broken = write(tmp_path / "broken", {"format": 1, "recipe": "estimator-study"})
    out, file, damaged = tmp_path / "out", tmp_path / "file", tmp_path / "damaged"
    file.touch()
    damaged.mkdir()
    (damaged / SWEEP_NAME).write_text('{"cells": [{}]}')
    for args, said in (
        ([str(damaged)], "sweep.json: damaged (KeyError('name'))"),
        ([str(whole), str(whole), "--out", str(file)], "file is a file; give a folder"),
        (["not-there"], "not-there: no such folder"),
        ([str(tmp_path / "empty")], "has the run finished?"),
        ([str(whole), str(whole)], "--out: not given; a folder"),
        ([str(tmp_path / "empty"), "--out", str(out)], "no finished run or sweep there"),
        ([str(broken), str(broken), "--out", str(out)], "results without config, data, test, seconds"),
        ([str(broken), str(broken), "--out", str(broken)], "holds a run with files of its own"),
    ):
        code, text = cli("report", *args)
        assert code == 2
        assert said in text
    assert not out.exists()
    with pytest.raises(CheckpointError, match="format 1 expected"):
        collect([write(tmp_path / "old", {"format": 0})])


def test_runs_without_history_layers_and_times_are_reported(tmp_path: Path) -> None:
    """Of recipes that prune nothing, say: what is not there is left out."""
    bare = {name: run("none")[name] for name in ("format", "recipe", "config", "data", "test", "seconds")}
    write(tmp_path / "a", {**bare, "recipe": "bare <one>"})
    code, text = cli("report", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "out"))
    assert code == 0, text
    text, parsed = read(
        (tmp_path / "out" / "report.html").read_text().replace('<link rel="icon" href="data:,">', "")
    )
    assert "bare <one>: 1 run" in text
    assert parsed.addresses == []


# -- in a browser


def needs_browser(test: Any) -> Any:
    return pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on PATH")(test)


@needs_browser
def test_the_report_fits_a_phone_and_complains_of_nothing(reported: Path, tmp_path: Path) -> None:
    found, complaints = browser.measure((reported / "report.html").read_text(), 390, tmp_path)
    assert complaints == []
    assert found == {"width": 390, "scrollWidth": 390, "images": 7, "broken": 0, "nameless": 0}
    for dark in (False, True):
        out = tmp_path / f"{dark}.png"
        assert browser.screenshot(reported / "report.html", out, (390, 1600), dark=dark) == []
    assert mean_brightness(tmp_path / "False.png") > 0.8
    assert mean_brightness(tmp_path / "True.png") < 0.3


def mean_brightness(path: Path) -> float:
    from matplotlib.image import imread

    image: Any = imread(path)
    assert image.shape[:2] == (1600, 390)
    return float(image[..., :3].mean())


@needs_browser
def test_the_browser_tells_of_faults(tmp_path: Path) -> None:
    page = '<p style="width: 500px">wide</p><img src="data:,x"><script>nothing.there</script>'
    found, complaints = browser.measure(page, 390, tmp_path)
    assert found["scrollWidth"] >= 500
    assert (found["broken"], found["nameless"]) == (1, 1)
    assert any("nothing is not defined" in line for line in complaints)


def test_one_run_folder_is_drawn_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[Path]] = []
    monkeypatch.setattr("vdropkern.cli.train.rebuild_report", lambda folder: seen.append([folder]))
    folder = write(tmp_path / "a", run())
    assert cli("report", str(folder))[0] == 0
    assert seen == [[folder]]
