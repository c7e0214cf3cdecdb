"""Holding GPU kernels right and lean, with a GPU and without: ``python -m gpu --help`` and docs/gpu.md."""
