"""Counts the pixels in which our edit mask differs from the paper's.

    python -m loadtests.masks --cases FILE.npz --json      {"cases": 250, "wrong_pixels": 0}

FILE holds difference images and the masks published for them: `differences` uint8 [N, H, W], and `masks` of the same
positions, `np.packbits` along each row of the flattened [N, H * W]. Without it, seeded differences of our own are
compared with what OpenCV makes of them, which needs `opencv-python-headless`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.engine.masks import paper_mask

Cases = tuple[NDArray[np.uint8], NDArray[np.bool_]]  # differences and their masks, both [N, H, W]


class CasesError(Exception):
    """The file cannot be used; the text says why."""


def read_cases(path: Path) -> Cases:
    """Difference images and published masks of a file; `CasesError` where it does not hold them."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            differences, packed = arrays["differences"], arrays["masks"]
    except OSError as error:
        raise CasesError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the readers of zip, deflate and npy each raise their own
        raise CasesError(f"{path} must be an .npz file with the arrays differences and masks: {error}") from error
    if differences.ndim != 3 or differences.dtype != np.uint8 or not differences.size:
        raise CasesError(f"differences must be uint8 [N, H, W], are {differences.dtype} {list(differences.shape)}")
    num_cases, height, width = differences.shape
    expected = (num_cases, -(-height * width // 8))
    if packed.shape != expected or packed.dtype != np.uint8:
        raise CasesError(f"masks must be packed uint8 {list(expected)}, are {packed.dtype} {list(packed.shape)}")
    bits = np.unpackbits(packed, axis=1)[:, : height * width]
    return differences, bits.reshape(differences.shape).astype(bool)


def synthetic_cases(num_cases: int, seed: int, size: int = 96) -> Cases:
    """Seeded differences, from noise to a few smooth spots, and OpenCV's masks of them."""
    try:
        import cv2  # noqa: PLC0415  # the reference, and only here; a file of cases needs no OpenCV
    except ImportError as error:
        raise CasesError("without --cases this needs OpenCV: pip install opencv-python-headless") from error
    cv2.ipp.setUseIPP(False)  # Intel's replacement of OpenCV's Otsu breaks ties elsewhere
    square = np.ones((2, 2), np.uint8)
    random = np.random.default_rng(seed)
    differences, masks = [], []
    for _ in range(num_cases):
        spots = ndimage.gaussian_filter(random.standard_normal((size, size)), random.uniform(0, 8))
        image = (spots - spots.min()) / (spots.max() - spots.min())
        difference = (255 * image ** random.uniform(0.5, 4)).astype(np.uint8)
        _, binary = cv2.threshold(difference, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        differences.append(difference)
        masks.append(cv2.dilate(cv2.erode(binary, square), square) > 0)
    return np.stack(differences), np.stack(masks)


def count_wrong_pixels(cases: Cases) -> int:
    """How many pixels of our masks differ from the expected ones."""
    return sum(int((paper_mask(difference) != expected).sum()) for difference, expected in zip(*cases, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 2 where the cases cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.masks", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, help="npz file of differences and published masks")
    parser.add_argument("--num-cases", type=int, default=250, help="how many synthetic ones, without --cases")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic ones")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args(arguments)
    if options.num_cases < 1 or options.seed < 0:
        parser.error("--num-cases must be at least 1 and --seed at least 0")
    try:
        cases = read_cases(options.cases) if options.cases else synthetic_cases(options.num_cases, options.seed)
    except CasesError as error:
        parser.error(str(error))
    result = {"cases": len(cases[0]), "wrong_pixels": count_wrong_pixels(cases)}
    print(json.dumps(result) if options.json else "{cases} masks, {wrong_pixels} wrong pixels".format(**result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
