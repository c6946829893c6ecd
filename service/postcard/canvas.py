"""A picture being drawn: shapes in units of its side, (0, 0) at the top left, colours under a given light."""

import random

from PIL import Image, ImageDraw

SIZE = 256  # pixels a side
SUPERSAMPLING = 2

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """The drawing surface, its random numbers, and what all things of one picture share: horizon and light."""

    def __init__(self, rng: random.Random) -> None:
        self.side = SIZE * SUPERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)
        self.rng = rng
        self.horizon = rng.uniform(0.58, 0.68)
        self.light = 1.0

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        return self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """An ellipse around (x, y) with these half axes."""
        self.draw.ellipse(self._scaled([(x - width, y - height), (x + width, y + height)]), fill=self._lit(colour))

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A filled rectangle."""
        self.draw.rectangle(self._scaled([(left, top), (right, bottom)]), fill=self._lit(colour))

    def polygon(self, points: list[Point], colour: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon(self._scaled(points), fill=self._lit(colour))

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """A straight line."""
        self.draw.line(self._scaled([start, end]), fill=self._lit(colour), width=round(width * self.side))

    def arch(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """The upper half of a ring around (x, y), drawn inwards from `radius`."""
        box = self._scaled([(x - radius, y - radius), (x + radius, y + radius)])
        self.draw.arc(box, 180, 360, fill=self._lit(colour), width=round(width * self.side))

    def near(self, middle: float, play: float) -> float:
        """A coordinate drawn at random around `middle`."""
        return self.rng.uniform(middle - play, middle + play)

    def _scaled(self, points: list[Point]) -> list[Point]:
        return [(x * self.side, y * self.side) for x, y in points]

    def _lit(self, colour: Colour) -> Colour:
        return blend((0, 0, 0), colour, self.light)


def blend(first: Colour, second: Colour, part: float) -> Colour:
    """The colour at `part` of the way from the first to the second."""
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue
