"""Files are as they were written, or refused."""

import struct

import pytest
import torch

from cache_store.tiers.files import PAGE, VERSION, DamagedError, StoredFile, encode

META = {"name": "ä", "sizes": [1, 2]}
SECTIONS = {
    "some": torch.arange(200, dtype=torch.uint8),
    "none": torch.empty(0, dtype=torch.uint8),
    "page": torch.full((PAGE,), 7, dtype=torch.uint8),
}
REASONS = {"magic", "version", "short", "header", "checksum", "unreadable"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"".join(encode(META, SECTIONS)))
    return path


def read(path):
    file = StoredFile(path)
    file.check()
    return file


def test_what_was_written_is_read(path):
    file = read(path)
    assert file.meta == META
    for name, data in SECTIONS.items():
        assert file.section(name).equal(data)
    assert file.num_bytes == path.stat().st_size == 3 * PAGE


def test_sections_begin_at_pages(path):
    assert all(section.begin % PAGE == 0 for section in StoredFile(path).sections.values())


def test_a_long_header_takes_more_pages(tmp_path):
    sections = {f"section {number:05}": torch.tensor([number % 256], dtype=torch.uint8) for number in range(300)}
    path = tmp_path / "file"
    path.write_bytes(b"".join(encode({}, sections)))
    file = read(path)
    assert min(section.begin for section in file.sections.values()) > PAGE
    for name, data in sections.items():
        assert file.section(name).equal(data)


def test_no_bit_can_be_flipped_unnoticed(path):
    """In every byte of the header that says something, in every 29th of sections and of what fills pages."""
    whole = path.read_bytes()
    said = len(whole[:PAGE].rstrip(b"\0"))
    for place in (*range(said + 8), *range(said + 8, len(whole), 29), len(whole) - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ 1 << place % 8]))
        with pytest.raises(DamagedError) as caught:
            read(path)
        assert caught.value.reason in REASONS
        with path.open("r+b") as file:
            file.seek(place)
            file.write(whole[place : place + 1])
    read(path)


@pytest.mark.parametrize("length", [0, 1, 19, 20, 200, PAGE, 2 * PAGE, 3 * PAGE - 1])
def test_a_file_that_is_cut_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedError) as caught:
        StoredFile(path)
    assert caught.value.reason == "short"


def test_a_file_with_something_after_its_end_is_refused(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DamagedError, match="12288 bytes were written, 12292 are there"):
        StoredFile(path)


def test_another_version_is_refused(path):
    whole = bytearray(path.read_bytes())
    whole[8:12] = struct.pack("<I", VERSION + 1)
    path.write_bytes(whole)
    with pytest.raises(DamagedError, match=f"version must be {VERSION}, got {VERSION + 1}"):
        StoredFile(path)


def test_what_is_no_file_of_a_cache_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"some text, " * 1000)
    with pytest.raises(DamagedError, match="no file of a cache"):
        StoredFile(tmp_path / "file")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DamagedError, match="No such file"):
        StoredFile(tmp_path / "file")


def test_what_was_found_whole_is_not_read_again(path):
    file = read(path)
    whole = bytearray(path.read_bytes())
    whole[PAGE] ^= 1
    path.write_bytes(whole)
    file.check()


def test_a_removed_file_can_still_be_read_by_who_has_it(path):
    file = StoredFile(path)
    path.unlink()
    file.check()
    assert file.section("some").equal(SECTIONS["some"])
