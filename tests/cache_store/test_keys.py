import math
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_store.keys import recording_id

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
IDENTITIES = st.dictionaries(st.text(), PLAIN | st.lists(PLAIN, max_size=3), min_size=1, max_size=5)


def test_a_key_never_changes():  # recordings on disk and in the index are found by it
    assert recording_id({"prompt": "a red house", "seed": 3}) == "f29397db7a633942f39f"


@given(IDENTITIES)
def test_order_does_not_matter(identity):
    assert recording_id(dict(reversed(identity.items()))) == recording_id(identity)


@given(IDENTITIES, st.data())
def test_every_value_matters(identity, data):
    name = data.draw(st.sampled_from(sorted(identity)))
    other = data.draw(PLAIN.filter(lambda value: repr(value) != repr(identity[name])))
    assert recording_id(identity | {name: other}) != recording_id(identity)


@given(IDENTITIES, st.data())
def test_every_name_matters(identity, data):
    name = data.draw(st.sampled_from(sorted(identity)))
    assert recording_id({one: value for one, value in identity.items() if one != name}) != recording_id(identity)


def test_it_is_20_hexadecimal_digits():
    key = recording_id({})
    assert len(key) == 20
    assert int(key, 16) >= 0


def test_any_mapping_will_do():
    assert recording_id(MappingProxyType({"a": 1})) == recording_id({"a": 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        recording_id({"guidance_scale": value})


def test_what_is_not_json_is_refused():
    with pytest.raises(TypeError, match="not JSON serializable"):
        recording_id({"image": b"png"})
