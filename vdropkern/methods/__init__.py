"""The methods of the field, as data: where the noise enters, how its scale is parameterised, its prior.

| method           | noise enters   | its scale                                | prior of the weights     |
|------------------|----------------|------------------------------------------|--------------------------|
| `Bernoulli`      | input          | fixed p                                  | none                     |
| `GaussianW`      | pre-activation | fixed alpha = p / (1 - p)                | none                     |
| `VariationalB`   | pre-activation | log_alpha a layer, input, output, weight | log-uniform, alpha <= 1  |
| `SparseVD`       | pre-activation | log_sigma2 a weight                      | log-uniform              |
| `ARD`            | pre-activation | log_sigma2 a weight                      | normal, variance learned |
| `HierarchicalVD` | pre-activation | log_sigma2 or log_alpha a weight         | hierarchical: ARD's KL   |

Layers, KL, conversion, files, the command line and the documentation read these attributes and nothing else,
so a new method is a new class in a module here, by topic (and an op folder and a place in
`vdropkern.nn.places` only where it needs new arithmetic). mu is a weight's mean, alpha = sigma^2 / mu^2.
"""

from __future__ import annotations

from .._method import MC, Enters, EvalMode, Granularity, Method, Scale
from .additive import ARD, HierarchicalVD, SparseVD
from .dropout import Bernoulli, GaussianS, GaussianW, NoDropout
from .variational import VariationalA, VariationalB

__all__ = [
    "ARD",
    "MC",
    "METHODS",
    "Bernoulli",
    "Enters",
    "EvalMode",
    "GaussianS",
    "GaussianW",
    "Granularity",
    "HierarchicalVD",
    "Method",
    "NoDropout",
    "Scale",
    "SparseVD",
    "VariationalA",
    "VariationalB",
]

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        NoDropout,
        Bernoulli,
        GaussianS,
        GaussianW,
        VariationalA,
        VariationalB,
        SparseVD,
        ARD,
        HierarchicalVD,
    )
}
