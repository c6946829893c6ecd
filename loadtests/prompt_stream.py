"""Prompts as people may ask for them, made up and seeded: sessions that begin at popular ones and go on with edits."""

from __future__ import annotations

import random
from itertools import count, islice

from loadtests.traces import CHAIN, EXPONENT
from service.postcard.pairs import EDITS, plain_prompt
from service.postcard.scenes import Scene, caption, sample_scene

NUM_POPULAR = 80  # scenes that sessions begin with
MOST_OBJECTS = 2  # of those: the kinds of edits know no more
OWN_WORDING_RATIO = 0.3  # of sessions


def prompts_asked(rng: random.Random, num_requests: int) -> list[str]:
    """The stream."""
    scenes = (sample_scene(rng) for _ in count())
    popular = list(islice((scene for scene in scenes if len(scene.objects) <= MOST_OBJECTS), NUM_POPULAR))
    weights = [rank**-EXPONENT for rank in range(1, NUM_POPULAR + 1)]
    asked: list[str] = []
    while len(asked) < num_requests:
        scene, wording = rng.choices(popular, weights)[0], rng.random()
        asked.append(_worded(scene, wording))
        while rng.random() > 1 / CHAIN:
            scene = _edited(scene, rng)
            asked.append(_worded(scene, wording))
    return asked[:num_requests]


def _worded(scene: Scene, wording: float) -> str:
    """In the one plain order, or in the way that somebody always words such scenes."""
    return caption(scene, random.Random(wording)) if wording < OWN_WORDING_RATIO else plain_prompt(scene)


def _edited(scene: Scene, rng: random.Random) -> Scene:
    """An edit of a kind that can be."""
    while True:
        edited = rng.choice(list(EDITS.values()))(scene, rng)
        if edited is not None and len(edited.objects) <= MOST_OBJECTS:
            return edited
