from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.api.images import decode_mask, encode_base64, encode_png, mask_image, read_mask
from service.engine.given_mask import user_mask
from service.errors import InputError


def png(size=(64, 64), mode="L", colour="white"):
    return encode_png(Image.new(mode, size, colour))


def mask(png_bytes):
    return base64.b64encode(png_bytes).decode()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_every_kind_are_read_as_the_engine_reads_them(mode):
    colour = {"1": 1, "P": 1, "I;16": 65535, "LA": (255, 255)}.get(mode, "white")
    image = Image.new(mode, (16, 8), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    found = decode_mask(mask(encode_png(image)))
    assert found.size == (16, 8)
    assert user_mask(found, (8, 16)).all()


def test_a_mask_of_16_bits_is_not_clipped_to_8():
    greys = np.array([[0, 200, 300, 32767, 32768, 65535]], np.uint16)
    found = decode_mask(mask(encode_png(Image.fromarray(greys))))
    assert np.array_equal(np.asarray(found), greys)
    assert user_mask(found, (1, 6)).tolist() == [[False, False, False, False, True, True]]


@pytest.mark.parametrize(("form", "kind"), [("JPEG", "a JPEG"), ("GIF", "a GIF"), ("WebP", "a WebP"), ("BMP", "a BMP")])
def test_a_mask_of_another_format_is_refused_by_what_it_is(form, kind):
    file = io.BytesIO()
    Image.new("L", (16, 8)).save(file, form)
    with pytest.raises(InputError, match=f"must be a PNG, got {kind}"):
        decode_mask(mask(file.getvalue()))


def test_a_mask_is_drawn_as_large_as_its_picture():
    edit_mask = np.eye(4, dtype=bool)
    assert mask_image(edit_mask).size == (32, 32)
    drawn = mask_image(edit_mask, Image.new("RGB", (16, 16)))
    assert np.array_equal(np.asarray(drawn), np.kron(np.eye(4, dtype=np.uint8), np.full((4, 4), 255)))


def test_what_is_transparent_does_not_change():
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.putpixel((2, 3), (255, 255, 255, 255))
    assert np.argwhere(user_mask(decode_mask(mask(encode_png(image))), (8, 8))).tolist() == [[3, 2]]


def test_a_damaged_mask_is_refused_or_read_and_nothing_else():
    whole = png(mode="RGB")
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 3):
            damaged[place] = rng.integers(256)
        try:
            found = decode_mask(encode_base64(bytes(damaged)))
            user_mask(found, found.size[::-1])
        except InputError as error:
            assert error.field == "edit_mask"  # noqa: PT017  # both ends are right


def test_a_picture_survives_its_journey():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 8, 3), np.uint8))
    assert Image.open(io.BytesIO(encode_png(image))).tobytes() == image.tobytes()


def chunk(kind, data, *, crc=None):
    checked = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checked)


def header(width, height, *, depth=8, colour=0, interlaced=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def file_of(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


WHITE = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * 16) * 8))  # 16 x 8 pixels
END = chunk(b"IEND", b"")
HEAD = header(16, 8)
ZEROS = zlib.compress(bytes(80 << 20), 9)  # 80 MiB in 80 KB


def test_the_plain_file_of_these_tests_is_read():
    assert user_mask(read_mask(file_of(HEAD, WHITE, END), "edit_mask"), (8, 16)).all()


SMALL_FILES_OF_LARGE_THINGS = {
    "60000 x 60000": file_of(header(60000, 60000), WHITE, END),
    "one row too many": file_of(header(2048, 2049), WHITE, END),
    "a second header": file_of(HEAD, header(60000, 60000), WHITE, END),
    "a second header below the limit of Pillow": file_of(HEAD, header(13000, 13000), WHITE, END),
    "a header that is not the first": file_of(
        chunk(b"tEXt", bytes(8) + struct.pack(">II", 16, 8)), header(60000, 60000), WHITE, END
    ),
    "a text": file_of(HEAD, chunk(b"zTXt", b"a\0\0" + ZEROS), WHITE, END),
    "an international text": file_of(HEAD, chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS), WHITE, END),
    "many texts": file_of(HEAD, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))] * 70, WHITE, END),
    "a profile": file_of(HEAD, chunk(b"iCCP", b"a\0\0" + ZEROS), WHITE, END),
}
MORE_THAN_NEEDED = {
    "more pixels than were announced": file_of(HEAD, chunk(b"IDAT", ZEROS), END),
    "a second header after the pixels": file_of(HEAD, WHITE, header(60000, 60000), END),
    "a megabyte after the end": file_of(HEAD, WHITE, END) + bytes(1 << 20),
    "another file after the end": file_of(HEAD, WHITE, END) + file_of(header(60000, 60000), WHITE, END),
    "a claim to be animated": file_of(HEAD, chunk(b"acTL", struct.pack(">II", 2, 0)), WHITE, END),
}
BROKEN = {
    "no pixels": file_of(HEAD, END),
    "fewer pixels than were announced": file_of(HEAD, chunk(b"IDAT", zlib.compress(b"\0\xff")), END),
    "pixels that are not compressed": file_of(HEAD, chunk(b"IDAT", b"no zlib"), END),
    "a wrong checksum": file_of(chunk(b"IHDR", HEAD[8:21], crc=0), WHITE, END),
    "3 bits": file_of(header(16, 8, depth=3), WHITE, END),
    "a colour type that does not exist": file_of(header(16, 8, colour=9), WHITE, END),
    "an end in the header": file_of(HEAD)[:-3],
    "no header": file_of(WHITE, END),
    "noise": file_of(bytes(40)),
    "no palette": file_of(header(16, 8, colour=3), WHITE, END),
    "no palette, transparent": file_of(header(16, 8, colour=3), chunk(b"tRNS", bytes(3)), WHITE, END),
    "a palette of fewer colours than are transparent": file_of(
        header(16, 8, colour=3), chunk(b"PLTE", bytes(3)), chunk(b"tRNS", bytes(300)), WHITE, END
    ),
    "a chunk of 4 GiB": file_of(HEAD, b"\xff" * 12),
}


@pytest.mark.parametrize("what", SMALL_FILES_OF_LARGE_THINGS)
def test_a_small_file_of_a_large_thing_is_refused(what):
    with pytest.raises(InputError, match="edit_mask"):
        read_mask(SMALL_FILES_OF_LARGE_THINGS[what], "edit_mask")


@pytest.mark.parametrize("what", MORE_THAN_NEEDED)
def test_what_is_too_much_is_left_unread(what):
    assert read_mask(MORE_THAN_NEEDED[what], "edit_mask").size == (16, 8)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused(what):
    with pytest.raises(InputError, match=r"^edit_mask: is a broken PNG$"):  # nothing of Pillow's own
        read_mask(BROKEN[what], "edit_mask")


@pytest.mark.parametrize("size", [(0, 0), (16, 0), (2049, 8)])
def test_a_size_that_no_mask_has_is_refused_by_those_that_are(size):
    with pytest.raises(InputError, match=f"must be 1 to 2048 pixels wide and high, got {size[0]} x {size[1]}"):
        read_mask(file_of(header(*size), WHITE, END), "edit_mask")


@pytest.mark.parametrize(("transparency", "mode"), [({}, "RGB"), ({"transparency": 0}, "RGBA")])
def test_colours_of_a_palette_are_read_as_what_they_are(transparency, mode):
    image = Image.new("P", (16, 8), 1)
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, "PNG", **transparency)
    found = read_mask(file.getvalue(), "edit_mask")
    assert found.mode == mode
    assert user_mask(found, (8, 16)).all()


def test_an_interlaced_mask_is_read():
    rows = b"".join((b"\0" + b"\xff" * width) * height for width, height in ADAM7)
    found = read_mask(file_of(header(16, 8, interlaced=1), chunk(b"IDAT", zlib.compress(rows)), END), "edit_mask")
    assert user_mask(found, (8, 16)).all()


ADAM7 = [(2, 1), (2, 1), (4, 1), (4, 2), (8, 2), (8, 4), (16, 4)]  # the passes of 16 x 8 pixels
