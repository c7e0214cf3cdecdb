"""The methods of the field, as data: where the noise enters, how its scale is parameterised, its prior.

| method                | noise enters              | its scale             | prior                   | from |
|-----------------------|---------------------------|-----------------------|-------------------------|------|
| `NoDropout`           | nowhere                   | none                  | none                    |      |
| `Bernoulli`           | input K1                  | fixed p               | none                    | [1]  |
| `GaussianS`           | input K1                  | fixed alpha           | none                    | [1]  |
| `GaussianW`           | pre-activation K2; K3, K4 | fixed alpha           | none                    | [2]  |
| `MultiSampleDropout`  | input K1                  | fixed p, M masks      | none                    | [7]  |
| `VariationalA`        | input K1                  | log_alpha a unit      | log-uniform, alpha <= 1 | [3]  |
| `VariationalB`        | pre-activation K2; K3, K4 | log_alpha             | log-uniform, alpha <= 1 | [3]  |
| `SparseVD`            | pre-activation K2; K1-K4  | log_sigma2, log_alpha | log-uniform             | [4]  |
| `ARD`                 | pre-activation K2; K1-K4  | log_sigma2, log_alpha | normal, learned         | [5]  |
| `HierarchicalVD`      | pre-activation K2; K1-K4  | log_sigma2, log_alpha | hierarchical: ARD's KL  | [6]  |
| `BayesByBackprop`     | pre-activation K2; K4     | log_sigma2            | normal                  | [13] |
| `DropConnect`         | weight K4                 | fixed p               | none                    | [14] |
| `TargetedDropout`     | mask K5                   | gamma, alpha; ramps   | none                    | [15] |
| `MagnitudePruning`    | mask K5                   | fraction; a ramp      | none                    | [16] |
| `SBP`                 | gate K6                   | mu, log_sigma2 a unit | log-uniform on a range  | [8]  |
| `GroupNormalJeffreys` | gate K6 and K2            | mu, log_sigma2 a unit | log-uniform, N(0, 1)    | [9]  |
| `HierarchicalGate`    | gate K6                   | mu, log_sigma2 a unit | hierarchical: ARD's KL  | [6]  |
| `L0HardConcrete`      | gate K6                   | a logit a unit        | expected L0 norm        | [10] |
| `Smallify`            | gate K6, no noise         | none                  | L1 of the switches      | [11] |
| `ConcreteDropout`     | gate K6                   | logit of p a layer    | normal, entropy of p    | [12] |

K1 is `mul_noise` of the input, K2 local reparameterisation (`linear_lrt`, `conv2d_lrt`), K3 `mul_noise` of
the output, K4 `weight_noise`, K5 `weight_mask`, K6 `gate`; after a semicolon: by argument.
[1] Srivastava et al. 2014. [2] Wang & Manning 2013. [3] Kingma et al. 2015. [4] Molchanov et al. 2017.
[5] Kharitonov et al. 2018. [6] Liu et al. 2019. [7] Inoue 2019. [8] Neklyudov et al. 2017. [9] Louizos,
Ullrich & Welling 2017. [10] Louizos, Welling & Kingma 2018. [11] Leclerc et al. 2018. [12] Gal et al. 2017.
[13] Blundell et al. 2015. [14] Wan et al. 2013. [15] Gomez et al. 2019. [16] Han et al. 2015.

Layers, KL, conversion, files, the command line and the documentation read these attributes and nothing else,
so a new method is a new class in a module here, by topic (and an op folder and a place in
`vdropkern.nn.places` only where it needs new arithmetic). mu is a weight's mean, alpha = sigma^2 / mu^2.
"""

from __future__ import annotations

from .._method import MC, Enters, EvalMode, Granularity, Method, Scale
from .additive import ARD, HierarchicalVD, SparseVD
from .dropout import Bernoulli, GaussianS, GaussianW, NoDropout
from .gates import SBP, GroupNormalJeffreys, HierarchicalGate
from .masks import MagnitudePruning, TargetedDropout
from .multi_sample import MultiSampleDropout
from .switches import ConcreteDropout, L0HardConcrete, Smallify
from .variational import VariationalA, VariationalB
from .weights import BayesByBackprop, DropConnect

__all__ = [
    "ARD",
    "MC",
    "METHODS",
    "SBP",
    "BayesByBackprop",
    "Bernoulli",
    "ConcreteDropout",
    "DropConnect",
    "Enters",
    "EvalMode",
    "GaussianS",
    "GaussianW",
    "Granularity",
    "GroupNormalJeffreys",
    "HierarchicalGate",
    "HierarchicalVD",
    "L0HardConcrete",
    "MagnitudePruning",
    "Method",
    "MultiSampleDropout",
    "NoDropout",
    "Scale",
    "Smallify",
    "SparseVD",
    "TargetedDropout",
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
        MultiSampleDropout,
        VariationalA,
        VariationalB,
        SparseVD,
        ARD,
        HierarchicalVD,
        BayesByBackprop,
        DropConnect,
        TargetedDropout,
        MagnitudePruning,
        SBP,
        GroupNormalJeffreys,
        HierarchicalGate,
        L0HardConcrete,
        Smallify,
        ConcreteDropout,
    )
}
