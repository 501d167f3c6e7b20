"""What the tasks of this study do: plain functions of plain values, as in any program that uses NeMo Run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point in the plane."""

    x: float
    y: float = 0.0


def add(a: int, b: int) -> dict[str, int]:
    """Return the sum of two numbers, as a metric."""
    print(f"{a} + {b} = {a + b}")
    return {"sum": a + b}


def add_points(first: Point, second: Point) -> dict[str, float]:
    """Return the sum of two points, each coordinate a metric."""
    total = Point(first.x + second.x, first.y + second.y)
    print(f"{first} + {second} = {total}")
    return {"x": total.x, "y": total.y}
