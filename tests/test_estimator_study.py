"""The estimator study: its numbers, its report, its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vdropkern.cli.app import app
from vdropkern.recipes import estimator_study as study

SMALL = study.SCALES["smoke"]


def test_numbers_and_report(tmp_path: Path) -> None:
    told: list[str] = []
    document = study.run(SMALL, told.append)
    assert [line.split(" done")[0] for line in told][:2] == ["width 2", "width 8"]
    again = study.run(SMALL)
    assert again["results"] == document["results"]
    assert again["questions"] == document["questions"]
    answers = {q["name"]: {row["label"]: row for row in q["rows"]} for q in document["questions"]}
    assert len(answers) == len(told) - 2 == 7
    final = answers["mu or a sample as the final weights"]
    samples, best = final["a sample"], final["the best of 100 samples on the batch"]
    assert best["batch"] <= samples["batch"]
    at_rest = answers["from STE to NES at rest"].pop("at rest")["loss"]
    assert all(row["loss"] <= at_rest for row in answers["from STE to NES at rest"].values())
    block = answers["one layer of a residual block"]
    assert block["cdg"]["cosine"] == pytest.approx(1.0)
    assert block.keys() == {"cdg", "nes", "hard-tanh", "steep", "swish", "polynomial"}
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


def _write(document: dict[str, Any], out: Path) -> Path:
    (out / "results.json").write_text(json.dumps(document))
    return out / "report.html"


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "run", lambda config, told: {"config": {"seed": config.seed}})
    monkeypatch.setattr(study, "write", _write)
    run = CliRunner().invoke
    out = tmp_path / "run"
    result = run(app, ["train", study.NAME, "--seed", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "results.json").read_text()) == {"config": {"seed": 3}}
    bad = run(app, ["train", study.NAME, "--scale", "huge", "--out", str(tmp_path / "other")])
    assert bad.exit_code == 2
    assert "smoke, small, full" in bad.output
    assert run(app, ["train", study.NAME, "--seed", "3", "--out", str(out)]).exit_code == 2
    assert run(app, ["train", study.NAME, "--epochs", "3"]).exit_code == 2
    further = run(app, ["train", study.NAME, "rows", "--out", str(tmp_path / "other")])
    assert (further.exit_code, (tmp_path / "other").exists()) == (2, False)
    assert "not rows" in " ".join(further.output.split())
    far = run(app, ["train", study.NAME, "--seed", str(2**62), "--out", str(tmp_path / "far")])
    assert (far.exit_code, (tmp_path / "far").exists()) == (2, False)
    assert "0 to 1,000,000,000,000,000 accepted" in far.output
    assert run(app, ["train", study.NAME, "--seed", "3", "--out", str(out), "--overwrite"]).exit_code == 0
