"""How far do estimators of a binarised net's gradient point downhill? A teacher and a student of sign layers.

A student of three sign layers learns a teacher's outputs on normal inputs. At its first weights each
estimator gives a gradient; what counts is how much the loss on the same batch falls in one step, over
learning rates, and the angle to the coordinate discrete gradient (CDG).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _info, estimators
from ._study_config import CHECKED_LR, SCALES, STES, StudyConfig, problem
from ._study_questions import QUESTIONS
from ._study_report import WRITTEN
from ._study_report import write as write_report

__all__ = ["NAME", "PUBLISHED", "SCALES", "SUMMARY", "WRITTEN", "StudyConfig", "ratios", "run", "write"]

NAME = "estimator-study"
SUMMARY = "one step of NES, CDG and straight-through estimators on a small binarised net"

# A published run of the same comparison (mean of 3 first weights times 10 batches of 160,000, lr 0.1):
# decrease of the loss. Its normalisation of gradients is not known, so only ratios to CDG may be compared.
PUBLISHED = {
    2: {"cdg": 0.02045, "nes-500": 0.01905, "nes-5000": 0.02112, "nes-50000": 0.02134,
        "hard-tanh": 0.01717, "steep": 0.01659, "swish": 0.00664, "polynomial": 0.01688},
    4: {"cdg": 0.02136, "nes-500": 0.01797, "nes-5000": 0.01864, "nes-50000": 0.01889,
        "hard-tanh": 0.01791, "steep": 0.01816, "swish": 0.01770, "polynomial": 0.01820},
    8: {"cdg": 0.03874, "nes-500": 0.02844, "nes-5000": 0.03639, "nes-50000": 0.03615,
        "hard-tanh": 0.03460, "steep": 0.03456, "swish": 0.04291, "polynomial": 0.04343},
    16: {"cdg": 0.03588, "nes-500": 0.00010, "nes-5000": 0.03006, "nes-50000": 0.03295,
         "hard-tanh": 0.03289, "steep": 0.03461, "swish": 0.03581, "polynomial": 0.03518},
    32: {"cdg": 0.03181, "nes-500": -0.00050, "nes-5000": 0.01720, "nes-50000": 0.02496,
         "hard-tanh": 0.03031, "steep": 0.03100, "swish": 0.03202, "polynomial": 0.03171},
}  # fmt: skip


def _gradients(
    config: StudyConfig, loss: estimators.SignMlpLoss, student: dict[str, Tensor], seed: int
) -> dict[str, dict[str, Tensor]]:
    found = {"cdg": estimators.cdg(loss, student, config.eps)}
    for m in config.samples:
        # raw fitness and independent draws, as in the published run
        found[f"nes-{m}"] = estimators.nes_gradient(
            loss, student, m, sigma=config.sigma, fitness="raw", antithetic=False, seed=seed
        ).gradient
    return found | {name: estimators.ste_gradient(loss, student, name) for name in STES}


def run(config: StudyConfig, told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """All numbers of the study, means over repeats."""
    started, results = time.monotonic(), []
    for width in config.widths:
        decreases = {name: torch.zeros(len(config.lrs)) for name in config.names}
        angles: dict[str, dict[str, list[float]]] = {name: {} for name in config.names}
        first, repeats = 0.0, config.repeats
        for repeat in range(repeats):
            seed = config.seed * 1_000 + repeat
            loss, student = problem(width, config.rows, seed)
            first += float(loss(student)) / repeats
            gradients = _gradients(config, loss, student, seed)
            for name, g in gradients.items():
                fall = estimators.loss_decrease(loss, student, g, config.lrs)
                decreases[name] += torch.tensor(fall) / repeats
                for layer, c in estimators.cosines(g, gradients["cdg"]).items():
                    angles[name].setdefault(layer, []).append(c)
        results.append({
            "width": width, "loss": first,
            "cosines": {name: {k: _mean(v) for k, v in own.items()} for name, own in angles.items()},
            "decrease": {name: [float(v) for v in d] for name, d in decreases.items()},
        })  # fmt: skip
        told(f"width {width} done after {time.monotonic() - started:.0f} s")
    answers = []
    for ask in QUESTIONS:
        answers.append(ask(config))
        told(f"{answers[-1]['name']} done after {time.monotonic() - started:.0f} s")
    return {
        "format": 2, "recipe": NAME, "config": asdict(config), "results": results,
        "questions": answers,
        "versions": _info.versions(), "processor": _info.cpu_name(), "threads": torch.get_num_threads(),
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def _mean(cosines: list[float]) -> float | None:
    """Of those that are defined: a layer whose gradient is 0 has no direction."""
    known = [c for c in cosines if c == c]
    return sum(known) / len(known) if known else None


def ratios(document: dict[str, Any]) -> list[dict[str, Any]]:
    """For each width and estimator the decrease at lr 0.1 over CDG's, here and published."""
    at = list(document["config"]["lrs"]).index(CHECKED_LR)
    rows = []
    for result in document["results"]:
        here = {name: d[at] for name, d in result["decrease"].items()}
        there = PUBLISHED.get(result["width"], {})
        rows += [
            {
                "width": result["width"], "name": name, "decrease": value,
                "ratio": value / here["cdg"] if here["cdg"] else None,
                "published": there[name] / there["cdg"] if name in there else None,
                "cosine": result["cosines"][name]["total"],
            }
            for name, value in here.items()
        ]  # fmt: skip
    return rows


def write(document: dict[str, Any], out: Path) -> Path:
    """results.json, study.png and report.html into `out`; returns the report's path."""
    return write_report(document, ratios(document), out)
