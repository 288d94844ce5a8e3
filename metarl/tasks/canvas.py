"""A canvas for plain pictures of tasks, drawn in a millisecond or a few.

Families of tasks draw their episodes with it, and pictures get their captions by it. It imports
no torch and no matplotlib, since worker processes load the families.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Frame: TypeAlias = npt.NDArray[np.uint8]
"""One picture, ``[height, width, 3]``."""

Length: TypeAlias = int | float
"""Pixels of the finished picture."""

Point: TypeAlias = Sequence[Length] | npt.NDArray[Any]
"""Pixels from the left and from the top."""

WHITE, INK, GREY, PALE = "#ffffff", "#222222", "#9a9a9a", "#e6e6e6"
BLUE, FAINT_BLUE, LIGHT_BLUE = "#2a6fbb", "#8db6de", "#c4dbf2"
ORANGE, GREEN, RED = "#e8891c", "#2f9e5f", "#c8382f"

_SCALE = 2
"""A picture is drawn twice as large and then halved, which smooths its edges."""


class Canvas:
    """An empty picture to draw into; all lengths are pixels of the finished picture.

    Args:
        width: the width of the picture.
        height: the height of the picture.
        color: the color of the background.
    """

    def __init__(self, width: int, height: int, color: str = WHITE) -> None:
        self._size = width, height
        self._image = Image.new("RGB", (width * _SCALE, height * _SCALE), color)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Iterable[Point], color: str = INK, width: Length = 2) -> None:
        """Draw a line through ``points``."""
        scaled = [_scaled(point) for point in points]
        self._draw.line(scaled, color, round(width * _SCALE), joint="curve")

    def disc(
        self, center: Point, radius: Length, color: str | None = INK, edge: str | None = None
    ) -> None:
        """Draw a disc, with an edge of two pixels if that has a color."""
        (x, y), r = _scaled(center), radius * _SCALE
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse(box, color, edge, width=2 * _SCALE if edge else 0)

    def box(
        self, corner: Point, opposite: Point, color: str | None = INK, edge: str | None = None
    ) -> None:
        """Draw a rectangle, with an edge of two pixels if that has a color."""
        (x0, y0), (x1, y1) = _scaled(corner), _scaled(opposite)
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        self._draw.rectangle(box, color, edge, width=2 * _SCALE if edge else 0)

    def text(
        self, at: Point, words: str, size: Length = 14, color: str = INK, anchor: str = "mm"
    ) -> None:
        """Write ``words``; ``anchor`` is Pillow's: ``mm`` centers them, ``lm`` starts there."""
        self._draw.text(_scaled(at), words, color, _font(round(size * _SCALE)), anchor)

    def frame(self) -> Frame:
        """Return the picture."""
        return np.asarray(self._image.reduce(_SCALE), np.uint8)


def text_width(words: str, size: Length = 14) -> float:
    """Return how many pixels wide ``words`` are."""
    return float(_font(round(size * _SCALE)).getlength(words)) / _SCALE


def shortened(words: str, width: Length, size: Length = 14) -> str:
    """Return ``words``, cut off with an ellipsis if they are wider than ``width`` pixels."""
    if text_width(words, size) <= width:
        return words
    while words and text_width(words + "…", size) > width:
        words = words[:-1]
    return words.rstrip() + "…"


@functools.cache
def _font(size: int) -> Any:
    """Return Pillow's own font, which has Latin letters and digits but few symbols."""
    return ImageFont.load_default(size)


def _scaled(point: Point) -> tuple[float, float]:
    return float(point[0]) * _SCALE, float(point[1]) * _SCALE
