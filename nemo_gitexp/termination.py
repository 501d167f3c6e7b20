"""SIGTERM while experiments of this process go on: an exception in the main thread, and none is left without an end.

Knows no experiments: whoever has one says when it begins, how it is ended, and when it has.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


class TerminatedError(SystemExit):
    """The process was told to end by SIGTERM; leaves with the exit code that a shell shows for it."""

    def __init__(self) -> None:
        """Say the exit code."""
        super().__init__(128 + signal.SIGTERM)


class _Terminator:
    """Turns a SIGTERM that nobody else handles into an exception, as long as something goes on."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._going: dict[object, Callable[[], None]] = {}
        self._holders = 0
        self._has_come = False

    def listen(self, owner: object, end: Callable[[], None]) -> None:
        """Take SIGTERM from here on, if this is the main thread and the signal would end the process.

        Args:
            owner: what goes on.
            end: called when the program leaves because of the signal and the owner has not let go.
        """
        if self._pid != os.getpid():  # what the parent of a forked child does is the parent's
            self._pid, self._going, self._holders, self._has_come = os.getpid(), {}, 0, False
        if not self._going:
            atexit.unregister(self._leave)
            atexit.register(self._leave)
        self._going[owner] = end
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._receive)

    @contextlib.contextmanager
    def ending(self, owner: object) -> Iterator[None]:
        """Let what is done inside, the end of an owner, come to its own end; then let go of the signal.

        Raises:
            TerminatedError: it came meanwhile.
        """
        came_before = self._has_come
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            has_come = self._has_come and not came_before
            self._let_go(owner)
        if has_come and _is_main_thread():
            raise TerminatedError
        if has_come:
            os.kill(os.getpid(), signal.SIGTERM)  # heard by the main thread

    def _let_go(self, owner: object) -> None:
        self._going.pop(owner, None)
        if self._going:
            return
        self._has_come = False
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) == self._receive:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _receive(self, number: int, frame: object) -> None:
        del number, frame
        if os.getpid() != self._pid or not self._going:  # as it would end without us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        # Once: whoever cancels asks again and again, and what the program does to clean up must come to its end.
        is_first, self._has_come = not self._has_come, True
        if is_first and not self._holders:
            raise TerminatedError

    def _leave(self) -> None:
        """End what nobody has ended, when the program leaves."""
        if self._has_come and os.getpid() == self._pid:
            for end in list(self._going.values()):
                with contextlib.suppress(Exception):
                    end()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


TERMINATOR = _Terminator()
