"""The estimator study: its numbers, its report, its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vdropkern.cli.app import app
from vdropkern.recipes import estimator_study as study

SMALL = study.StudyConfig(widths=(2, 8), samples=(20, 40), rows=300, repeats=2)


def test_numbers_and_report(tmp_path: Path) -> None:
    told: list[str] = []
    document = study.run(SMALL, told.append)
    assert [line.split(" done")[0] for line in told] == ["width 2", "width 8"]
    again = study.run(SMALL)
    assert again["results"] == document["results"]
    for result in document["results"]:
        assert result["decrease"].keys() == set(SMALL.names)
        assert result["cosines"]["cdg"]["total"] == pytest.approx(1.0)
        assert max(result["decrease"]["cdg"]) > 0
    rows = study.ratios(document)
    assert [r["ratio"] for r in rows if r["name"] == "cdg"] == [1.0, 1.0]
    published = {r["name"]: r["published"] for r in rows if r["width"] == 8}
    assert published["swish"] == pytest.approx(0.04291 / 0.03874)
    assert published["nes-20"] is None
    report = study.write(document, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(study.WRITTEN)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(document))
    page = report.read_text()
    assert "published ratio" in page
    assert "polynomial" in page


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "StudyConfig", lambda seed: replace(SMALL, seed=seed))
    run = CliRunner().invoke
    out = tmp_path / "run"
    result = run(app, ["train", study.NAME, "--seed", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "results.json").read_text())["config"]["seed"] == 3
    assert run(app, ["train", study.NAME, "--seed", "3", "--out", str(out)]).exit_code == 2
    assert run(app, ["train", study.NAME, "--epochs", "3"]).exit_code == 2
    assert run(app, ["train", study.NAME, "--seed", "3", "--out", str(out), "--overwrite"]).exit_code == 0
