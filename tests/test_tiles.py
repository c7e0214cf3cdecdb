"""Choice of the Triton kernels' tiles, their files, and the logic of tuning: all without a GPU or Triton."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vdropkern
from vdropkern.cli.app import app
from vdropkern.ops._launch import Device
from vdropkern.ops.linear_lrt import tiles, tune
from vdropkern.ops.linear_lrt.tiles import ARITHMETIC, PRODUCTS, ConfigError, Tile

LIMITS = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}  # KiB a block
H100 = Device((9, 0), 132, 227 << 10)
UNKNOWN = Device((8, 7), 16, 163 << 10)
FLOAT, HALF = (4, 4, 4), (2, 4, 2)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    tiles._loaded.clear()
    tiles.choose.cache_clear()


@pytest.mark.parametrize("architecture", LIMITS)
def test_shipped_tiles_fit_as_they_are(architecture: str) -> None:
    table = tiles.table(architecture)
    for product in PRODUCTS:
        for arithmetic in ARITHMETIC:
            sizes = dict(zip(("x", "log", "g2"), HALF if arithmetic == "half" else FLOAT, strict=True))
            for entry in table[product][arithmetic]:
                assert tiles.fit(product, entry.tile, sizes, LIMITS[architecture] << 10) == entry.tile


@pytest.mark.parametrize("architecture", LIMITS)
def test_files_are_written_as_they_are_read(architecture: str) -> None:
    path = tiles.SHIPPED / f"{architecture}.json"
    measured = json.loads(path.read_text())["measured"]
    assert tiles.dump(architecture, tiles.read(path), measured).decode() == path.read_text()


def test_nearest_shape_is_chosen() -> None:
    table = tiles.table("sm_90")["forward"]["half"]
    for entry in table:
        assert tiles.choose("forward", "half", entry.shape, HALF, H100)[0] == entry.tile
    small, large = table[0], table[-1]
    assert tiles.choose("forward", "half", (1, 10, 3), HALF, H100)[0] == small.tile
    assert tiles.choose("forward", "half", (10**6, 10**5, 10**4), HALF, H100)[0] == large.tile


@pytest.mark.parametrize("shared", [48, 64, 99, 163, 227])
def test_unknown_architectures_run_within_their_shared_memory(shared: int) -> None:
    device = Device((8, 7), 16, shared << 10)
    for product in PRODUCTS:
        for arithmetic in ARITHMETIC:
            for shape in ((1, 1, 1), (8192, 8192, 8192)):
                tile, _ = tiles.choose(product, arithmetic, shape, FLOAT, device)
                tile.check("test")
                sizes = dict(zip(("x", "log", "g2"), FLOAT, strict=True))
                assert tiles.shared_bytes(product, tile, sizes) <= shared << 10


def test_split_fills_the_processors() -> None:
    tile = Tile(128, 64, 32, 8, 3)
    assert tiles.split_of((128, 64, 4096), tile, 132) == 16  # one tile: no more than MAX_SPLIT
    assert tiles.split_of((512, 1024, 4096), tile, 132) == 2  # 64 tiles
    assert tiles.split_of((4096, 4096, 4096), tile, 132) == 1
    assert tiles.split_of((128, 64, 100), tile, 132) == 1  # four blocks: nothing to share out
    assert tiles.split_of((128, 64, 0), tile, 132) == 1
    assert tiles.split_of((0, 64, 4096), tile, 132) >= 1


def test_dearer_arithmetic_decides() -> None:
    assert tiles.arithmetic_of("native", "bf16") == "half"
    assert tiles.arithmetic_of("native", "ieee") == "ieee"
    assert tiles.arithmetic_of("tf32", "bf16") == "tf32"
    assert tiles.arithmetic_of("tf32x3", "tf32") == "tf32x3"


def _written(folder: Path, change: dict | None = None, name: str = "sm_87.json") -> Path:
    content = json.loads(tiles.dump("sm_87", tiles.default_table(), None)) | (change or {})
    (folder / name).write_text(json.dumps(content))
    return folder / name


def _with(tile: dict, shape: list | None = None) -> dict:
    content = json.loads(tiles.dump("sm_87", tiles.default_table(), None))
    entry = {"shape": shape or [1, 2, 3], "tile": {**asdict(Tile(64, 64, 32, 4, 3)), **tile}}
    content["products"]["forward"]["tf32"] = [entry]
    return {"products": content["products"]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 7}, "'format' must be 1"),
        ({"architecture": "sm_90"}, "'architecture' must be the file's name, 'sm_87', got 'sm_90'"),
        ({"products": []}, "'products' must be an object with forward"),
        ({"products": {}}, r"forward.ieee: must be a list of at least one entry"),
        (_with({"m": 48}), r"forward.tf32\[0\]: m must be a power of two in \[16, 256\], got 48"),
        (_with({"n": 16}), r"n must be a power of two in \[32, 256\], got 16"),
        (_with({"k": 8}), r"k must be a power of two"),
        (_with({"warps": 32}), r"warps must be a power of two in \[1, 16\], got 32"),
        (_with({"stages": 0}), r"stages must be an int in \[1, 8\], got 0"),
        (_with({"group": True}), r"group must be an int"),
        (_with({"colour": 1}), r"must have 'shape' and 'tile'"),
        (_with({}, [1, 2]), r"'shape' must be three positive ints"),
        (_with({}, [1, 0, 2]), r"'shape' must be three positive ints"),
    ],
)
def test_wrong_files(change: dict, message: str, tmp_path: Path) -> None:
    path = _written(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as raised:
        vdropkern.use_tiles(path)
    assert str(path) in str(raised.value)
    assert not tiles._loaded


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not readable as JSON"):
        vdropkern.use_tiles(tmp_path / "sm_90.json")
    (tmp_path / "sm_90.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        vdropkern.use_tiles(tmp_path / "sm_90.json")


def test_tiles_of_a_file_are_taken(tmp_path: Path) -> None:
    before = tiles.choose("forward", "tf32", (1, 2, 3), FLOAT, UNKNOWN)[0]
    assert vdropkern.use_tiles(_written(tmp_path, _with({"m": 16, "group": 4}))) == "sm_87"
    after = tiles.choose("forward", "tf32", (1, 2, 3), FLOAT, UNKNOWN)[0]
    assert after == Tile(16, 64, 32, 4, 3, 4) != before


def test_forced_tile() -> None:
    tile = Tile(32, 32, 16, 2, 2)
    with tiles.force_tile("forward", tile):
        assert tiles.choose("forward", "ieee", (64, 64, 64), FLOAT, H100)[0] == tile
    assert tiles.choose("forward", "ieee", (64, 64, 64), FLOAT, H100)[0] != tile


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_candidates(product: str, arithmetic: str) -> None:
    for device in (H100, Device((8, 6), 84, 99 << 10)):
        found = list(tune.candidates(product, arithmetic, device))
        assert len(set(found)) == len(found) >= 8
        sizes = {"x": 2, "log": 4, "g2": 2} if arithmetic == "half" else {"x": 4, "log": 4, "g2": 4}
        for tile in found:
            tile.check("test")
            assert tiles.shared_bytes(product, tile, sizes) <= device.shared
            assert 8 <= 2 * tile.m * tile.n // (32 * tile.warps) <= 128


def test_search_keeps_the_fastest_and_what_was_not_asked() -> None:
    """Times are made up: the best tile is known, some tiles do not run."""
    problem, best = tune.Problem(512, 4096, 1024), Tile(64, 128, 32, 8, 3)
    asked = []

    def measure(product: str, arithmetic: str, given: tune.Problem, tile: Tile) -> float | None:
        asked.append((product, arithmetic, given))
        if tile.stages == 4:
            return None
        return 1e-5 if tile == best else 2e-5 + tile.m * 1e-8

    told: list[str] = []
    found = tune.search([problem], ["tf32"], H100, measure, tell=told.append)
    before = tiles.table("sm_90")
    assert {(p, a) for p, a, _ in asked} == {(p, "tf32") for p in PRODUCTS}
    assert len(told) == 3
    for product in PRODUCTS:
        entries = {entry.shape: entry.tile for entry in found[product]["tf32"]}
        assert entries[problem.shape(product)] == best
        assert {e.shape for e in before[product]["tf32"]} < set(entries)
        assert found[product]["half"] == before[product]["half"]
    again = json.loads(tiles.dump("sm_90", found, {"device": "a GPU"}))
    assert again["measured"] == {"device": "a GPU"}


def test_search_with_nothing_that_runs() -> None:
    with pytest.raises(RuntimeError, match="forward, half: no tile ran"):
        tune.search([tune.Problem(1, 1, 1)], ["half"], H100, lambda *_: None)


def test_problem_shapes() -> None:
    problem = tune.Problem.parse("512x4096X1024")
    assert problem == (512, 4096, 1024)
    assert [problem.shape(p) for p in PRODUCTS] == [
        (512, 1024, 4096), (512, 4096, 1024), (1024, 4096, 512),
    ]  # fmt: skip
    for wrong in ("512x4096", "1x2x3x4", "0x1x1", "axbxc", "-1x2x3", ""):
        with pytest.raises(ValueError, match="BATCHxINPUTSxOUTPUTS accepted"):
            tune.Problem.parse(wrong)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--problem", "64x64"], "--problem: '64x64' given, BATCHxINPUTSxOUTPUTS accepted"),
        (["--arithmetic", "fp8"], "--arithmetic: 'fp8' given, accepted: ieee, tf32x3, tf32, half"),
        ([], "tuning measures on a GPU, and torch sees none"),
    ],
)
def test_command_line_errors(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(app, ["tune", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_command_line_writes_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made-up GPU: the file is one that `use_tiles` takes."""
    monkeypatch.setattr(tune, "current_device", lambda: H100)
    monkeypatch.setattr(tune, "measure_on_gpu", lambda *args: 1e-3 + args[3].m * 1e-6)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "made up")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.8.0")
    out = tmp_path / "tiles"
    result = CliRunner().invoke(app, ["tune", "--out", str(out), "--problem", "64x784x300"])
    assert result.exit_code == 0, result.output
    (path,) = out.iterdir()
    assert path.name == "sm_90.json"
    assert json.loads(path.read_text())["measured"]["device"] == "made up"
    assert vdropkern.use_tiles(path) == "sm_90"
    tile, _ = tiles.choose("forward", "tf32", (64, 300, 784), FLOAT, H100)
    assert tile.m == 32


def test_command_line_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["tune", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "file is a file; give a folder" in " ".join(result.output.split())
