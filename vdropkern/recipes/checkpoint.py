"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from .._files import write_whole

FORMAT = 1
FILE_NAME = "checkpoint.pt"


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another run. The message says where and what to do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) to `path`."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; `path` may be the run's folder.

    Raises:
        CheckpointError: nothing there, damaged, or written by another version's format.
    """
    path = path / FILE_NAME if path.is_dir() else path
    if not path.exists():
        raise CheckpointError(f"{path}: no checkpoint there")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as err:
        raise CheckpointError(f"{path}: not a readable checkpoint ({err.strerror})") from err
    except Exception as err:  # whatever bytes that are no pickle lead to; torch's texts advise to trust them
        raise CheckpointError(
            f"{path}: not a readable checkpoint; it is damaged (then train anew), or another kind of file"
        ) from err
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: checkpoint format {FORMAT} expected, found {found}")
    return state
