"""A method's entry in the table of the field as plain data: for the command line and the documentation."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass

from .._method import KERNELS, NOISE_PLACES, Method

__all__ = ["Entry", "describe"]


@dataclass(frozen=True)
class Entry:
    """What the table says of one method, taken from its class and its default arguments.

    Attributes:
        name: in files and on the command line. cls: the class's name. summary: its first line.
        enters: where the noise enters. kernel: what draws it. others: other places, by argument.
        scale, prior, evaluates, prunes: in words. formula, paper, rows: as in `Method`.
        arguments: (name, default) of each argument. text: the docstring.
    """

    name: str
    cls: str
    summary: str
    enters: str
    kernel: str
    others: tuple[str, ...]
    scale: str
    prior: str
    evaluates: str
    prunes: str
    formula: str
    paper: str
    rows: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...]
    text: str

    def facts(self) -> list[tuple[str, str]]:
        """(what, in words), in the order in which they are read."""
        rows = [
            ("noise enters", self.enters),
            ("or, by argument", "; ".join(self.others)),
            ("kernel", self.kernel),
            ("training pass", self.formula),
            ("scale", self.scale),
            ("prior or penalty", self.prior),
            ("evaluation", self.evaluates),
            ("prunes", self.prunes),
            ("paper", self.paper),
            ("rows in a-series-of-dropout", "; ".join(self.rows)),
        ]
        return [(what, words) for what, words in rows if words]


def describe(cls: type[Method]) -> Entry:
    """The entry of a class of `METHODS`."""
    method, text = cls(), inspect.cleandoc(cls.__doc__ or "")
    return Entry(
        name=cls.name,
        cls=cls.__name__,
        summary=text.partition("\n")[0],
        enters=method.enters,
        kernel=KERNELS[method.enters],
        others=tuple(f"{NOISE_PLACES[noise]} (noise='{noise}')" for noise in cls.noises[1:]),
        scale=method.says_scale,
        prior=method.says_prior,
        evaluates=method.says_eval,
        prunes=method.says_prunes,
        formula=cls.formula,
        paper=cls.paper,
        rows=cls.rows,
        arguments=tuple((f.name, repr(getattr(method, f.name))) for f in dataclasses.fields(cls)),
        text=text,
    )
