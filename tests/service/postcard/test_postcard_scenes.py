import random
from dataclasses import replace

import numpy as np
import pytest

from service.postcard.drawing import DRAW_LAND, DRAW_OBJECT, render
from service.postcard.pictures import captions_of, picture_of, pixels_of, scene_of
from service.postcard.scenes import (
    ATTRIBUTES,
    LANDS,
    OBJECTS,
    SKIES,
    WORDS,
    Scene,
    attributes_in,
    caption,
    fits,
    sample_scene,
    with_strange_word,
)


def test_the_same_seed_draws_the_same_picture():
    scene = Scene("snow mountain", "night", ("red house", "moon", "fireworks"))
    first, again, other = (np.asarray(render(scene, random.Random(seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_picture_is_256_pixels_a_side_in_rgb():
    assert picture_of(0).shape == (256, 256, 3)
    assert pixels_of([0, 1]).shape == (2, 3, 256, 256)


def test_picture_numbers_are_worth_the_same_picture_each_time():
    assert np.array_equal(picture_of(5), picture_of(5))
    assert captions_of(5) == captions_of(5)


@pytest.mark.parametrize("thing", OBJECTS)
def test_every_object_changes_the_picture_where_it_stands(thing):
    land = "sea" if thing == "boat" else "green hill"
    bare = np.asarray(render(Scene(land, "sunset"), random.Random(3))).astype(int)
    drawn = np.asarray(render(Scene(land, "sunset", (thing,)), random.Random(3))).astype(int)
    assert (np.abs(bare - drawn).max(2) > 30).mean() > 0.005


def test_every_land_and_object_has_a_function_that_draws_it():
    assert set(DRAW_LAND) == set(LANDS)
    assert set(DRAW_OBJECT) == set(OBJECTS)


def test_captions_name_every_attribute_and_no_other():
    rng = random.Random(0)
    for _ in range(500):
        scene = sample_scene(rng)
        assert attributes_in(caption(scene, rng)) == scene.attributes


def test_captions_come_in_several_orders():
    scene = Scene("desert", "clear", ("tree", "sun"))
    rng = random.Random(0)
    assert len({caption(scene, rng) for _ in range(200)}) >= 10


def test_captions_use_known_words_only():
    rng = random.Random(0)
    for _ in range(200):
        assert set(caption(sample_scene(rng), rng).replace(",", " ").split()) <= set(WORDS)


def test_a_strange_word_is_put_in_and_nothing_is_lost():
    text = "a sea under a clear sky"
    strange = with_strange_word(text, random.Random(0)).split()
    assert len(strange) == len(text.split()) + 1
    assert [word for word in strange if word in text.split()] == text.split()


def test_a_snow_mountain_is_not_read_as_a_mountain():
    assert attributes_in("a snow mountain, the night sky") == {"snow mountain", "night sky"}
    assert attributes_in("A Mountain under a clear sky with a snow mountain") == {
        "mountain",
        "snow mountain",
        "clear sky",
    }


def test_sampled_scenes_obey_what_fits():
    rng = random.Random(0)
    for _ in range(500):
        scene = sample_scene(rng)
        for thing in scene.objects:
            others = tuple(other for other in scene.objects if other != thing)
            assert fits(replace(scene, objects=others), thing)


def test_every_attribute_and_every_number_of_objects_is_sampled():
    scenes = [scene_of(number) for number in range(2000)]
    assert set().union(*(scene.attributes for scene in scenes)) == set(ATTRIBUTES)
    assert {len(scene.objects) for scene in scenes} == {0, 1, 2, 3}


def test_training_and_held_out_scenes_share_no_combination():
    training = {scene_of(number) for number in range(3000)}
    held_out = {scene_of(number, held_out=True) for number in range(500)}
    assert not training & held_out
    assert all(scene.is_held_out for scene in held_out)


def test_about_one_combination_in_eight_is_held_out():
    pairs = [Scene(land, sky, (thing,)) for land in LANDS for sky in SKIES for thing in OBJECTS]
    # 312 combinations, a hash: 39 expected, within four standard deviations of a binomial count
    assert 16 <= sum(scene.is_held_out for scene in pairs) <= 62


def test_the_order_of_objects_does_not_decide_what_is_held_out():
    held_out = [scene_of(number, held_out=True) for number in range(200)]
    assert all(list(scene.objects) == sorted(scene.objects, key=OBJECTS.index) for scene in held_out)
