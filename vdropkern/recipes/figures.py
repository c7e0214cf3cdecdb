"""The pictures of a run, drawn without pyplot: no global state, no window, in a light and a dark version."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIELDS = 32  # receptive fields shown
FIELD_COLUMNS = 8


@dataclass(frozen=True)
class Theme:
    """Colours of one version of the pictures."""

    text: str
    faint: str
    ground: str
    line: str
    second: str
    zero: str  # end of the heat map that stands for nothing
    heat: str
    diverging: tuple[str, str, str]


LIGHT = Theme(
    text="#1f2328", faint="#d8dee4", ground="#ffffff", line="#0b63ce", second="#e3672a", zero="#f4f6f8",
    heat="#0b3d7a", diverging=("#c8501e", "#ffffff", "#0b57b8"),
)  # fmt: skip
DARK = Theme(
    text="#e3e7ec", faint="#363d47", ground="#14181d", line="#63a8ff", second="#ff9d66", zero="#1b2027",
    heat="#8cc1ff", diverging=("#ff9154", "#14181d", "#5aa5ff"),
)  # fmt: skip


@dataclass(frozen=True)
class LayerState:
    """What the pictures show of a layer.

    weight: mean weights [O, I]. keep: bool [O, I], which are not pruned. log_alpha: [O, I], None where the
    method has none a weight. threshold: None where nothing is pruned.
    """

    name: str
    weight: Tensor
    keep: Tensor
    log_alpha: Tensor | None
    threshold: float | None


@contextlib.contextmanager
def _styled(theme: Theme) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({
        "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
        "text.color": theme.text, "axes.labelcolor": theme.text, "axes.edgecolor": theme.faint,
        "xtick.color": theme.text, "ytick.color": theme.text, "axes.facecolor": theme.ground,
        "figure.facecolor": theme.ground, "grid.color": theme.faint, "grid.linewidth": 0.6,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "axes.titlelocation": "left", "lines.linewidth": 1.6, "svg.hashsalt": "vdropkern",
    }):  # fmt: skip
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def curves(history: Sequence[Mapping[str, float]], train_size: int, theme: Theme = LIGHT) -> bytes:
    """NLL, KL, error, sparsity, compression and the schedules over the epochs, as a PNG."""
    epochs = [record["epoch"] for record in history]

    def column(name: str, scale: float = 1.0) -> list[float]:
        return [scale * record[name] for record in history]

    with _styled(theme):
        figure = _figure(11, 5.6)
        axes: list[Axes] = list(figure.subplots(2, 3).flat)
        lr = _relative(column("lr"))
        marker = "." if len(epochs) == 1 else ""
        plots: list[tuple[str, list[tuple[list[float], str]], bool]] = [
            ("NLL, nats a digit", [(column("nll"), "training, noisy"), (column("test_nll"), "test")], True),
            ("test error, %", [(column("test_error"), "")], False),
            ("KL / N, nats a digit", [(column("kl", 1 / train_size), "")], True),
            ("sparsity, %", [(column("sparsity", 100), "")], False),
            ("compression, weights / nonzero", [(column("compression"), "")], True),
            ("schedules", [(column("kl_weight"), "KL weight"), (lr, "lr / first lr")], False),
        ]  # fmt: skip
        for ax, (title, lines, log) in zip(axes, plots, strict=True):
            for (values, label), color in zip(lines, (theme.line, theme.second), strict=False):
                ax.plot(epochs, values, color=color, label=label, marker=marker)
            ax.set_title(title)
            ax.grid(True)
            if log and all(value > 0 for values, _ in lines for value in values):
                _log_scale(ax)
            if lines[0][1]:
                ax.legend(loc="best", fontsize=8)
        for ax in axes[3:]:
            ax.set_xlabel("epoch")
        return _png(figure)


def _relative(values: list[float]) -> list[float]:
    top = max(values)
    return [value / top if top > 0 else 0.0 for value in values]


def _log_scale(ax: Axes) -> None:
    from matplotlib.ticker import LogFormatter, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    # over less than a decade the decades' own labels would leave an axis without numbers
    minor = (
        LogFormatter(labelOnlyBase=False, minor_thresholds=(3, 1.5)) if high / low < 30 else NullFormatter()
    )
    ax.yaxis.set_minor_formatter(minor)


def _mosaic(fields: Tensor, size: tuple[int, int]) -> Any:
    """[n, I] -> an array of all fields in rows of `FIELD_COLUMNS`, a pixel of nan between."""
    height, width = size
    rows = -(-len(fields) // FIELD_COLUMNS)
    tiles = torch.full((rows * FIELD_COLUMNS, height + 1, width + 1), float("nan"))
    tiles[: len(fields), :height, :width] = fields.reshape(-1, height, width)
    grid = tiles.reshape(rows, FIELD_COLUMNS, height + 1, width + 1).permute(0, 2, 1, 3)
    return grid.reshape(rows * (height + 1), FIELD_COLUMNS * (width + 1))[:-1, :-1].numpy()


def receptive_fields(layer: LayerState, size: tuple[int, int], theme: Theme = LIGHT) -> bytes:
    """The first layer's units as pictures, before and after pruning, and how used each pixel is."""
    from matplotlib.colors import LinearSegmentedColormap

    weight, kept = layer.weight, layer.weight * layer.keep
    strongest = kept.norm(dim=1).argsort(descending=True, stable=True)[:FIELDS]
    limit = float(weight[strongest].abs().max()) or 1.0
    with _styled(theme):
        diverging = LinearSegmentedColormap.from_list("fields", theme.diverging)
        diverging.set_bad(theme.faint)
        heat = LinearSegmentedColormap.from_list("heat", (theme.zero, theme.heat))
        figure = _figure(11, 5.0)
        axes = figure.subplots(1, 3, width_ratios=(2, 2, 1.15))
        for ax, weights, title in (
            (axes[0], weight, "before pruning"),
            (axes[1], kept, "after pruning"),
        ):
            image = ax.imshow(
                _mosaic(weights[strongest], size),
                cmap=diverging,
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
            )
            ax.set_title(f"{title}: {int((weights != 0).sum()):,} weights")
        figure.colorbar(image, ax=axes[:2], location="bottom", shrink=0.35, aspect=40, pad=0.02)
        usage = layer.keep.sum(0).reshape(size)
        picture = axes[2].imshow(usage.numpy(), cmap=heat, vmin=0, vmax=max(1, int(usage.max())))
        unused = int((usage == 0).sum())
        axes[2].set_title(f"units that see each pixel\n({unused} of {usage.numel()} pixels unused)")
        figure.colorbar(picture, ax=axes[2], location="bottom", shrink=0.8, aspect=24, pad=0.02)
        units = int((layer.keep.any(1)).sum())
        figure.suptitle(
            f"{layer.name}: the {len(strongest)} units with the strongest weights left "
            f"(of {units} in use, {len(weight)} at first)",
            x=0.01, ha="left", fontsize=10,
        )  # fmt: skip
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        return _png(figure)


def histograms(layers: Sequence[LayerState], theme: Theme = LIGHT) -> bytes:
    """For each layer the weights, kept and pruned, and log_alpha with the threshold."""
    with _styled(theme):
        with_alpha = [layer for layer in layers if layer.log_alpha is not None]
        rows = 2 if with_alpha else 1
        figure = _figure(11, 2.8 * rows)
        axes = figure.subplots(rows, len(layers), squeeze=False)
        for i, layer in enumerate(layers):
            _weight_histogram(axes[0, i], layer, theme)
            if rows == 2:
                _log_alpha_histogram(axes[1, i], layer, theme)
        for row in axes:
            row[0].set_ylabel("weights")
        return _png(figure)


def _weight_histogram(ax: Axes, layer: LayerState, theme: Theme) -> None:
    parts = [
        (layer.weight[layer.keep], theme.line, "kept"),
        (layer.weight[~layer.keep], theme.second, "pruned"),
    ]
    parts = [part for part in parts if part[0].numel()]
    limit = float(layer.weight.abs().max()) or 1.0
    ax.hist(
        [values.numpy() for values, _, _ in parts], bins=60, range=(-limit, limit), stacked=True,
        color=[color for _, color, _ in parts], label=[label for _, _, label in parts],
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set_title(f"{layer.name}: mean weights")
    ax.legend(fontsize=8)


def _log_alpha_histogram(ax: Axes, layer: LayerState, theme: Theme) -> None:
    if layer.log_alpha is None:
        ax.set_axis_off()
        return
    ax.hist(layer.log_alpha.flatten().numpy(), bins=60, color=theme.line)
    if layer.threshold is not None:
        ax.axvline(layer.threshold, color=theme.second, label=f"pruned from {layer.threshold:g} on")
        ax.legend(fontsize=8)
    ax.set_yscale("log")
    ax.set_title(f"{layer.name}: log_alpha")
