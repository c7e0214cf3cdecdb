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

FIELDS = 36  # receptive fields shown
FIELD_COLUMNS = 6
HISTOGRAMS = 6  # layers shown


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
        compression = [r["weights"] / r["nonzero"] if r["nonzero"] else float("nan") for r in history]
        marker = "." if len(epochs) == 1 else ""
        plots: list[tuple[str, list[tuple[list[float], str]], bool]] = [
            ("NLL, nats an image", [(column("nll"), "training, noisy"), (column("test_nll"), "test")], True),
            ("test error, %", [(column("test_error"), "")], False),
            ("KL / N, nats an image", [(column("kl", 1 / train_size), "")], True),
            ("sparsity, %", [(column("sparsity", 100), "")], False),
            ("compression, weights / nonzero", [(compression, "")], True),
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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    # below two decades, decades alone would leave an axis with a number or two
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    ax.yaxis.set_minor_locator(NullLocator())


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
    from matplotlib.colors import AsinhNorm, LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    weight, kept = layer.weight, layer.weight * layer.keep
    strongest = kept.norm(dim=1).argsort(descending=True, stable=True)[:FIELDS]
    limit = float(weight[strongest].abs().max()) or 1.0
    usage = layer.keep.sum(0).reshape(size)
    with _styled(theme):
        diverging = LinearSegmentedColormap.from_list("fields", theme.diverging).with_extremes(
            bad=theme.faint
        )
        figure = _figure(11, 4.6)
        axes = figure.subplots(1, 3)
        # linear in small weights and logarithmic in large ones, so that those about to go are seen too
        norm = AsinhNorm(linear_width=limit / 50, vmin=-limit, vmax=limit)
        for ax, weights, title in ((axes[0], weight, "before pruning"), (axes[1], kept, "after pruning")):
            fields = ax.imshow(_mosaic(weights[strongest], size), cmap=diverging, norm=norm)
            ax.set_title(f"{title}: {int((weights != 0).sum()):,} weights")
        bar = figure.colorbar(fields, ax=axes[:2], location="bottom", shrink=0.5, aspect=50, pad=0.02)
        bar.set_ticks([-limit, -limit / 10, 0, limit / 10, limit], labels=_signed(limit))
        heat = LinearSegmentedColormap.from_list("heat", (theme.zero, theme.heat))
        picture = axes[2].imshow(usage.numpy(), cmap=heat, vmin=0, vmax=max(1, int(usage.max())))
        axes[2].set_title(f"units reading each pixel: {int((usage == 0).sum())} pixels unread")
        figure.colorbar(
            picture,
            ax=axes[2],
            location="bottom",
            shrink=0.9,
            aspect=45,
            pad=0.02,
            ticks=MaxNLocator(integer=True),
        )
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        figure.suptitle(
            f"{layer.name}: {int(layer.keep.any(1).sum())} of {len(weight)} units have weights left; "
            f"the {len(strongest)} strongest are shown",
            x=0.005, ha="left", fontsize=10,
        )  # fmt: skip
        return _png(figure)


def _signed(limit: float) -> list[str]:
    return [f"{value:.2g}" for value in (-limit, -limit / 10, 0, limit / 10, limit)]


def histograms(layers: Sequence[LayerState], theme: Theme = LIGHT) -> bytes:
    """For each layer, the first six at most, the weights and log_alpha, kept and pruned ones apart."""
    from matplotlib.patches import Patch

    layers = layers[:HISTOGRAMS]
    with _styled(theme):
        rows = 2 if any(layer.log_alpha is not None for layer in layers) else 1
        figure = _figure(11, 2.8 * rows)
        axes = figure.subplots(rows, len(layers), squeeze=False)
        for i, layer in enumerate(layers):
            limit = float(layer.weight.abs().max()) or 1.0
            _histogram(axes[0, i], layer.weight, layer.keep, (-limit, limit), theme)
            axes[0, i].set_title(f"{layer.name}: mean weights")
            if layer.log_alpha is not None:
                log_alpha = layer.log_alpha.expand_as(layer.weight)
                bounds = (float(log_alpha.min()) - 0.1, float(log_alpha.max()) + 0.1)
                _histogram(axes[1, i], log_alpha, layer.keep, bounds, theme)
                axes[1, i].set_title(f"{layer.name}: log_alpha")
            elif rows == 2:
                axes[1, i].set_axis_off()
        for row in axes:
            row[0].set_ylabel("weights")
        handles = [Patch(color=theme.line, label="kept"), Patch(color=theme.second, label="pruned")]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
        return _png(figure)


def _histogram(ax: Axes, values: Tensor, keep: Tensor, bounds: tuple[float, float], theme: Theme) -> None:
    for part, color in ((values[~keep], theme.second), (values[keep], theme.line)):
        if part.numel():
            ax.hist(part.numpy(), bins=64, range=bounds, color=color, alpha=0.85, histtype="stepfilled")
    ax.set_ylim(bottom=0.7)
    _log_scale(ax)
