"""The reading of machine code and the budgets, on samples: no compiler and no disassembler is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu import budgets, gates, occupancy, sass, traffic, verify
from gpu.budgets import Row
from gpu.machine_code import Result

from .traffic_report import report

CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
.L_x_1:
        /*0020*/              @!P0 LDS R5, [R6] ;
.L_x_0:
        /*0030*/                   HMMA.16816.F32 R8, R4, R6, R8 ;
        /*0040*/                   HMMA.16816.F32 R12, R4, R6, R12 ;
        /*0050*/               @P1 BRA `(.L_x_0) ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
        /*0070*/                   STG.E.128 [R2.64], R8 ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
        /*00a0*/                   NOP;
"""


def kernel(code: str = CODE, name: str = "k", **fields: int) -> sass.Kernel:
    given = {"threads": 256, "registers": 64, "stack": 0, "shared": 0} | fields
    return sass.Kernel(name=name, architecture="sm_90", instructions=sass._instructions(code), **given)


def test_instructions_are_read_with_predicates_and_targets() -> None:
    k = kernel()
    assert [i.name for i in k.instructions][2:4] == ["LDS", "HMMA.16816.F32"]
    assert k.count("NOP") == 0 and k.count(r"LDG\.\S*128") == 1
    assert [i.target for i in k.instructions if i.target is not None] == [0x30, 0x20, 0x90]


def test_the_main_loop_is_the_innermost() -> None:
    assert [i.address for i in kernel().hot_loop("HMMA")] == [0x30, 0x40, 0x50]
    assert gates.cost(kernel()) == ("mma", 1.5)
    assert len(kernel().hot_loop("FFMA")) == len(kernel().instructions)


def test_names_are_shortened() -> None:
    long = "void vdk::cuda::f<vdk::cuda::P<vdk::cuda::M<3, 1>, (vdk::cuda::Pass)2, 64> >(vdk::cuda::Args)"
    assert sass.short(long) == "f<P<M<3,1>,Pass 2,64>>"
    assert sass.short("void g<float, (vdk::Prior)1, true>(g_args<float>)") == "g<float,Prior 1,true>"


@pytest.mark.parametrize(
    "code, name, fields, said",
    [
        (CODE, "k", {"stack": 16}, "stack of 16 bytes"),
        (CODE.replace("LDS R5", "LDL R5"), "k", {}, "1 loads and stores of local memory"),
        (CODE.replace("MOV R1", "DADD R1"), "k", {}, "1 float64 instructions"),
        (CODE, "lrt_product<Product<HalfMath<BFloat16>,Pass 0,64>>", {}, "no instruction like LDGSTS"),
        (CODE.replace("STG.E.128", "STG.E"), "noise_kernel<float>", {}, "no instruction like STG"),
    ],
)
def test_gates_name_what_is_wrong(code: str, name: str, fields: dict[str, int], said: str) -> None:
    assert list(gates.problems(kernel())) == []
    assert any(said in line for line in gates.problems(kernel(code, name, **fields)))
    assert list(gates.problems(kernel(CODE.replace("MOV R1", "DADD R1"), "noise_kernel<double>"))) == []


def test_occupancy_is_cudas() -> None:
    """Against CUDA's occupancy calculator: registers, shared memory and threads as the limit."""
    assert occupancy.share("sm_80", 256, 32, 0) == 1.0
    assert occupancy.share("sm_80", 256, 255, 0) == 0.125
    assert occupancy.share("sm_90", 256, 128, 74 * 1024) == 0.25
    assert occupancy.share("sm_86", 1024, 32, 0) == pytest.approx(2 / 3)
    assert occupancy.blocks("sm_86", 128, 32, 100 * 1024) == 0


def test_budgets_say_what_became_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "FOLDER", tmp_path / "budgets")
    was = Row(64, 0, 1024, 0.5, 20.0, "mma")
    budgets.write("sm_90", {"cuda": "13.0"}, {"nvcc": {"a": was, "b": was}})
    assert budgets.read("sm_90") == ({"cuda": "13.0"}, {"nvcc": {"a": was, "b": was}})
    assert budgets.compare("nvcc", "sm_90", {"a": was, "b": was}) == {}
    worse = Row(80, 8, 2048, 0.25, 21.0, "mma")
    found = budgets.compare("nvcc", "sm_90", {"a": worse, "c": was})
    assert found["a"] == [
        "registers 64 -> 80",
        "stack 0 -> 8",
        "shared 1024 -> 2048",
        "occupancy 0.5 -> 0.25",
        "instructions a mma 20.0 -> 21.0",
    ]
    assert found["b"] == ["has a budget and is no more: --update"]
    assert found["c"] == ["has no budget: --update"]
    better = Row(60, 0, 1024, 0.5, 19.0, "mma")
    assert budgets.compare("nvcc", "sm_90", {"a": better, "b": was}) == {}


def test_waves_go_to_and_fro() -> None:
    """Tiles (0, 0) (0, 1) | (0, 2) (1, 2) | (1, 1) (1, 0): four rows and five columns."""
    assert traffic.waves(down=2, across=3, band=1, programs=2, row=1, column=10) == 54


def test_traffic_is_summed_by_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "traffic.jsonl"
    assert traffic.counted(path) == {}
    monkeypatch.setenv("VDROPKERN_TRAFFIC_REPORT", str(path))
    name = "f<Product<Tf32Math<1, 1>, Pass::kInput, 64> >"
    report("nvcc", name, moved=10, least=10)
    report("nvcc", name, moved=20, least=10)
    report("triton", "g_kernel", moved=8, least=8)
    assert traffic.counted(path) == {
        ("nvcc", "f<Product<Tf32Math<1,1>,Pass 1,64>>"): 1.5,
        ("triton", "g_kernel"): 1.0,
    }


def test_kernels_that_move_too_much_or_never_ran_fail() -> None:
    row = Row(64, 0, 1024, 0.5, 20.0, "mma")
    results = [Result("nvcc", "sm_90", name, row, function=name) for name in ("good", "heavy", "unknown")]
    counted = {("nvcc", "good"): 1.0, ("nvcc", "heavy"): 1.3}
    assert not verify.hold_traffic(results, counted, complete=True)
    assert [r.heavy for r in results] == ["", "moves 1.30 times the least", "was not run by any test"]
    table = verify.table(results, {"1": True, "2": False})
    good, heavy, unknown = table.splitlines()[1:]
    assert good.endswith("1.00  1 2:FAIL 5 6")
    assert heavy.endswith("1.30  1 2:FAIL 5 6:FAIL moves 1.30 times the least")
    assert unknown.endswith("-  1 2:FAIL 5 6:FAIL was not run by any test")
    assert verify.hold_traffic(results[:1], counted, complete=True)
