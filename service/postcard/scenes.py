"""What a postcard shows, and the words for it: scenes, which of them are kept from training, and their captions."""

import hashlib
import random
import string
from dataclasses import dataclass

LANDS = ("mountain", "snow mountain", "green hill", "desert", "sea", "forest")
SKIES = ("clear", "cloudy", "sunset", "night")
HOUSES = ("red house", "blue house", "yellow house")
GROUND_OBJECTS = ("river", *HOUSES, "tree", "boat", "tent")
SKY_OBJECTS = ("sun", "moon", "rainbow", "hot air balloon", "fireworks", "bird")
OBJECTS = GROUND_OBJECTS + SKY_OBJECTS
ATTRIBUTES = LANDS + tuple(f"{sky} sky" for sky in SKIES) + OBJECTS  # as the judge and the evaluation name them
WORDS = tuple(sorted({"a", "an", "and", "the", "under", "with", *" ".join(ATTRIBUTES).split()}))

NOT_UNDER = {  # skies where an object is never seen
    "sun": {"cloudy", "night"},
    "moon": {"clear", "cloudy"},
    "rainbow": {"night"},
    "hot air balloon": {"night"},
    "bird": {"night"},
}
NOT_TOGETHER = (  # they would stand in one place
    set(HOUSES),
    {"river", "tent"},
    {"sun", "moon"},
    {"fireworks", "rainbow"},
    {"fireworks", "hot air balloon"},
    {"fireworks", "bird"},
)
NUM_OBJECTS_WEIGHTS = (3, 6, 7, 4)  # of pictures with 0, 1, 2 and 3 objects
MOST_OBJECTS_IN_PLACE = 2  # on the ground, and likewise in the sky
HELD_OUT_PARTS = 8  # one scene of so many is kept from training


@dataclass(frozen=True)
class Scene:
    """The attributes of one picture; `objects` are in the order of `OBJECTS`."""

    land: str
    sky: str
    objects: tuple[str, ...] = ()

    @property
    def attributes(self) -> frozenset[str]:
        """All that the picture shows, in the words of `ATTRIBUTES`."""
        return frozenset((self.land, f"{self.sky} sky", *self.objects))

    @property
    def is_held_out(self) -> bool:
        """Whether this combination is kept from training: a hash of the attributes decides, nothing else."""
        digest = hashlib.sha256("|".join((self.land, self.sky, *self.objects)).encode()).digest()
        return digest[0] % HELD_OUT_PARTS == 0


def fits(scene: Scene, thing: str) -> bool:
    """Whether `thing` may be added to `scene`."""
    if scene.sky in NOT_UNDER.get(thing, ()) or thing in scene.objects:
        return False
    if thing in GROUND_OBJECTS and (thing == "boat") != (scene.land == "sea"):
        return False
    place = GROUND_OBJECTS if thing in GROUND_OBJECTS else SKY_OBJECTS
    if sum(other in place for other in scene.objects) >= MOST_OBJECTS_IN_PLACE:
        return False
    return not any(thing in group and group & set(scene.objects) for group in NOT_TOGETHER)


def sample_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """A scene drawn at random, from the held-out combinations or from all others."""
    while True:
        scene = Scene(rng.choice(LANDS), rng.choice(SKIES))
        for _ in range(rng.choices(range(len(NUM_OBJECTS_WEIGHTS)), NUM_OBJECTS_WEIGHTS)[0]):
            places = [place for place in (_fitting(scene, GROUND_OBJECTS), _fitting(scene, SKY_OBJECTS)) if place]
            if places:
                scene = with_objects(scene, *scene.objects, rng.choice(rng.choice(places)))
        if scene.is_held_out == held_out:
            return scene


def with_objects(scene: Scene, *objects: str) -> Scene:
    """The same land and sky with these objects."""
    return Scene(scene.land, scene.sky, tuple(sorted(objects, key=OBJECTS.index)))


def caption(scene: Scene, rng: random.Random) -> str:
    """Words for `scene`: every attribute is named, in an order and form drawn at random."""
    land, sky = _with_article(scene.land), f"{rng.choice(('a', 'the'))} {scene.sky} sky"
    things = [_with_article(thing) for thing in scene.objects]
    rng.shuffle(things)
    if not things:
        return rng.choice((f"{land} under {sky}", f"{land} under {sky}", f"{land}, {sky}"))
    listed = _listed(things, rng)
    return rng.choice(
        (
            f"{land} under {sky} with {listed}",
            f"{land} under {sky} with {listed}",
            f"{land} with {listed} under {sky}",
            f"{listed}, {land}, {sky}",
            f"{land}, {sky}, {listed}",
        )
    )


def attributes_in(prompt: str) -> frozenset[str]:
    """The attributes that `prompt` names; the longer name wins, so a snow mountain is no mountain."""
    text, named = f" {prompt.lower().replace(',', ' ')} ", set()
    for name in sorted(ATTRIBUTES, key=len, reverse=True):
        if f" {name} " in text:
            named.add(name)
            text = text.replace(f" {name} ", " | ")
    return frozenset(named)


def with_strange_word(text: str, rng: random.Random) -> str:
    """`text` with a word of random letters put in: the text encoder learns to pass over what it does not know."""
    words = text.split()
    words.insert(rng.randint(0, len(words)), "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 7))))
    return " ".join(words)


def _fitting(scene: Scene, things: tuple[str, ...]) -> list[str]:
    return [thing for thing in things if fits(scene, thing)]


def _with_article(thing: str) -> str:
    return thing if thing == "fireworks" else f"a {thing}"


def _listed(things: list[str], rng: random.Random) -> str:
    if len(things) > 2 and rng.random() < 0.5:
        return f"{', '.join(things[:-1])} and {things[-1]}"
    return " and ".join(things)
