import json

import numpy as np
import pytest

from loadtests.masks import main
from service.engine.masks import paper_mask


@pytest.fixture
def cases(tmp_path):
    """A function that writes a file of cases; arrays given by name replace or, as None, remove the right ones."""
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 7)).astype(np.uint8)
    packed = np.packbits(np.stack([paper_mask(image) for image in images]).reshape(3, -1), axis=1)

    def write(**changes):
        arrays = {"differences": images, "masks": packed, "source_index": np.arange(3)} | changes
        path = tmp_path / "cases.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path

    return write


def refused(capsys, *arguments):
    """What the program says on refusing; it must end with 2 and print nothing else."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert end.value.code == 2
    assert output.out == ""
    return output.err


def test_right_masks_have_no_wrong_pixel(cases, capsys):
    assert main(["--cases", str(cases()), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cases": 3, "wrong_pixels": 0}


def test_every_wrong_pixel_is_counted(cases, capsys):
    path = cases()
    masks = np.load(path)["masks"]
    masks[0, 0] ^= 0b10000001
    masks[2, 3] ^= 0b00010000
    main(["--cases", str(cases(masks=masks)), "--json"])
    assert json.loads(capsys.readouterr().out) == {"cases": 3, "wrong_pixels": 3}


def test_without_json_a_line_is_for_people(cases, capsys):
    main(["--cases", str(cases())])
    assert capsys.readouterr().out == "3 masks, 0 wrong pixels\n"


def test_without_cases_our_masks_are_opencvs(capsys):
    assert main(["--num-cases", "12", "--seed", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cases": 12, "wrong_pixels": 0}


def test_a_missing_file_is_named(tmp_path, capsys):
    assert f"{tmp_path / 'none.npz'} cannot be read: No such file" in refused(capsys, "--cases", tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_file_of_another_kind_is_refused(content, tmp_path, capsys):
    path = tmp_path / "cases.npz"
    path.write_bytes(content)
    assert f"{path} must be an .npz file with the arrays differences and masks" in refused(capsys, "--cases", path)


def test_a_single_array_is_refused(tmp_path, capsys):
    np.save(tmp_path / "cases.npy", np.zeros((3, 10, 7), np.uint8))
    message = refused(capsys, "--cases", tmp_path / "cases.npy")
    assert "must be an .npz file with the arrays differences and masks" in message


def test_a_damaged_file_is_refused(cases, capsys):
    path = cases()
    damaged = bytearray(path.read_bytes())
    damaged[150] ^= 255
    path.write_bytes(damaged)
    assert f"{path} must be an .npz file" in refused(capsys, "--cases", path)


@pytest.mark.parametrize("missing", ["differences", "masks"])
def test_a_missing_array_is_named(missing, cases, capsys):
    assert f"'{missing} is not a file in the archive'" in refused(capsys, "--cases", cases(**{missing: None}))


@pytest.mark.parametrize("shape", [(3, 70), (0, 10, 7)])
def test_differences_of_another_shape_are_refused(shape, cases, capsys):
    message = refused(capsys, "--cases", cases(differences=np.zeros(shape, np.uint8)))
    assert f"differences must be uint8 [N, H, W], are uint8 {list(shape)}" in message


def test_masks_that_do_not_fit_the_differences_are_refused(cases, capsys):
    message = refused(capsys, "--cases", cases(masks=np.zeros((3, 8), np.uint8)))
    assert "masks must be packed uint8 [3, 9], are uint8 [3, 8]" in message


def test_arrays_of_objects_are_refused(cases, capsys):
    assert "must be an .npz file" in refused(capsys, "--cases", cases(differences=np.array([{}], object)))


@pytest.mark.parametrize("option", ["--num-cases=0", "--seed=-1"])
def test_impossible_numbers_are_refused(option, capsys):
    assert "--num-cases must be at least 1 and --seed at least 0" in refused(capsys, option)
