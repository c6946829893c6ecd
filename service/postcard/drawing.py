"""Draws a scene: one function a thing.

Every kind of object has one place with some play around it. Where a kind has two likely places, a small diffusion model
draws it in both.
"""

import math
import random
from collections.abc import Callable

from PIL.Image import Image

from service.postcard.canvas import Canvas, Colour, blend
from service.postcard.scenes import GROUND_OBJECTS, Scene

SKY_COLOURS: dict[str, tuple[Colour, Colour]] = {  # at the top, at the horizon
    "clear": ((90, 170, 235), (190, 225, 250)),
    "cloudy": ((150, 165, 180), (205, 212, 220)),
    "sunset": ((250, 120, 80), (255, 205, 130)),
    "night": ((15, 20, 55), (50, 60, 110)),
}
LAND_LIGHT = {"clear": 1.0, "cloudy": 1.0, "sunset": 0.85, "night": 0.55}
OBJECT_LIGHT = {"clear": 1.0, "cloudy": 1.0, "sunset": 0.92, "night": 0.75}  # objects stay readable at night
HOUSE_COLOURS: dict[str, Colour] = {"red": (205, 60, 55), "blue": (60, 95, 200), "yellow": (240, 200, 70)}
RAINBOW_COLOURS = ((230, 60, 60), (245, 150, 50), (250, 225, 80), (90, 190, 90), (70, 120, 220), (140, 80, 190))
SPARK_COLOURS = ((255, 80, 80), (255, 220, 80), (120, 230, 255), (255, 120, 230))
SNOW, WOOD, WATER, MEADOW = (248, 250, 255), (95, 65, 50), (70, 150, 215), (105, 150, 85)


def render(scene: Scene, rng: random.Random) -> Image:
    """The picture of `scene`, RGB, 256x256; positions and small details come from `rng` alone."""
    canvas = Canvas(rng)
    draw_sky(canvas, scene.sky)
    for thing in scene.objects:
        if thing in BEHIND_LAND:
            DRAW_OBJECT[thing](canvas)
    canvas.light = LAND_LIGHT[scene.sky]
    DRAW_LAND[scene.land](canvas)
    for thing in scene.objects:
        if thing not in BEHIND_LAND:
            canvas.light = OBJECT_LIGHT[scene.sky] if thing in GROUND_OBJECTS else 1.0
            DRAW_OBJECT[thing](canvas)
    return canvas.finished()


def draw_sky(canvas: Canvas, sky: str) -> None:
    """A gradient down to the horizon, with clouds or stars."""
    top, bottom = SKY_COLOURS[sky]
    height = int(canvas.horizon * canvas.side)
    for y in range(height + 1):
        canvas.draw.line([(0, y), (canvas.side, y)], fill=blend(top, bottom, y / height))
    if sky == "cloudy":
        draw_clouds(canvas)
    elif sky == "night":
        draw_stars(canvas)


def draw_clouds(canvas: Canvas) -> None:
    """Five to seven clouds of five puffs."""
    rng = canvas.rng
    for _ in range(rng.randint(5, 7)):
        x, y, width, grey = rng.random(), rng.uniform(0.03, 0.32), rng.uniform(0.12, 0.22), rng.randint(228, 248)
        for k in range(-2, 3):
            puff = width * (0.24 - 0.05 * abs(k))
            canvas.ellipse(x + k * width * 0.22, y, puff, puff * 0.8, (grey, grey, grey + 4))


def draw_stars(canvas: Canvas) -> None:
    """Thirty small stars."""
    rng = canvas.rng
    for _ in range(30):
        x, y, radius = rng.random(), rng.uniform(0, 0.9 * canvas.horizon), rng.uniform(0.003, 0.006)
        canvas.ellipse(x, y, radius, radius, (240, 240, 220))


def draw_ground(canvas: Canvas, colour: Colour) -> None:
    """All below the horizon in one colour."""
    canvas.rectangle(0, canvas.horizon, 1, 1, colour)


def draw_mountain(canvas: Canvas, *, snow: bool = False) -> None:
    """Two peaks behind, a higher one between them, a meadow before them."""
    draw_ground(canvas, MEADOW)
    near, rng = canvas.near, canvas.rng
    draw_peak(canvas, near(0.2, 0.1), rng.uniform(0.28, 0.36), 0.34, (120, 110, 105), snow=snow)
    draw_peak(canvas, near(0.8, 0.1), rng.uniform(0.26, 0.36), 0.34, (120, 110, 105), snow=snow)
    draw_peak(canvas, near(0.5, 0.1), rng.uniform(0.38, 0.46), 0.4, (140, 125, 115), snow=snow)


def draw_peak(canvas: Canvas, x: float, height: float, width: float, rock: Colour, *, snow: bool) -> None:
    """A peak of half width `width`, its right side in shadow."""
    foot, top = canvas.horizon, canvas.horizon - height
    canvas.polygon([(x - width, foot), (x, top), (x + width, foot)], rock)
    canvas.polygon([(x, top), (x + width, foot), (x + 0.15 * width, foot)], blend(rock, (70, 65, 65), 0.4))
    if snow:
        brim = [(0.45, 0.45), (0.225, 0.3375), (0.045, 0.495), (-0.2025, 0.315), (-0.45, 0.45)]
        canvas.polygon([(x, top), *((x + dx * width, top + dy * height) for dx, dy in brim)], SNOW)


def draw_green_hill(canvas: Canvas) -> None:
    """Two round hills."""
    draw_ground(canvas, (110, 180, 80))
    canvas.ellipse(0.175, canvas.horizon + 0.18, 0.475, 0.32, (95, 165, 70))
    canvas.ellipse(0.875, canvas.horizon + 0.2, 0.525, 0.3, (120, 190, 85))


def draw_desert(canvas: Canvas) -> None:
    """Two flat dunes."""
    draw_ground(canvas, (235, 200, 130))
    canvas.ellipse(0.25, canvas.horizon + 0.115, 0.45, 0.185, (225, 185, 115))
    canvas.ellipse(0.85, canvas.horizon + 0.125, 0.45, 0.175, (240, 205, 140))


def draw_sea(canvas: Canvas) -> None:
    """Water with sixteen marks of waves."""
    draw_ground(canvas, (40, 110, 170))
    for _ in range(16):
        x, y, width = canvas.rng.random(), canvas.rng.uniform(canvas.horizon + 0.02, 1), canvas.rng.uniform(0.03, 0.08)
        canvas.line((x - width, y), (x + width, y), 0.008, (90, 160, 210))


def draw_forest(canvas: Canvas) -> None:
    """Twenty-six firs along the horizon."""
    rng = canvas.rng
    draw_ground(canvas, (80, 140, 70))
    for _ in range(26):
        x, height, foot = rng.uniform(-0.05, 1.05), rng.uniform(0.14, 0.24), canvas.horizon + 0.02
        green = (30 + rng.randint(0, 25), 95 + rng.randint(0, 35), 50)
        canvas.polygon([(x - 0.32 * height, foot), (x, foot - 0.02 - height), (x + 0.32 * height, foot)], green)


def draw_sun(canvas: Canvas) -> None:
    """A yellow disc, upper left."""
    canvas.ellipse(canvas.near(0.25, 0.1), canvas.near(0.2, 0.07), 0.08, 0.08, (255, 225, 80))


def draw_moon(canvas: Canvas) -> None:
    """A pale disc with three craters, upper left."""
    x, y, radius = canvas.near(0.25, 0.1), canvas.near(0.2, 0.07), 0.075
    canvas.ellipse(x, y, radius, radius, (245, 245, 225))
    for dx, dy, part in ((-0.3, -0.2, 0.2), (0.25, 0.3, 0.24), (0.25, -0.4, 0.15)):
        canvas.ellipse(x + dx * radius, y + dy * radius, part * radius, part * radius, (212, 212, 196))


def draw_rainbow(canvas: Canvas) -> None:
    """Six bands from horizon to horizon."""
    x = canvas.near(0.5, 0.07)
    for i, colour in enumerate(RAINBOW_COLOURS):
        canvas.arch(x, canvas.horizon, 0.44 - 0.023 * i, 0.024, colour)


def draw_fireworks(canvas: Canvas) -> None:
    """Three bursts of twelve rays, right of where the moon stands."""
    for middle in (0.45, 0.65, 0.85):
        x, y, radius = canvas.near(middle, 0.05), canvas.near(0.21, 0.09), canvas.rng.uniform(0.095, 0.13)
        colour = canvas.rng.choice(SPARK_COLOURS)
        for k in range(12):
            dx, dy = radius * math.cos(k * math.pi / 6), radius * math.sin(k * math.pi / 6)
            canvas.line((x + 0.25 * dx, y + 0.25 * dy), (x + dx, y + dy), 0.014, colour)


def draw_bird(canvas: Canvas) -> None:
    """One dark bird with spread wings, in the middle of the sky."""
    x, y, dark = canvas.near(0.5, 0.1), canvas.near(0.15, 0.06), (45, 45, 60)
    for side in (-1, 1):
        wing = [(0, 0.02), (0.05, -0.035), (0.12, -0.05), (0.07, 0.0), (0.0, 0.035)]
        canvas.polygon([(x + side * dx, y + dy) for dx, dy in wing], dark)
    canvas.ellipse(x, y + 0.02, 0.022, 0.032, dark)


def draw_balloon(canvas: Canvas) -> None:
    """A red balloon with a yellow stripe and a basket, upper right."""
    x, y, radius = canvas.near(0.77, 0.09), canvas.near(0.22, 0.07), 0.09
    canvas.ellipse(x, y, radius, radius, (225, 60, 60))
    canvas.ellipse(x, y, 0.45 * radius, radius, (250, 220, 90))
    canvas.rectangle(x - 0.032, y + 1.2 * radius, x + 0.032, y + 1.7 * radius, (120, 80, 50))


def draw_river(canvas: Canvas) -> None:
    """Water that widens from the horizon to the lower edge."""
    top, bottom = canvas.near(0.5, 0.06), canvas.near(0.5, 0.1)
    left, right = [], []
    for i in range(21):
        t = i / 20
        x, y = top + (bottom - top) * t + 0.06 * t * math.sin(5 * t), canvas.horizon + t * (1 - canvas.horizon)
        left.append((x - 0.015 - 0.15 * t, y))
        right.append((x + 0.015 + 0.15 * t, y))
    canvas.polygon(left + right[::-1], WATER)


def draw_house(canvas: Canvas, colour: Colour) -> None:
    """A house with a dark roof, a door and two lit windows, left."""
    x, y, width, height = canvas.near(0.25, 0.09), canvas.near(0.85, 0.04), 0.11, 0.14
    canvas.rectangle(x - width, y - height, x + width, y, colour)
    canvas.polygon([(x - 1.25 * width, y - height), (x, y - height - 0.1), (x + 1.25 * width, y - height)], WOOD)
    canvas.rectangle(x - 0.22 * width, y - 0.55 * height, x + 0.22 * width, y, (75, 50, 40))
    for side in (-0.62, 0.62):
        left, right = x + (side - 0.17) * width, x + (side + 0.17) * width
        canvas.rectangle(left, y - 0.78 * height, right, y - 0.45 * height, (250, 240, 180))


def draw_tree(canvas: Canvas) -> None:
    """A round tree, right."""
    x, y, green = canvas.near(0.78, 0.08), canvas.near(0.88, 0.04), (50, 130, 60)
    canvas.rectangle(x - 0.02, y - 0.12, x + 0.02, y, (110, 75, 50))
    for dx, dy, radius in ((-0.055, -0.15, 0.07), (0.055, -0.15, 0.07), (0, -0.215, 0.08)):
        canvas.ellipse(x + dx, y + dy, radius, radius, green)


def draw_boat(canvas: Canvas) -> None:
    """A sailing boat, in the middle of the water."""
    x, y = canvas.near(0.5, 0.12), canvas.near(0.83, 0.04)
    canvas.polygon([(x - 0.15, y), (x + 0.15, y), (x + 0.1, y + 0.075), (x - 0.1, y + 0.075)], (165, 85, 50))
    canvas.line((x, y), (x, y - 0.24), 0.02, WOOD)
    canvas.polygon([(x + 0.015, y - 0.23), (x + 0.13, y - 0.03), (x + 0.015, y - 0.03)], (250, 250, 245))


def draw_tent(canvas: Canvas) -> None:
    """An orange tent with a dark entrance, right of the middle."""
    x, y = canvas.near(0.55, 0.08), canvas.near(0.92, 0.03)
    canvas.polygon([(x - 0.15, y), (x, y - 0.2), (x + 0.15, y)], (245, 125, 40))
    canvas.polygon([(x - 0.045, y), (x, y - 0.13), (x + 0.045, y)], (90, 50, 30))


def _house(colour: str) -> Callable[[Canvas], None]:
    return lambda canvas: draw_house(canvas, HOUSE_COLOURS[colour])


DRAW_LAND: dict[str, Callable[[Canvas], None]] = {
    "mountain": draw_mountain,
    "snow mountain": lambda canvas: draw_mountain(canvas, snow=True),
    "green hill": draw_green_hill,
    "desert": draw_desert,
    "sea": draw_sea,
    "forest": draw_forest,
}
DRAW_OBJECT: dict[str, Callable[[Canvas], None]] = {
    "river": draw_river,
    "red house": _house("red"),
    "blue house": _house("blue"),
    "yellow house": _house("yellow"),
    "tree": draw_tree,
    "boat": draw_boat,
    "tent": draw_tent,
    "sun": draw_sun,
    "moon": draw_moon,
    "rainbow": draw_rainbow,
    "hot air balloon": draw_balloon,
    "fireworks": draw_fireworks,
    "bird": draw_bird,
}
BEHIND_LAND = {"sun", "moon", "rainbow"}  # the land may cover them
