"""How long work looks, every now and then, whether it is still wanted."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, TypeVar

    Item = TypeVar("Item")

EVERY = 1000
"""Records between two looks: some milliseconds."""


def nothing_to_check() -> None:
    """Let the work go on to its end."""


def paced(items: Iterable[Item], check: Callable[[], None]) -> Iterator[Item]:
    """Yield the items; `check` is called before the first and every thousandth, and may raise to end the work."""
    for count, item in enumerate(items):
        if count % EVERY == 0:
            check()
        yield item
