"""The sixty frozen edits that the evaluation makes: pairs.json, ten of each kind, and how they were drawn."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from service.postcard.scenes import (
    HOUSES,
    LANDS,
    OBJECTS,
    SKIES,
    Scene,
    attributes_in,
    fits,
    sample_scene,
    with_objects,
)

PAIRS_FILE = Path(__file__).parent / "pairs.json"
PAIRS_PER_KIND = 10


@dataclass(frozen=True)
class EditPair:
    """One edit: the prompt of the source picture, the edited prompt, and the seed of both."""

    kind: str
    source_prompt: str
    prompt: str
    seed: int

    @property
    def asked_for(self) -> frozenset[str]:
        """Attributes that only the edited prompt names."""
        return attributes_in(self.prompt) - attributes_in(self.source_prompt)

    @property
    def removed(self) -> frozenset[str]:
        """Attributes that only the source prompt names."""
        return attributes_in(self.source_prompt) - attributes_in(self.prompt)

    @property
    def kept(self) -> frozenset[str]:
        """Attributes that both prompts name."""
        return attributes_in(self.source_prompt) & attributes_in(self.prompt)

    def is_success(self, shown: frozenset[str]) -> bool:
        """Whether a picture that shows these attributes has what was asked for and no more what was removed."""
        return self.asked_for <= shown and not self.removed & shown


def load_pairs(path: Path = PAIRS_FILE) -> list[EditPair]:
    """The frozen pairs."""
    return [EditPair(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def save_pairs(pairs: list[EditPair], path: Path = PAIRS_FILE) -> None:
    """Writes pairs as they are read again, one a line."""
    lines = ",\n".join(json.dumps(asdict(pair)) for pair in pairs)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def draw_pairs(seed: int) -> list[EditPair]:
    """Ten pairs of each kind, all different."""
    rng = random.Random(seed)
    pairs: list[EditPair] = []
    prompts: set[tuple[str, str]] = set()
    for kind, edit in EDITS.items():
        count = 0
        while count < PAIRS_PER_KIND:
            source = sample_scene(rng)
            edited = edit(source, rng)
            if edited is None or (plain_prompt(source), plain_prompt(edited)) in prompts:
                continue
            prompts.add((plain_prompt(source), plain_prompt(edited)))
            pairs.append(EditPair(kind, plain_prompt(source), plain_prompt(edited), seed=len(pairs)))
            count += 1
    return pairs


def plain_prompt(scene: Scene) -> str:
    """The words of `scene` in one fixed order: an edit changes nothing but what it means."""
    things = [thing if thing == "fireworks" else f"a {thing}" for thing in scene.objects]
    prompt = f"a {scene.land} under a {scene.sky} sky"
    return f"{prompt} with {' and '.join(things)}" if things else prompt


def add(scene: Scene, rng: random.Random) -> Scene | None:
    """One object more, named last."""
    things = [thing for thing in OBJECTS if fits(scene, thing)]
    if len(scene.objects) > 1 or not things:
        return None
    return Scene(scene.land, scene.sky, (*scene.objects, rng.choice(things)))


def remove(scene: Scene, rng: random.Random) -> Scene | None:
    """One object less."""
    if len(scene.objects) not in {1, 2}:
        return None
    return _without(scene, rng.choice(scene.objects))


def replace(scene: Scene, rng: random.Random) -> Scene | None:
    """Another object in the place of one; a house is not replaced by a house."""
    if len(scene.objects) not in {1, 2}:
        return None
    old = rng.choice(scene.objects)
    rest = _without(scene, old)
    things = [thing for thing in OBJECTS if fits(rest, thing) and thing != old and not {thing, old} <= set(HOUSES)]
    return _with_replaced(scene, old, rng.choice(things)) if things else None


def recolour(scene: Scene, rng: random.Random) -> Scene | None:
    """The same house in another colour."""
    houses = [thing for thing in scene.objects if thing in HOUSES]
    if not houses or len(scene.objects) > 2:
        return None
    return _with_replaced(scene, houses[0], rng.choice([house for house in HOUSES if house != houses[0]]))


def change_sky(scene: Scene, rng: random.Random) -> Scene | None:
    """The same land and objects under another sky that they may be seen in."""
    return _fitting(scene, Scene(scene.land, rng.choice([sky for sky in SKIES if sky != scene.sky])))


def change_land(scene: Scene, rng: random.Random) -> Scene | None:
    """The same sky and objects over another land that they may stand on."""
    return _fitting(scene, Scene(rng.choice([land for land in LANDS if land != scene.land]), scene.sky))


EDITS: dict[str, Callable[[Scene, random.Random], Scene | None]] = {
    "add": add,
    "remove": remove,
    "replace": replace,
    "recolour": recolour,
    "sky": change_sky,
    "land": change_land,
}


def _without(scene: Scene, thing: str) -> Scene:
    return with_objects(scene, *(other for other in scene.objects if other != thing))


def _with_replaced(scene: Scene, old: str, new: str) -> Scene:
    return Scene(scene.land, scene.sky, tuple(new if thing == old else thing for thing in scene.objects))


def _fitting(scene: Scene, bare: Scene) -> Scene | None:
    """`bare` with the objects of `scene`, if there are at most two and all of them fit."""
    if len(scene.objects) > 2 or not all(fits(bare, thing) for thing in scene.objects):
        return None
    return with_objects(bare, *scene.objects)
