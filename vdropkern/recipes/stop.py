"""Stopping on Ctrl-C and SIGTERM between two steps, where the training state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets a flag; a second SIGINT interrupts at once.

    Outside the main thread, where Python delivers no signals, it is never set.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
