"""What is timed on a GPU: training steps, KL, noise; ours by backend, dense, eager and torch.compile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional

from .timing import Clock, interleave, peak_bytes

Run = Callable[[], object]
KL_SCALE = 1 / 60_000
BACKENDS = ("cuda", "triton")


@dataclass(frozen=True)
class Case:
    """A linear layer's training step, or a matrix of weights or noise."""

    kind: str  # "step" | "kl" | "noise"
    sizes: tuple[int, ...]  # batch, in, out; or rows, cols
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.sizes))} {str(self.dtype).removeprefix('torch.')}"


CASES = [
    *(
        Case("step", sizes, dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for sizes in ((128, 784, 300), (128, 1024, 1024), (512, 4096, 4096), (4096, 4096, 4096))
    ),
    Case("kl", (4096, 4096), torch.float32),
    Case("noise", (4096, 4096), torch.float32),
    Case("noise", (4096, 4096), torch.bfloat16),
]
TINY = [
    Case("step", (7, 20, 9), torch.float32),
    Case("step", (7, 20, 9), torch.bfloat16),
    Case("kl", (9, 20), torch.float32),
    Case("noise", (9, 20), torch.float32),
]


@contextlib.contextmanager
def _on(backend: str | None) -> Iterator[None]:
    with vdk.use_backend(backend) if backend else contextlib.nullcontext():
        yield


def _formula(x: Tensor, mu: Tensor, log_sigma2: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The layer and its KL as one writes them in torch."""
    sigma2 = log_sigma2.exp()
    std = (
        torch.sqrt(F.linear(x.float() ** 2, sigma2) + 1e-8)
        if x.dtype == torch.float32
        else torch.sqrt(F.linear(x**2, sigma2.to(x.dtype)).float() + 1e-8)
    )
    y = F.linear(x, mu, bias) + (std * torch.randn_like(std)).to(x.dtype)
    return y, _formula_kl(mu, log_sigma2)


def _formula_kl(mu: Tensor, log_sigma2: Tensor) -> Tensor:
    la = log_sigma2 - torch.log(mu.float() ** 2 + 1e-8)
    return (0.5 * F.softplus(-la) + 0.63576 * torch.sigmoid(-(1.87320 + 1.48695 * la))).sum()


def _step(case: Case, device: torch.device) -> dict[str, Run]:
    batch, inp, out = case.sizes
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, inp, generator=g).relu_()
    mu = torch.randn(out, inp, generator=g) * inp**-0.5
    log_sigma2 = torch.randn(out, inp, generator=g) - 8
    dy = torch.randn(batch, out, generator=g) / batch
    x, mu, dy = (t.to(device, case.dtype) for t in (x, mu, dy))
    bias, log_sigma2 = torch.zeros(out, device=device, dtype=case.dtype), log_sigma2.to(device)
    leaves = [t.requires_grad_() for t in (x, mu, log_sigma2, bias)]

    def step(forward: Callable[..., tuple[Tensor, Tensor | None]]) -> Run:
        def run() -> None:
            y, kl = forward(*leaves)
            outputs, grads = [y], [dy]
            if kl is not None:
                outputs.append(kl)
                grads.append(torch.full_like(kl, KL_SCALE))
            torch.autograd.grad(outputs, leaves, grads, allow_unused=True)

        return run

    def dense(x: Tensor, mu: Tensor, _: Tensor, bias: Tensor) -> tuple[Tensor, None]:
        return F.linear(x, mu, bias), None

    runs = {
        "dense": step(dense),
        "torch.compile(dense)": step(torch.compile(dense, dynamic=False)),
        "eager formula": step(_formula),
        "torch.compile(formula)": step(torch.compile(_formula, dynamic=False)),
    }
    return runs | _ours(lambda: step(functional.linear_lrt_kl)())


def _kl(case: Case, device: torch.device) -> dict[str, Run]:
    mu = torch.randn(case.sizes, device=device, requires_grad=True)
    log_sigma2 = (torch.randn(case.sizes, device=device) - 8).requires_grad_()

    def step(kl: Callable[[Tensor, Tensor], Tensor]) -> Run:
        return lambda: torch.autograd.grad(kl(mu, log_sigma2), (mu, log_sigma2))

    def copies() -> None:  # the same bytes: two matrices read, two written
        mu.detach().clone()
        log_sigma2.detach().clone()

    runs = {
        "copy of as many bytes": copies,
        "eager formula": step(_formula_kl),
        "torch.compile(formula)": step(torch.compile(_formula_kl, dynamic=False)),
    }
    return runs | _ours(lambda: functional.kl_value_and_grad(mu.detach(), log_sigma2.detach()))


def _noise(case: Case, device: torch.device) -> dict[str, Run]:
    out = torch.empty(case.sizes, device=device, dtype=case.dtype)
    seed = torch.zeros((), dtype=torch.int64, device=device)
    rows, cols = case.sizes
    runs: dict[str, Run] = {
        "torch.zeros": lambda: torch.zeros_like(out),
        "torch.randn": lambda: torch.randn_like(out),
    }
    return runs | _ours(lambda: functional.philox_normal(seed, rows, cols, case.dtype))


def _ours(run: Run) -> dict[str, Run]:
    """The call on every backend that can run here."""

    def on(backend: str | None) -> Run:
        def call() -> None:
            with _on(backend):
                run()

        return call

    found: dict[str, Run] = {}
    for backend in BACKENDS:
        try:
            on(backend)()
        except vdk._backend.BackendUnavailableError:
            continue
        found[f"vdropkern ({backend})"] = on(backend)
    return found or {"vdropkern": on(None)}


_MAKE = {"step": _step, "kl": _kl, "noise": _noise}


def measure(case: Case, device: torch.device, budget_s: float) -> dict[str, Any]:
    """Times and peak memory of every contender of a case, as plain data."""
    runs, clock = _MAKE[case.kind](case, device), Clock(device)
    failed: dict[str, str] = {}
    for name, run in list(runs.items()):
        try:
            run()
            clock.sync()
        except Exception as err:  # noqa: PERF203  one contender must not lose the others' numbers
            failed[name] = f"{type(err).__name__}: {err}"[:400]
            del runs[name]
    times = interleave(runs, clock, budget_s, min_rounds=30 if clock.on_gpu else 2)
    return {
        "case": case.name,
        "ms": {name: asdict(t) for name, t in times.items()},
        "peak_bytes": {name: peak_bytes(run, clock) for name, run in runs.items()},
        "failed": failed,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table a case: contender, median with percentiles, ratio to the first, peak memory."""
    parts = []
    for row in rows:
        base = next(iter(row["ms"].values()))["median"]
        lines = [
            f"### {row['case']}",
            "",
            "| contender | ms (p20 to p80) | ratio | peak MiB |",
            "| --- | ---: | ---: | ---: |",
        ]
        for name, t in row["ms"].items():
            peak = row["peak_bytes"][name]
            memory = "-" if peak is None else f"{peak / 2**20:.1f}"
            span = f"{t['median']:.4f} ({t['p20']:.4f} to {t['p80']:.4f})"
            lines.append(f"| {name} | {span} | {t['median'] / base:.2f} | {memory} |")
        lines += [f"| {name} | failed: {why} | | |" for name, why in row["failed"].items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
