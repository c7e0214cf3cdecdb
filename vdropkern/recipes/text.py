"""Numbers as people read them, the same on screen and in reports."""

from __future__ import annotations


def cell(value: object) -> str:
    """A value in a table: counts and what is large whole, other numbers with four figures."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def compression(weights: int, nonzero: int) -> str:
    """weights / nonzero as 63.8x, or that nothing is left."""
    return f"{weights / nonzero:.1f}x" if nonzero else "nothing left"


def plural(count: int, noun: str) -> str:
    """1 thread, 2 threads, 2 processes."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"
