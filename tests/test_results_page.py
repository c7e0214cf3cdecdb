"""docs/results.md holds the tables of the runs stored beside it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .test_report_many import records, run


def generator() -> Any:
    path = Path(__file__).parents[1] / "docs" / "generate_results.py"
    if not path.exists():
        pytest.skip("not in a source tree")
    spec = importlib.util.spec_from_file_location("generate_results", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_results_page_are_those_of_the_stored_runs() -> None:
    """To write them: make results."""
    made = generator()
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text


def test_stored_runs_hold_no_folder_of_the_machine_that_made_them() -> None:
    for path in generator().STORED.glob("*.json"):
        assert path.stat().st_size < 100_000
        # an absolute path, at the start of a string or of a word of a command
        assert not re.search(r'["\s=](/\w|[A-Za-z]:\\)', path.read_text(encoding="utf-8")), path.name


def test_marks_and_stored_runs_belong_together(tmp_path: Path) -> None:
    made = generator()
    (record,) = records(run())
    (tmp_path / "a.json").write_text(json.dumps({"runs": [record.slim()]}))
    text = made.page("x\n<!-- results: a: begin -->\nold\n<!-- results: a: end -->\ny\n", tmp_path)
    assert "old" not in text
    assert text.startswith("x\n<!-- results: a: begin -->\n\n| settings | seeds |")
    assert text.endswith("\n<!-- results: a: end -->\ny\n")
    assert made.page(text, tmp_path) == text
    for wrong in ("", text + text, text.replace("results: a:", "results: b:")):
        with pytest.raises(ValueError, match="must have marks"):
            made.page(wrong, tmp_path)
