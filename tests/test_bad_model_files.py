"""Damaged, foreign and hostile model files: one error that says what is wrong, and nothing changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from vdropkern.methods import SparseVD
from vdropkern.sparse import ModelFileError
from vdropkern.sparse.format import Content, decode, encode

from .saved_nets import Net, noise, pruned_mlp


def changed_file(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Alter a file as an author would who computes the checksum of whatever he puts in."""
    structure, tensors = decode(path, path.read_bytes())
    tensors = {k: v.clone() for k, v in tensors.items() if k not in structure["aliases"]}
    change(structure, tensors)
    path.write_bytes(encode(Content(structure, tensors)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m"
    torch.manual_seed(0)
    vdk.save(pruned_mlp(), path)
    return path.read_bytes()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_found(good: bytes, data: st.DataObject, tmp_path: Path) -> None:
    kind = data.draw(st.sampled_from(["cut", "flip", "overwrite", "insert", "append"]))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    if kind == "cut":
        del bad[at:]
    elif kind == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "overwrite":
        noise = data.draw(st.binary(min_size=1, max_size=40))
        bad[at : at + len(noise)] = noise
    elif kind == "insert":
        bad[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    else:
        bad += data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "bad"
    path.write_bytes(bad)
    try:
        loaded: torch.nn.Module | None = vdk.load(path)
    except ModelFileError:
        loaded = None
    if loaded is not None:  # what was hit carries no meaning: blanks, or the version that wrote it
        path.write_bytes(good)
        state = vdk.load(path).state_dict()
        assert state.keys() == loaded.state_dict().keys()
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in state.items())


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"PK\3\4" * 10, b"\xff" * 100, b"{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_no_model_at_all(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    for read in (vdk.load, vdk.describe):
        with pytest.raises(ModelFileError, match="not a model saved by vdropkern, or cut short"):
            read(path)


def test_a_checkpoint_of_torch_is_named(tmp_path: Path) -> None:
    torch.save(pruned_mlp().state_dict(), tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"if torch\.save wrote it, torch\.load reads it"):
        vdk.load(tmp_path / "m")


def test_a_plain_safetensors_file_is_no_model(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "m", {"format": "pt"})
    with pytest.raises(ModelFileError, match="not a model saved by vdropkern"):
        vdk.load(tmp_path / "m")


def test_a_file_of_the_future(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(good.replace(b'{\\"format\\": 1', b'{\\"format\\": 9'))
    with pytest.raises(ModelFileError, match="format 9, but this version reads 1; use a newer vdropkern"):
        vdk.load(path)


def test_altered_numbers_and_altered_structure(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    flipped = bytearray(good)
    flipped[-1] ^= 1
    for bad in (bytes(flipped), good.replace(b'start_dim\\": 1', b'start_dim\\": 0')):
        assert bad != good
        path.write_bytes(bad)
        with pytest.raises(ModelFileError, match="its checksum is wrong"):
            vdk.load(path)


def set_config(structure: dict[str, Any], **values: Any) -> None:
    structure["tree"]["children"][1][1]["config"].update(values)


def deep(structure: dict[str, Any]) -> None:
    for _ in range(80):
        structure["tree"] = {"type": "Sequential", "children": [["0", structure["tree"]]]}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], None], str]] = {
    "column-out-of-range": (
        lambda s, t: t["1.col_indices"].__setitem__(0, 40),
        r"1: col_indices must lie in \[0, 40\)",
    ),
    "column-negative": (lambda s, t: t["1.col_indices"].__setitem__(0, -1), "1: col_indices must lie in"),
    "offsets-decrease": (
        lambda s, t: t["1.row_offsets"].__setitem__(3, 1000),
        "1: row_offsets must not decrease",
    ),
    "offsets-end": (
        lambda s, t: t["1.row_offsets"].__setitem__(-1, 0),
        "1: row_offsets must run from 0 to nnz",
    ),
    "index-dtype": (
        lambda s, t: t.update({"1.col_indices": t["1.col_indices"].float()}),
        "1.col_indices must be",
    ),
    "short-index": (
        lambda s, t: t.update({"1.col_indices": t["1.col_indices"].short()}),
        "1.col_indices must be",
    ),
    "value-dtype": (lambda s, t: t.update({"1.values": t["1.values"].int()}), "1.values must be"),
    "shape": (
        lambda s, t: t.update({"3.weight": t["3.weight"].T.contiguous()}),
        r"3.weight must be \[3, 30\]",
    ),
    "missing": (lambda s, t: t.__delitem__("3.bias"), "missing 3.bias"),
    "left-over": (lambda s, t: t.update({"9.weight": torch.ones(1)}), "left over 9.weight"),
    "huge": (
        lambda s, t: set_config(s, in_features=10**12, out_features=10**6),
        r"1.bias must be \[1000000\]",
    ),
    "overflow": (lambda s, t: set_config(s, in_features=2**62, out_features=2**62), "does not take|must be"),
    "negative": (lambda s, t: set_config(s, in_features=-5), "SparseLinear does not take"),
    "nnz": (lambda s, t: set_config(s, nnz=10**9), "SparseLinear does not take"),
    "text": (lambda s, t: set_config(s, in_features="40"), "SparseLinear does not take"),
    "nothing": (lambda s, t: set_config(s, in_features=None), "SparseLinear does not take"),
    "argument": (lambda s, t: set_config(s, device="cuda"), "SparseLinear takes in_features"),
    "object": (lambda s, t: set_config(s, in_features={"a": 1}), "unknown argument"),
    "unknown-module": (
        lambda s, t: s["tree"]["children"][2][1].update(type="os.system"),
        "unknown module 'os.system'",
    ),
    "no-type": (lambda s, t: s["tree"]["children"][2][1].pop("type"), "unknown module 'None'"),
    "type-list": (lambda s, t: s["tree"]["children"][2][1].update(type=["ReLU"]), "unknown module"),
    "no-children": (lambda s, t: s["tree"].pop("children"), "needs a list of children"),
    "child": (lambda s, t: s["tree"]["children"].append("ReLU"), "a child must be"),
    "child-null": (lambda s, t: s["tree"]["children"].append(["9", None]), "must be described by an object"),
    "child-name": (
        lambda s, t: s["tree"]["children"][2].__setitem__(0, "a.b"),
        "bad or repeated child name 'a.b'",
    ),
    "child-twice": (
        lambda s, t: s["tree"]["children"][2].__setitem__(0, "1"),
        "bad or repeated child name '1'",
    ),
    "itself": (lambda s, t: s["tree"]["children"].append(["9", {"same_as": ""}]), "same as"),
    "same-as-nothing": (lambda s, t: s["tree"]["children"].append(["9", {"same_as": "8"}]), "same as 8"),
    "deep": (lambda s, t: deep(s), "nested deeper than 64"),
    "alias": (lambda s, t: s["aliases"].update({"9.w": "8.w"}), "9.w is the alias of no tensor"),
    "alias-number": (lambda s, t: s["aliases"].update({"9.w": 8}), "alias of no tensor"),
    "no-tree": (lambda s, t: s.pop("tree"), "no valid 'tree'"),
    "training": (lambda s, t: s.update(training="yes"), "no valid 'training'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_with_a_right_checksum(name: str, good: bytes, tmp_path: Path) -> None:
    change, words = HOSTILE[name]
    path = tmp_path / "m"
    path.write_bytes(good)
    changed_file(path, change)
    with pytest.raises(ModelFileError, match=words):
        vdk.load(path)


def test_hostile_layers_for_into(tmp_path: Path) -> None:
    path = tmp_path / "m"
    vdk.save(
        vdk.sparsify(noise(vdk.convert(Net(), SparseVD())), shrink=False, max_density=0.5, min_weights=100),
        path,
    )
    content = path.read_bytes()
    for change, words in (
        (lambda s, t: t["fc1.col_indices"].__setitem__(0, -1), "fc1: col_indices must lie in"),
        (
            lambda s, t: s["layers"]["fc1"].update(type="Flatten", config={"start_dim": 1, "end_dim": 2}),
            "a Flatten, which has no weight",
        ),
        (lambda s, t: s["layers"].update({"norm": s["layers"]["fc2"]}), "norm must be a linear layer"),
        (lambda s, t: s["layers"].update({"fc1": 5}), "must be described by an object"),
        (lambda s, t: s["layers"]["fc1"]["config"].update(nnz=1), "fc1.col_indices must be"),
    ):
        path.write_bytes(content)
        changed_file(path, change)
        own = Net()
        before = copy.deepcopy(own.state_dict())
        with pytest.raises(ModelFileError, match=words):
            vdk.load(path, into=own)
        assert type(own.fc1) is torch.nn.Linear
        assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())


@pytest.mark.parametrize(
    "about, words",
    [
        ("{", "not a model saved by vdropkern"),
        ("[]", "not a model saved by vdropkern"),
        ("[" * 100_000, "not a model saved by vdropkern"),
        ('{"format": 1}', "holds no structure"),
        ('{"format": 1, "structure": {}}', "no valid 'tree'"),
        ('{"format": "1", "structure": {}}', "format 1, but this version reads 1"),
    ],
)
def test_bad_metadata(about: str, words: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "m", {"vdropkern": about})
    for read in (vdk.load, vdk.describe):
        with pytest.raises(ModelFileError, match=words):
            read(tmp_path / "m")
