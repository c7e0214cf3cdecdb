"""The benchmark's own logic: what is compared with what, what is told and what is refused."""

from __future__ import annotations

import importlib
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from vdropkern import functional as vF

from . import (
    bench_linear_lrt,
    cases,
    docs,
    gate,
    peers,
    plot,
    report,
    run,
    sparse,
    sparse_peers,
    specs,
    worker,
)
from .bench_conv2d_lrt import errors
from .memory import peak_bytes, saved_bytes
from .rows import problems, rows
from .stats import paired_ratio, spread
from .step import Step, inputs
from .timing import interleave, plan

TINY = specs.Net((24, 16, 8), batch=5, input_grad=True)


def _record(label: str, ms: list[float], **more: Any) -> dict[str, Any]:
    counts = {"minor_faults": [7.0], "system_ms": [0.5], "seconds": 1.0, "preempted": 0}
    return (
        {"label": label, "status": "ok", "baseline": None, "rounds": [*range(len(ms))], "ms": ms}
        | counts
        | more
    )


def _document() -> dict[str, Any]:
    step = {
        "dense": _record("dense torch layer", [10.0, 12.0, 20.0], saved_bytes=0),
        "vdropkern": _record("vdropkern", [15.0, 18.0, 30.0], saved_bytes=4096, peak_bytes=3 << 20),
        "torchbnn": {
            "label": "torchbnn",
            "status": "missing",
            "why": "pip install torchbnn",
            "baseline": None,
        },
    }
    kl = {"eager": _record("eager", [10.0, 10.0]), "vdropkern": _record("vdropkern", [2.0, 2.0])}
    names = ("cpu", "cpus", "system", "vdropkern", "commit", "torch", "python")
    machine: dict[str, Any] = dict.fromkeys(names, "x")
    machine |= {
        "torch_cpu_capability": "x",
        "huge_pages": "madvise",
        "date": "2030-01-01T00:00:00",
        "peers": {},
    }
    return {
        "machine": machine,
        "threads": 2,
        "backend": {"linear_lrt": "linear_lrt: cpu (avx2): the fastest that can run"},
        "results": [
            {"case": "linear-1024-b128", "memory": "default", "status": "ok", "contenders": step},
            {"case": "kl-1M", "memory": "default", "status": "ok", "contenders": kl},
            {"case": "kl-262k", "memory": "default", "status": "red", "gate": ["one pass: KL: too far"]},
        ],
    }


def test_spread_and_paired_ratio() -> None:
    assert spread([3.0]).median == 3.0
    found = spread([float(i) for i in range(11)])
    assert (found.p20, found.median, found.p80, found.n) == (2.0, 5.0, 8.0, 11)
    # rounds 0 and 2 are shared; the medians alone would say 2 / 9
    guest, base = {"rounds": [0, 2], "ms": [2.0, 2.0]}, {"rounds": [0, 1, 2], "ms": [1.0, 9.0, 10.0]}
    ratio = paired_ratio(guest, base)
    assert ratio is not None
    assert ratio.median == pytest.approx((2.0 + 0.2) / 2)
    assert paired_ratio({"rounds": [5], "ms": [1.0]}, base) is None


def test_plan_keeps_the_rounds_that_are_promised() -> None:
    rounds, parts = plan({"dense": 1.0, "slow": 50.0}, {"dense"}, budget_s=1.0, min_rounds=30)
    assert (rounds, parts) == (30, {"dense": 30, "slow": 5})
    rounds, parts = plan({"dense": 0.1, "slow": 0.2}, {"dense"}, budget_s=20.0, min_rounds=30)
    assert rounds == 120
    assert parts["slow"] == 40


def test_interleave_times_every_contender_in_its_rounds() -> None:
    runs: dict[str, Callable[[], object]] = {
        "core": lambda: time.sleep(0.002),
        "guest": lambda: time.sleep(0.02),
    }
    samples = interleave(runs, {"core"}, budget_s=0.0, min_rounds=12)
    assert list(samples["core"].ms) == [*range(12)]
    assert len(samples["guest"].ms) == 2
    assert set(samples["guest"].ms) < set(samples["core"].ms)
    assert min(samples["core"].ms.values()) >= 2.0


def test_registry_is_consistent() -> None:
    names = [case.name for case in cases.CASES]
    assert len(names) == len(set(names))
    for case in cases.CASES:
        known = cases.contenders(case)
        assert known[cases.TABLES[case.table].baseline].core
        assert case.target is None or case.target.contender in known
        assert {c.baseline for c in known.values() if c.baseline} <= set(known)
        assert set(case.memory) <= set(run.MEMORY)


def test_gate_is_green_and_goes_red(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench_linear_lrt.gate(TINY) == []
    right = vF.__dict__["_linear_lrt"]

    def slightly_wrong(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        y, kl = right(*args)
        return (y * 1.0001 if y.dtype == torch.float32 else y), kl

    monkeypatch.setattr(vF, "_linear_lrt", slightly_wrong)
    assert any(line.startswith("vdropkern: y") for line in bench_linear_lrt.gate(TINY))
    case = specs.Case("tiny", "tiny", "linear_lrt", "step", TINY, 0.1)
    result = worker.measure(case, ["dense", "vdropkern"], rounds=1, budget_s=0.1)
    assert result["status"] == "red"
    assert "contenders" not in result


@pytest.mark.parametrize(
    ("bench", "spec"),
    [
        ("conv2d_lrt", specs.Conv(5, 18, 7, 3, padding=1, layout="nhwc")),
        ("conv2d_lrt", specs.Conv(6, 6, 9, 2, kernel=2, stride=2, groups=3)),
        ("conv2d_lrt", specs.ConvNet(2)),
        ("kl", specs.Size(7, 33)),
        ("philox_normal", specs.Size(7, 33)),
        ("spmm", specs.Pruned((64, 50, 10), (0.9, 0.5), batch=5)),
        ("overhead", specs.Call(1, 8, 8, "backward")),
    ],
)
def test_gates_and_contenders_of_every_op(bench: str, spec: Any) -> None:
    case = specs.Case("small", "small", bench, bench, spec, budget_s=0.1)
    assert cases.module(case).gate(spec) == []
    for contender in cases.contenders(case).values():
        compiled = contender.label.startswith(
            "torch.compile"
        )  # half a minute, for what runs eagerly beside it
        if not compiled and contender.package is None:
            contender.make(spec)()


def test_steps_that_do_not_train_are_found() -> None:
    module = torch.nn.Linear(24, 8)
    x, g = inputs(specs.Net((24, 8), 5, input_grad=True))
    silent = Step(module, x, g, lambda x: (module(x), None))
    assert silent.check() == ["two forward passes agree"]
    dead = Step(module, x, g, lambda x: (torch.nn.functional.linear(x, module.weight), None), noisy=False)
    assert dead.check() == ["bias has no gradient"]


@pytest.mark.parametrize("name", [name for name, c in bench_linear_lrt.CONTENDERS.items() if c.package])
def test_peers_take_real_steps(name: str) -> None:
    try:
        step = bench_linear_lrt.CONTENDERS[name].make(TINY)
    except specs.MissingError as err:
        pytest.skip(str(err))
    assert isinstance(step, Step)
    assert step.check() == []


def test_missing_peer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(peers, "importlib", SimpleNamespace(import_module=refuse))
    with pytest.raises(specs.MissingError, match="pip install torchbnn"):
        bench_linear_lrt.CONTENDERS["torchbnn"].make(TINY)


def test_saved_for_backward_is_the_standard_deviation_and_the_seed() -> None:
    net = specs.Net((24, 16), batch=5, input_grad=True)
    step = bench_linear_lrt.CONTENDERS["vdropkern"].make(net)
    assert isinstance(step, Step)
    assert saved_bytes(step) == 5 * 16 * 4 + 8
    assert peak_bytes(lambda: torch.empty(1000)) == 4000


def test_tables_tell_the_winners_the_losers_and_the_refused() -> None:
    document = _document()
    measured = {(row.case.name, row.name): row for row in rows(document)}
    assert measured["linear-1024-b128", "vdropkern"].verdict() == "must"  # 1.5: <= 1.8, not <= 1.3
    assert measured["kl-1M", "vdropkern"].verdict() == "missed"  # 5 times faster, not 8
    assert measured["linear-1024-b128", "dense"].verdict() is None
    assert problems(document) == ["kl-262k (default): RED GATE, no speed is told: one pass: KL: too far"]
    for width in (100, 200):
        console = Console(file=io.StringIO(), width=width)
        report.show(document, console)
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        for part in (
            "1.50 (1.50-1.50)",
            "torchbnn: missing: pip install torchbnn",
            "RED GATE",
            "4 KiB",
            "3 MiB",
        ):
            assert part in shown
    assert (plot.png(document) or b"").startswith(b"\x89PNG")
    document["results"] = document["results"][1:]
    assert plot.png(document) is None


def test_docs_change_between_their_marks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    mark = "<!-- {0}: begin -->\nstale\n<!-- {0}: end -->\n"
    page.write_text("top\n" + mark.format("ratios") + "middle\n" + mark.format("tables") + "bottom\n")
    readme = tmp_path / "README.md"
    readme.write_text(mark.format("ratios"))
    monkeypatch.setattr(docs, "PAGE", page)
    monkeypatch.setattr(docs, "README", readme)
    monkeypatch.setattr(docs, "PICTURE", tmp_path / "images" / "speed.png")
    document = _document()
    with pytest.raises(ValueError, match="red or failed"):
        docs.update(document, b"png")
    document["results"].pop()
    with pytest.raises(ValueError, match=r"lacks .* such as kl-16\.7M under default"):
        docs.update(document, b"png")
    whole = [
        replace(case, memory=("default",))
        for case in cases.CASES
        if case.name in ("linear-1024-b128", "kl-1M")
    ]
    monkeypatch.setattr(cases, "CASES", tuple(whole))
    with pytest.raises(ValueError, match="no claim"):
        docs.update(document | {"quick": True}, b"png")
    docs.update(document, b"png")
    text = page.read_text()
    assert "stale" not in text
    assert text.startswith("top\n") and "\nmiddle\n" in text and text.endswith("\nbottom\n")
    assert "| vdropkern | 1.50 |" in text and docs.PICTURE.read_bytes() == b"png"
    assert "| vdropkern | 1.50 |" in readme.read_text()
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"benchmarks\.md must have one"):
        docs.update(document, None)
    assert page.read_text() == "no marks"


def test_runs_are_merged_only_if_alike() -> None:
    first, second = _document(), _document()
    for document in (first, second):
        document |= {"isa": "avx2", "held_to_isa": None}
        document["machine"]["cpus"] = 2
    first["results"], second["results"] = first["results"][1:], second["results"][:2]
    second["results"][1]["contenders"]["vdropkern"]["label"] = "later"
    merged = run.merge([first, second])
    assert [r["case"] for r in merged["results"]] == ["linear-1024-b128", "kl-262k", "kl-1M"]
    assert merged["results"][2]["contenders"]["vdropkern"]["label"] == "later"
    second["machine"]["torch"] = "other"
    with pytest.raises(ValueError, match="differ in torch: x and other"):
        run.merge([first, second])


def test_command_line_refuses_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for module, arguments, part in (
        ("__main__", ["--case", "nosuch"], "no case begins so"),
        ("__main__", ["--case", "kl", "--contender", "nosuch"], "unknown here; there are"),
        ("__main__", ["--case", "kl-1M", "--memory", "thp"], "nothing to run"),
        ("__main__", ["--from-json", "/nonexistent.json"], "No such file"),
        ("__main__", ["--from-json", __file__], "--from-json: Extra data"),
        ("__main__", ["--case", "kl-1M", "--out", __file__], "--out: [Errno 17] File exists"),
        ("__main__", ["--threads", "100000000000"], "'100000000000' given, 1 to 1,024 accepted"),
        ("__main__", ["--rounds", "few"], "'few' given, 1 to 1,000,000 accepted"),
        ("sparse", ["--threads", "0"], "'0' given, 1 to 1,024 accepted"),
        ("sparse", ["--from-json", "/nonexistent.json"], "No such file"),
        ("crossover", ["--check", "0"], "'0' given, 1 to 1,000,000 accepted"),
    ):
        main = importlib.import_module(f"bench.{module}").main
        monkeypatch.setattr("sys.argv", ["bench", *arguments])
        try:
            status = main()
        except SystemExit as err:
            status = err.code
        assert status == 2
        assert part in capsys.readouterr().err


def test_commands_in_the_documentation_are_understood():
    main = importlib.import_module("bench.__main__")
    pages = [run.ROOT / "README.md", run.ROOT / "CONTRIBUTING.md", *(run.ROOT / "docs").rglob("*.md")]
    for page in pages:
        for words in re.findall(
            r"python -m bench((?: +|\n)[^`#\n]+(?:\n[^`#\n]+(?=`))?)?[`#\n]", page.read_text()
        ):
            arguments = main._parser().parse_args(words.split())
            assert main._chosen_cases(arguments.case, arguments.page), f"{page.name}: {words}"


def test_worker_runs_a_case_from_end_to_end(tmp_path: Path) -> None:
    case, options = (
        cases.by_name("overhead-forward"),
        run.Options([], ["eager"], rounds=2, quick=True, threads=1),
    )
    result = run.run_one(case, "default", options)
    assert result["status"] == "ok", result
    assert set(result["contenders"]) == {"dense", "eager"}
    path = tmp_path / "out" / "bench.json"
    run.write_whole(path, json.dumps(run.gather([result], options)).encode())
    assert [row.name for row in rows(json.loads(path.read_text()))] == ["dense", "eager"]


@pytest.mark.parametrize("kernel, layout", [(1, "nhwc"), (3, "nchw"), (3, "nhwc")])
def test_convolutions_are_exact(kernel: int, layout: str) -> None:
    found = errors(specs.Conv(16, 24, 9, 3, kernel=kernel, padding=kernel // 2, layout=layout))
    assert [*found] == ["m", "v", "d weight", "d bias", "d log_sigma2", "d x"]
    assert all(0 < error <= 1e-5 for error in found.values()), found


def test_sparse_tables_change_between_their_marks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text("top\n<!-- sparse-2: begin -->\nstale\n<!-- sparse-2: end -->\nbottom\n")
    cell = {"kind": "linear", "title": "300x784", "sparsity": 0.9, "batch": 8, "must": 10, "red": []}
    record = {**cell, "ms": {"dense": 0.1}, "speedup": {"vdropkern": [9.5, 9.0, 9.9], "scipy": [1.25] * 3}}
    machine = {"cpu": "a CPU", "torch": "2.13.0", "commit": "abc", "date": "2026-01-01"}
    document = {"machine": machine, "isa": "avx2", "threads": 2, "records": [record]}
    (tmp_path / "given.json").write_text(json.dumps(document))
    monkeypatch.setattr(sparse, "PAGE", page)
    given = ["sparse", "--from-json", str(tmp_path / "given.json"), "--out", str(tmp_path), "--docs"]
    monkeypatch.setattr("sys.argv", given)
    sparse.main()
    text = page.read_text()
    row = "| 300x784 | 90 % | 8 | 100 | 9.5 (9.0-9.9) | 10: missed | 1.2 |"
    assert text.startswith("top\n") and text.endswith("\nbottom\n") and row in text and "stale" not in text


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_other_runtimes_compute_in_float32(peer: str):
    pytest.importorskip("onnx")
    pytest.importorskip(peer)
    layer, x = torch.nn.Linear(256, 64), torch.randn(8, 256)
    with torch.no_grad():
        truth = torch.relu(layer.double()(x.double()))
        found = sparse_peers.CONV_PEERS[peer](layer.float())(x)
    assert gate.compare({peer: found}, {peer: truth}, layer.in_features) == []
