"""Speed, measured: `python -m bench` for ratios taken in one process, `pytest bench/` for pytest-benchmark.

A case (cases.py) is a named problem; a contender (the ``CONTENDERS`` of bench_<op>.py) is one way to solve
it. Every case has a gate: its kernels are checked against the reference, and no speed is told on a red one.
"""
