"""Published numbers that runs are set beside, each with where it stands, and the grids that repeat them.

Errors are of the test set, in percent; compression is all weights over nonzero ones. A number that is only
in a figure, or that could not be read at its source, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOLCHANOV = "Molchanov et al. 2017 (arXiv 1701.05369), as in the README of the authors' code"
SERIES = "github.com/lumosity4tpj/a-series-of-dropout, README"
GOMEZ = "Gomez et al. 2019 (arXiv 1905.13678), as quoted in notes on its text"
XNOR_STUDY = "github.com/YouCaiJun98/YouCaiJun98.github.io, notes of 2021-04-19"


@dataclass(frozen=True)
class Protocol:
    """How the numbers of a source were made; a run compares if it has as many epochs and examples."""

    data: str
    epochs: int | None
    train_size: int
    test_size: int
    note: str = ""


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        recipe: which recipe trains this net on these data; empty: none does.
        label: the row's name in the source.
        error: after the last epoch (or as the source's protocol says).
        best: the least of all epochs, None where not given.
        sparsity: of each layer, percent.
        match: the settings of a run that repeats it; empty: nothing here does.
        measured: which of a run's errors compare: a word of `MEASURED`, or ``test``, that of the last epoch.
    """

    recipe: str
    label: str
    source: str
    protocol: Protocol
    error: float
    best: float | None = None
    sparsity: tuple[float, ...] = ()
    compression: float | None = None
    match: Mapping[str, Any] = field(default_factory=dict)
    measured: str = "test"

    def fits(self, recipe: str, config: Mapping[str, Any]) -> bool:
        """Whether a run of these settings repeats this row."""
        return (
            recipe == self.recipe
            and bool(self.match)
            and all(config.get(name) == value for name, value in self.match.items())
        )


# what rows may say of their errors, where they are not those of the last epoch's mean weights
MEASURED = {"sample": "error of one noisy sample", "last ten": "mean error of the last ten epochs"}
MNIST = Protocol("MNIST", 200, 60_000, 10_000)
CIFAR = Protocol("CIFAR-10", 100, 50_000, 10_000, "batches of 1,000, Adam 1e-3, no augmentation")
XNOR = Protocol("CIFAR-10", 200, 50_000, 10_000, "mean of the last 10 epochs")

_NONE, _SVD, _HVD = {"method": "none"}, {"method": "sparse-vd"}, {"method": "hierarchical-vd"}

# label, source, error, sparsity by layer, compression, settings
_LENETS: dict[str, list[tuple[str, str, float, tuple[float, ...], float | None, Mapping[str, Any]]]] = {
    "lenet-300-100": [
        ("dense, Molchanov et al.", MOLCHANOV, 1.64, (), 1, _NONE),
        ("pruning (Han et al. 2015)", MOLCHANOV, 1.59, (92.0, 91.0, 74.0), 12, {}),
        ("dynamic network surgery (Guo et al. 2016)", MOLCHANOV, 1.99, (98.2, 98.2, 94.5), 56, {}),
        ("soft weight sharing (Ullrich et al. 2017)", MOLCHANOV, 1.94, (), 23, {}),
        ("sparse variational dropout, Molchanov et al.", MOLCHANOV, 1.92, (98.9, 97.2, 62.0), 68, _SVD),
        ("none, a-series-of-dropout", SERIES, 1.92, (), None, _NONE),
        ("hierarchical, a-series-of-dropout", SERIES, 1.73, (98.0, 96.7, 76.6), 45.58, _HVD),
        ("sparse variational dropout, a-series-of-dropout", SERIES, 1.70, (98.0, 97.1, 74.7), 46.25, _SVD),
    ],
    "lenet-5": [
        ("dense, Molchanov et al.", MOLCHANOV, 0.80, (), 1, _NONE),
        ("pruning (Han et al. 2015)", MOLCHANOV, 0.77, (34, 88, 92.0, 81), 12, {}),
        ("dynamic network surgery (Guo et al. 2016)", MOLCHANOV, 0.91, (86, 97, 99.3, 96), 111, {}),
        ("soft weight sharing (Ullrich et al. 2017)", MOLCHANOV, 0.97, (), 200, {}),
        ("sparse variational dropout, Molchanov et al.", MOLCHANOV, 0.75, (67, 98, 99.8, 95), 280, _SVD),
        ("none, a-series-of-dropout", SERIES, 0.9, (), None, _NONE),
        ("sparse variational dropout, a-series-of-dropout", SERIES, 0.7, (57.2, 90.4, 99.0, 90.1), 61.39,
         _SVD),
    ],
}  # fmt: skip

SCALES = (1.0, 1.5, 2.0)
# best/last test accuracy at scales 1, 1.5 and 2. Two tables of the source and the rows of an earlier
# state of it; what each name means is in docs/recipes.md.
_CIFAR = """
1 Bernoulli, before fc          | 56.32/55.67 57.22/56.11 58.05/57.13
1 Bernoulli, after conv         | 56.23/54.96 56.55/56.21 58.21/57.63
1 GaussianS                     | 56.06/55.27 57.24/57.17 57.87/55.94
1 GaussianW                     | 56.57/56.35 58.34/57.52 58.52/57.60
1 NoDropout                     | 58.53/57.09 58.49/55.51 59.61/56.87
1 VariationalA                  | 55.85/55.31 54.63/54.58 54.88/54.41
1 VariationalB                  | 56.45/56.45 57.98/56.59 58.30/56.93
1 HierarchicalB, on W           | 55.41/55.41 56.62/56.20 55.85/54.97
1 HierarchicalB, on B           | 61.60/60.68 62.90/62.10 62.38/62.02
1 HierarchicalA, before fc      | 60.80/59.96 60.73/59.95 60.01/60.01
2 GaussianW                     | 53.86/53.63 56.51/55.75 57.39/57.02
2 VariationalA, before fc       | 55.42/55.00 54.32/53.80 55.41/54.34
2 VariationalA, after conv      | 58.34/57.57 55.94/55.12 55.03/53.80
2 VariationalB, on B            | 59.8/59.64 62.10/62.10 61.88/60.54
2 HierarchicalA, before fc      | 59.78/59.78 60.59/60.50 61.22/60.47
2 HierarchicalA, after conv     | 60.25/59.69 59.48/58.64 59.14/58.04
2 HierarchicalB, on B           | 61.77/61.08 62.14/61.58 62.71/61.30
e SparseB, on W                 | 56.16/55.32 55.38/54.91 56.72/56.10
e SparseA, before fc            | 59.97/59.40 60.25/60.01 59.88/59.47
e SparseA, after conv           | 60.17/60.12 59.60/59.23 60.24/58.51
e SparseB, on B                 | 62.38/61.34 62.56/62.29 63.28/62.38
"""
_TABLES = {"1": "table 1", "2": "table 2", "e": "state of 2020-06-27"}


def _noise(method: str, where: str = "fc", **further: Any) -> dict[str, Any]:
    return {"method": method, "drop_where": where, "activation": "none", **further}


def _learned(method: str, where: str = "fc", **further: Any) -> dict[str, Any]:
    """With a KL, which had no warm-up there."""
    return {**_noise(method, where, **further), "kl_start": 0.0, "kl_end": 0.0}


_ON_W, _ON_B = {"parameter": "log_alpha"}, {"parameter": "unit"}  # of each weight, of each output
# rows of _CIFAR -> settings
CIFAR_MATCH: dict[str, Mapping[str, Any]] = {
    "1 Bernoulli, before fc": _noise("bernoulli"),
    "1 Bernoulli, after conv": _noise("bernoulli", "conv"),
    "1 GaussianS": _noise("gaussian-s"),
    "1 GaussianW": _noise("gaussian-w", **_ON_W),
    "1 NoDropout": _noise("none"),
    "1 VariationalA": _learned("variational-a"),
    "1 VariationalB": _learned("variational-b", **_ON_W),
    "1 HierarchicalB, on W": _learned("hierarchical-vd", **_ON_W),
    "1 HierarchicalB, on B": _learned("hierarchical-vd", **_ON_B),
    "1 HierarchicalA, before fc": _learned("hierarchical-vd-a"),
    "2 GaussianW": _noise("gaussian-w", **_ON_B),
    "2 VariationalA, before fc": _learned("variational-a"),
    "2 VariationalA, after conv": _learned("variational-a", "conv"),
    "2 VariationalB, on B": _learned("variational-b", **_ON_B),
    "2 HierarchicalA, before fc": _learned("hierarchical-vd-a"),
    "2 HierarchicalA, after conv": _learned("hierarchical-vd-a", "conv"),
    "2 HierarchicalB, on B": _learned("hierarchical-vd", **_ON_B),
    "e SparseB, on W": _learned("sparse-vd", **_ON_W),
    "e SparseA, before fc": _learned("sparse-vd-a"),
    "e SparseA, after conv": _learned("sparse-vd-a", "conv"),
    "e SparseB, on B": _learned("sparse-vd", **_ON_B),
}

# width, weight decay, test accuracy
_XNOR = [
    (64, 0.0, 90.22), (72, 0.0, 90.37), (80, 0.0, 90.48), (96, 0.0, 92.57), (128, 0.0, 90.26),
    (192, 0.0, 90.19), (192, 1e-6, 90.69), (192, 3e-6, 90.80), (192, 5e-6, 91.78), (192, 1e-5, 91.21),
    (192, 5e-5, 91.52), (192, 1e-4, 90.42), (192, 5e-4, 60.48),
]  # fmt: skip
# what nothing here repeats
_XNOR_OTHERS = [
    ("width 256, weight decay 0, batches of 64", 85.83),
    ("width 256, weight decay 1e-5, batches of 64, lr 2e-3", 79.64),
    ("in full precision", 93.38),
]


def _accuracy(percent: float) -> float:
    """As an error, without the digits that subtraction makes up."""
    return round(100 - percent, 4)


def _lenets() -> list[Published]:
    return [
        Published(recipe, label, source, MNIST, error, None, sparsity, compression, match)
        for recipe, rows in _LENETS.items()
        for label, source, error, sparsity, compression, match in rows
    ]


def _cifar() -> list[Published]:
    rows = []
    for line in _CIFAR.strip().splitlines():
        name, _, numbers = line.partition("|")
        table, label = _TABLES[name[0]], name[1:].strip()
        for scale, pair in zip(SCALES, numbers.split(), strict=True):
            best, last = (_accuracy(float(number)) for number in pair.split("/"))
            match = CIFAR_MATCH[name.strip()]
            rows.append(
                Published(
                    "cifar-dropout", f"{label}, scale {scale:g}", f"{SERIES}, {table}", CIFAR, last, best,
                    match={**match, "scale_width": scale},
                    measured="test" if match["method"] in ("none", "bernoulli") else "sample",
                )
            )  # fmt: skip
    return rows


def _xnor() -> list[Published]:
    repeated = [
        Published(
            "xnor-resnet18", f"ResNet-18, width {width}, weight decay {decay:g}", XNOR_STUDY, XNOR,
            _accuracy(accuracy), match={"width": width, "weight_decay": decay, "binary": True},
            measured="last ten",
        )
        for width, decay, accuracy in _XNOR
    ]  # fmt: skip
    others = [
        Published("xnor-resnet18", f"ResNet-18, {label}", XNOR_STUDY, XNOR, _accuracy(accuracy))
        for label, accuracy in _XNOR_OTHERS
    ]
    return [*repeated, *others]


_RESNET = Protocol("CIFAR-10", None, 50_000, 10_000, "with augmentation")
_TARGETED = [
    Published("targeted-dropout", f"{net}, {method}", GOMEZ, _RESNET, _accuracy(accuracy),
              sparsity=(sparsity,), compression=round(100 / (100 - sparsity), 1))
    for net, method, accuracy, sparsity in (
        ("ResNet-32", "Xtreme-3", 84.7, 99.6), ("ResNet-32", "Xtreme-4", 87.06, 99.47),
        ("ResNet-18", "Xtreme", 82.0, 99.8),
    )
]  # fmt: skip

PUBLISHED: tuple[Published, ...] = (*_lenets(), *_cifar(), *_TARGETED, *_xnor())

# `vdropkern sweep RECIPE` without --over runs these: what the source compared
GRIDS: dict[str, list[str]] = {
    "lenet-300-100": ["method=none,sparse-vd,hierarchical-vd"],
    "lenet-5": ["method=none,sparse-vd"],
    "cifar-dropout": [
        "method=none,bernoulli,bernoulli+drop_where=conv,gaussian-s,gaussian-w,gaussian-w+parameter=unit,"
        "variational-a,variational-a+drop_where=conv,variational-b,variational-b+parameter=unit,"
        "hierarchical-vd-a,hierarchical-vd-a+drop_where=conv,hierarchical-vd,hierarchical-vd+parameter=unit,"
        "sparse-vd-a,sparse-vd-a+drop_where=conv,sparse-vd,sparse-vd+parameter=unit",
        "scale_width=1,1.5,2",
        "kl_end=0+kl_start=0",
    ],
    "multi-sample-dropout": ["samples=0,1,8"],
    "allconv6": ["drop=0,0.5,0.9", "batch_norm=false,true", "head=gap,fc"],
    "targeted-dropout": [
        "method=none,bernoulli,drop-connect,targeted-weight,targeted-unit,ramping-targeted-weight,"
        "ramping-targeted-unit,magnitude-weight,magnitude-unit,smallify,sparse-vd",
    ],
    "xnor-resnet18": [
        "width=64,72,80,96,128,192,192+weight_decay=1e-6,192+weight_decay=3e-6,192+weight_decay=5e-6,"
        "192+weight_decay=1e-5,192+weight_decay=5e-5,192+weight_decay=1e-4,192+weight_decay=5e-4",
    ],
}


def published_for(recipe: str) -> list[Published]:
    """All rows about the net and data of a recipe."""
    return [row for row in PUBLISHED if row.recipe == recipe]
