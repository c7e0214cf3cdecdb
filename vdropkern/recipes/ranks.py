"""Several processes that train one net, as torchrun starts them: what each does, what they do together."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class RanksError(Exception):
    """Another process has failed, or they do not fit each other. The message says which and why."""


def process_count() -> int:
    """How many processes train together, by torchrun's environment variables; 1 without them."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one of them that prints and writes."""
    return process_count() == 1 or os.environ["RANK"] == "0"


@dataclass
class Ranks:
    """The processes of a run, or the only one. Every process calls each method, in the same order.

    Attributes:
        rank: number of this process. count: of all. local, local_count: the same on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    def __post_init__(self) -> None:
        self._gpus: Any = None  # torch's group for CUDA tensors; that for others is the default one

    @classmethod
    def join(cls) -> Ranks:
        """Meet the others that torchrun has started; without torchrun there are none.

        Raises:
            RanksError: they cannot be met.
        """
        if process_count() == 1:
            return cls()
        if not torch.distributed.is_available():
            raise RanksError("this torch cannot train on several processes; start one, without torchrun")
        # Optimisers import this one late, and its functions then keep the group of that moment as a default:
        # its threads outlive `leave`, and one that drops a tensor while Python ends aborts the process.
        importlib.import_module("torch.distributed.nn.functional")
        rank, count = int(os.environ["RANK"]), process_count()
        try:
            torch.distributed.init_process_group("gloo")
        except (RuntimeError, ValueError) as err:
            raise RanksError(f"process {rank} of {count} cannot meet the others: {err}") from None
        local, local_count = (os.environ.get(f"LOCAL_{name}") for name in ("RANK", "WORLD_SIZE"))
        ranks = cls(rank, count, int(local or rank), int(local_count or count))
        atexit.register(ranks.leave)  # however the process ends, none of the group's threads sees Python end
        return ranks

    @property
    def first(self) -> bool:
        return self.rank == 0

    def use(self, device: torch.device) -> None:
        """From now on sums may be of tensors on `device`, whose GPU is this process's alone."""
        if self.count > 1 and device.type == "cuda":
            torch.cuda.set_device(device)
            self._gpus = torch.distributed.new_group(backend="nccl")

    def seed(self, seed: int) -> None:
        """Give each process noise of its own, of the run's seed; the first goes on with what it has."""
        if self.rank:
            # mixed, not added: torch's CPU generator takes 32 bits of a seed, and seed + 1 is another run's
            words = np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))

    def share(self, examples: Tensor) -> Tensor:
        """This process's part of a batch, [N, ...] -> [N / count, ...]; parts differ by one at most."""
        return examples if self.count == 1 else examples.tensor_split(self.count)[self.rank]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each over the processes, in place and in one go: to the same bits on all of them."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._others():
            torch.distributed.all_reduce(flat, group=self._group(flat))
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Make each what it is in the first process, in place."""
        for tensor in tensors if self.count > 1 else ():
            with self._others():
                torch.distributed.broadcast(tensor.detach(), 0, group=self._group(tensor))

    def any(self, flag: object) -> bool:
        """Whether it is true in one of them; asked for its truth once."""
        found = bool(flag)
        if self.count == 1:
            return found
        number = torch.tensor(int(found))
        with self._others():
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return bool(number)

    def gather(self, value: T) -> list[T]:
        """The value of each process, in order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._others():
            torch.distributed.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def together(self, expected: tuple[type[Exception], ...] = ()) -> Iterator[list[Any]]:
        """A block that fails in all processes if it does in one; it must call no other method.

        The first process of each machine runs it before the others, so that what it fetches or decodes is
        there for them. What is put into the list that is handed out must be equal in all.

        Args:
            expected: errors whose message tells enough; of others the first process is told the whole story.

        Raises:
            RanksError: it failed in another process; in that one, the error itself.
        """
        equal: list[Any] = []
        if self.count == 1:
            yield equal
            return
        if self.local:
            self.gather(None)
        error: Exception | None = None
        try:
            yield equal
        except Exception as err:
            error = err
        if not self.local:
            self.gather(None)
        told = None
        if error is not None:
            told = str(error) if isinstance(error, expected) else "".join(traceback.format_exception(error))
        ends = self.gather((told, equal))
        if error is not None:
            raise error
        for rank, (text, theirs) in enumerate(ends):
            if text is not None:
                raise RanksError(f"process {rank} of {self.count}: {text}")
            if theirs != ends[0][1]:
                raise RanksError(f"process {rank} of {self.count} has other settings or data than process 0")

    def wait_for_first(self) -> None:
        """Let the first process say what went wrong: torchrun ends all as soon as one has ended."""
        if self.rank:
            with contextlib.suppress(RanksError):
                self.gather(None)

    def leave(self) -> None:
        """Part from the others, at the latest when Python ends; nothing but `first` is left to ask for."""
        self._gpus = None
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _group(self, tensor: Tensor) -> Any:
        return self._gpus if tensor.is_cuda else None

    @contextlib.contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as err:
            first_line = str(err).partition("\n")[0]
            traceback.clear_frames(err.__traceback__)  # torch's hold the group, beyond `leave`
            raise RanksError(
                f"process {self.rank} of {self.count} lost another, whose message says more ({first_line})"
            ) from None


ALONE = Ranks()
