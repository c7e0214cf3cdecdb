"""A tiny set of digits in IDX files, for tests that go the whole way from files to a report."""

from __future__ import annotations

from pathlib import Path

import torch

TRAIN, TEST = 60, 20


def idx_bytes(values: torch.Tensor) -> bytes:
    """Write a uint8 tensor as the format's description says: magic, big-endian sizes, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.numpy().tobytes()


def make_files() -> dict[str, bytes]:
    """The four files by their usual names: noise with a bright band that tells the class."""
    generator = torch.Generator().manual_seed(0)
    content = {}
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        labels = torch.arange(count, dtype=torch.uint8) % 10
        images = torch.randint(0, 60, (count, 28, 28), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[2 * label + 3 : 2 * label + 6] += 150
        content[f"{split}-images-idx3-ubyte"] = idx_bytes(images.to(torch.uint8))
        content[f"{split}-labels-idx1-ubyte"] = idx_bytes(labels)
    return content


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder, made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
