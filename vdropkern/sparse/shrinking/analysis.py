"""What a run of the graph tells of each tensor's units: which go together, which never change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ..._surgery import PLAIN, WeightLayer, plain_class, why_not_plain
from ...nn import Dropout
from .layers import Layer
from .scales import scale_and_shift, unit_axis
from .tables import (
    AVERAGE_POOLS,
    IDENTITIES,
    NORMS,
    POINTWISE,
    POINTWISE_NAMES,
    POOL_NAMES,
    POOLS,
    REDUCTION_NAMES,
    RESHAPE_NAMES,
    SAME_NAMES,
    argument,
    first_input,
    function_name,
    in_place,
)
from .trace import ShrinkError, Traced
from .units import Units, UnitSets

__all__ = ["Analysis"]

_PASSED = object()  # a node without units that needs no remark


class Analysis(fx.Interpreter):
    """Runs the graph on a sample and keeps the `Units` of each tensor where they are known.

    What it cannot follow needs all units that enter it: they are pinned, and `remarks` says so.
    """

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.model, graph=traced.graph)
        self.extra_traceback = False
        self.traced = traced
        self.sets = UnitSets()
        self.units: dict[fx.Node, Units] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.layers: list[Layer] = []
        self.per_unit: list[tuple[torch.nn.Module, Tensor]] = []  # modules with one parameter a unit, the ids
        self.remarks: list[str] = []
        self._storage: dict[fx.Node, int] = {}  # where its numbers lie

    def run_on(self, *sample: Tensor) -> Analysis:
        """Raises ShrinkError where the graph cannot run, as of code that asks what type its input is."""
        self.result = self.run(*(x.clone() for x in sample))
        return self

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.traced.attributes[target]

    def run_node(self, n: fx.Node) -> Any:
        module = self.traced.module(n) if n.op == "call_module" else None
        # before the run, as it may change what it reads
        found = None if n.op in ("placeholder", "get_attr", "output") else self._rule(n, module)
        try:
            result = super().run_node(n)
        except Exception as err:
            raise ShrinkError(f"shrink: traced by torch.fx, the model fails at {n.name}: {err}") from err
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
            self._storage[n] = result.untyped_storage().data_ptr()
        if callable(found):
            found = found(result)
        if found is None:
            self._give_up(n)
        if in_place(n, module):
            self._forget(n.all_input_nodes[0])
        if isinstance(found, Units):
            self.units[n] = found
        return result

    def _give_up(self, node: fx.Node) -> None:
        entering = [n for n in node.all_input_nodes if n in self.units]
        for n in entering:
            self.sets.pin(self.units[n].ids)
        layer = node.op == "call_module" and isinstance(self.traced.module(node), PLAIN)
        if (entering or layer) and node.op != "output":
            what = (
                node.target if node.op != "call_function" else getattr(node.target, "__name__", node.target)
            )
            self.remarks.append(f"{node.name} ({what}) needs all of its inputs")

    def _forget(self, written: fx.Node) -> None:
        """Forget the constants of all tensors in memory that a node wrote to."""
        for node, units in self.units.items():
            if self._storage[node] == self._storage.get(written):
                self.units[node] = units.with_const(None)

    def _rule(self, node: fx.Node, module: torch.nn.Module | None) -> Any:
        """`Units` of the node's result; a function of the result that gives them; None if not understood."""
        first = first_input(node)
        units = self.units.get(first) if isinstance(first, fx.Node) else None
        kind, name = type(module), "" if module is not None else function_name(node)
        if isinstance(module, PLAIN):
            return self._weight_layer(node, module, first)
        if module is not None and self.traced.hooked(module):
            return None
        if name == "cat":
            return self._cat(node)
        if kind in POINTWISE or name in POINTWISE_NAMES:
            return self._pointwise(node, module)
        if units is None:
            return None if any(n in self.units for n in node.all_input_nodes) else _PASSED
        assert isinstance(first, fx.Node)
        if kind in IDENTITIES or (name in SAME_NAMES and not argument(node, 2, "training", False)):
            return units
        if kind in NORMS or kind is Dropout:
            return self._scaled(node, module, first, units) if self.traced.alone(node) else None
        if kind in POOLS or name in POOL_NAMES:
            return self._pool(node, module, first, units)
        if kind is torch.nn.Flatten or name in RESHAPE_NAMES:
            return lambda result: self._reshape(node, first, result)
        if name in REDUCTION_NAMES:
            return self._reduction(node, first, units)
        if name in ("size", "getattr"):
            return self._size(node, first, units, name)
        return None

    def _weight_layer(self, node: fx.Node, layer: WeightLayer, x: Any) -> Any:
        plain = type(layer) is plain_class(layer) and why_not_plain(layer) is None
        if not plain or not self.traced.alone(node) or len(node.all_input_nodes) != 1:
            return None
        axis = unit_axis(layer, len(self.shapes[x]))
        units = self.units.get(x)
        if units is None or units.axis != axis:
            if units is not None:
                self.sets.pin(units.ids)
            count = layer.weight.shape[1] * getattr(layer, "groups", 1)
            ids = self.sets.fresh(count)
            self.sets.pin(ids)
            units = Units(axis, ids, torch.full((count,), torch.nan, dtype=torch.float64))
        made = Layer(str(node.target), layer, units, self.sets)
        self.layers.append(made)
        return Units(axis, made.ids_out, made.const_out())

    def _pointwise(self, node: fx.Node, module: torch.nn.Module | None) -> Any:
        """y = f(a, b, ...), element by element: the same units, and constant where all of them are."""
        tensors = [n for n in node.all_input_nodes if n in self.shapes]
        known = [n for n in tensors if n in self.units]
        if not known:
            return _PASSED
        first, ndim = self.units[known[0]], len(self.shapes[known[0]])
        same = all(
            len(self.shapes[n]) == ndim
            and self.units[n].axis == first.axis
            and self.units[n].ids.shape == first.ids.shape
            for n in known
        )
        if len(known) != len(tensors) or not same or (module is not None and len(known) > 1):
            return None
        if type(module) is torch.nn.PReLU and module.num_parameters > 1:
            if first.axis != 1 or not self.traced.alone(node):
                return None
            self.per_unit.append((module, first.ids))
        for n in known[1:]:
            self.sets.join(first.ids, self.units[n].ids)
        shape = [-1 if axis == first.axis else 1 for axis in range(ndim)]

        def constant(n: fx.Node) -> Any:
            return self.units[n].const.to(self.env[n]).reshape(shape) if n in self.units else self.env[n]

        args = fx.node.map_arg(node.args, constant)
        kwargs = fx.node.map_arg(node.kwargs, constant)
        call = getattr(self, node.op)
        const = call(node.target, args, kwargs).cpu().double().reshape(-1)
        unknown = torch.stack([self.units[n].const.isnan() for n in known]).any(0)
        return first.with_const(torch.where(unknown, torch.nan, const))

    def _scaled(self, node: fx.Node, module: Any, x: fx.Node, units: Units) -> Any:
        """y = x s + t with one s and one t a unit."""
        fixed = scale_and_shift(module)
        ndim = len(self.shapes[x])
        if fixed is None or units.axis != unit_axis(module, ndim):
            return None
        self.per_unit.append((module, units.ids))
        shape = [-1 if axis == units.axis else 1 for axis in range(ndim)]
        const = module(units.const.to(self.env[x]).reshape(shape)).cpu().double().reshape(-1)
        scale, shift = (part.cpu().double() for part in fixed)
        return units.with_const(torch.where(scale == 0, shift, const))

    def _pool(self, node: fx.Node, module: torch.nn.Module | None, x: fx.Node, units: Units) -> Any:
        name = function_name(node)
        dimensions = POOL_NAMES[name] if module is None else POOLS[type(module)]
        indices = getattr(module, "return_indices", False) or node.kwargs.get("return_indices")
        if units.axis >= len(self.shapes[x]) - dimensions or indices:
            return None
        if type(module) in AVERAGE_POOLS:
            padding, divisor = module.padding, getattr(module, "divisor_override", None)  # type: ignore[union-attr]
        elif name.startswith("avg"):
            padding, divisor = argument(node, 3, "padding", 0), argument(node, 6, "divisor_override", None)
        else:
            return units
        # what an average takes from beyond the border, or divides by, makes another number of all but zeros
        plain = padding in (0, (0,), (0, 0)) and divisor is None
        return units if plain else units.with_const(torch.where(units.const == 0, 0.0, torch.nan))

    def _reshape(self, node: fx.Node, x: fx.Node, result: Tensor) -> Any:
        """Units that keep their dimension, or whose dimension merges with what follows it."""
        units, before, after = self.units[x], self.shapes[x], result.shape
        axis = units.axis
        if result.ndim <= axis or before[:axis] != after[:axis]:
            return None
        if function_name(node) in ("view", "reshape"):
            given = argument(node, 1, "shape" if node.op == "call_function" else "size", ())
            sizes = given if isinstance(given, (tuple, list)) else node.args[1:]
            if len(sizes) <= axis or sizes[axis] != -1:
                return None
        if after[axis] == before[axis] and after[axis + 1 :].numel() == before[axis + 1 :].numel():
            return units
        for end in range(axis + 1, len(before) + 1):
            repeat = math.prod(before[axis + 1 : end])
            if after[axis] == before[axis] * repeat and after[axis + 1 :] == before[end:]:
                return Units(axis, units.ids.repeat_interleave(repeat), units.const.repeat_interleave(repeat))
        return None

    def _reduction(self, node: fx.Node, x: fx.Node, units: Units) -> Any:
        ndim = len(self.shapes[x])
        dims = argument(node, 1, "dim", None)
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
            return None
        gone = {dim % ndim for dim in dims}
        if not gone or units.axis in gone:
            return None
        kept = argument(node, 2, "keepdim", False)
        axis = units.axis if kept else units.axis - sum(dim < units.axis for dim in gone)
        return Units(axis, units.ids, units.const)

    def _size(self, node: fx.Node, x: fx.Node, units: Units, name: str) -> Any:
        """Sizes are read freely, save that of the units' own dimension."""
        ndim = len(self.shapes[x])
        asked = argument(node, 1, "dim", None)
        if name == "getattr" and asked != "shape":
            return _PASSED if asked in ("device", "dtype", "ndim") else None
        if name == "size" and isinstance(asked, int):
            return None if asked % ndim == units.axis else _PASSED
        for user in node.users:
            item = user.args[1] if function_name(user) == "getitem" else None
            if not isinstance(item, int) or item % ndim == units.axis:
                return None
        return _PASSED

    def _cat(self, node: fx.Node) -> Any:
        parts: Any = argument(node, 0, "tensors", None)
        dim = argument(node, 1, "dim", 0)
        known = [self.units.get(n) for n in parts] if isinstance(parts, (tuple, list)) else [None]
        if all(units is None for units in known):
            return _PASSED
        whole = [units for units in known if units is not None]
        ndim = len(self.shapes[parts[0]])
        if len(whole) != len(known) or any(units.axis != dim % ndim for units in whole):
            return None
        ids, const = torch.cat([u.ids for u in whole]), torch.cat([u.const for u in whole])
        return Units(whole[0].axis, ids, const)
