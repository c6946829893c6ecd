"""The edit mask on a device: found where the latents are, and made into rows, without waiting for either.

`service/engine/masks.py` is the reference of what finds a mask, in NumPy, and what a CPU runs: on a device where
`serves` is false, call that. `pyramid` and `rows_of` need no mask to be found and run anywhere; their reference is the
plain torch beside them. All are exact: the kernels give the same bits. See kernels/edit_mask.cu and mask_rows.cu.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops import blocks
from sparse_ops.launch import FREE_SHARED_BYTES, Argument, Kernel, address, launch, on_device, why_not

THREADS = 1024
FIXED_WORDS = 384  # of a block's work, beside six bytes a position
MOST_SHARED_BYTES = 99 << 10  # of a block on every card of capability 8.0 or later; 128 x 128 positions need 97.6
NO_ELEMENT = torch.float16  # latents are float32 and masks are bytes: one build of these files serves


def serves(tensor: Tensor) -> bool:
    """Whether kernels run where the tensor is."""
    return why_not(tensor.device) is None


def difference_image(
    new: Tensor,  # [B, S, C, H, W] latents after each of the first S steps, under the edited prompt
    recorded: Tensor,  # [B, S, C, H, W] the same of the source
    least_difference: float = 0.0,  # of a single value: below it nothing differs
) -> Tensor:  # uint8 [B, H, W]
    """See `masks.difference_image`. Exact."""
    batch, steps, channels, height, width = new.shape
    image = torch.empty(batch, height, width, dtype=torch.uint8, device=new.device)
    numbers = (steps, channels, height * width, float(least_difference))
    _launch("difference_image", (_floats(new), _floats(recorded)), image, numbers)
    return image


def probe_mask(
    new: Tensor,  # [B, S, C, H, W] what S recorded latents are predicted to become, under the edited prompt
    old: Tensor,  # [B, S, C, H, W] the same under the source's prompt
    ratio: float,  # of the largest difference: what differs more, changes
    least_difference: float = 0.0,  # of a single value: below it nothing differs
) -> Tensor:  # bool [B, H, W]
    """See `masks.probe_mask`, not cleaned. Exact."""
    batch, steps, channels, height, width = new.shape
    mask = torch.empty(batch, height, width, dtype=torch.bool, device=new.device)
    numbers = (steps * channels, height * width, float(ratio), float(least_difference))
    _launch("probe_mask", (_floats(new), _floats(old)), mask, numbers)
    return mask


def paper_mask(difference: Tensor) -> Tensor:  # uint8 [B, H, W] -> bool [B, H, W]
    """See `masks.paper_mask`. Exact."""
    mask = torch.empty_like(difference, dtype=torch.bool, memory_format=torch.contiguous_format)
    _launch("paper_mask", (difference.contiguous(),), mask, tuple(difference.shape[1:]))
    return mask


def grown_mask(
    difference: Tensor,  # uint8 [B, H, W]
    weak_ratio: float,  # of Otsu's threshold
) -> Tensor:  # bool [B, H, W]
    """See `masks.grown_mask`. Exact."""
    mask = torch.empty_like(difference, dtype=torch.bool, memory_format=torch.contiguous_format)
    # of whole numbers, d > ratio * t is d > floor(ratio * t): the product of each threshold, rounded as the host does
    weaker = on_device(tuple(int(weak_ratio * threshold) for threshold in range(256)), difference.device)
    _launch("grown_mask", (difference.contiguous(), weaker), mask, tuple(difference.shape[1:]))
    return mask


def clean(
    mask: Tensor,  # bool [B, H, W]
    least: int,  # positions: smaller components are dropped, but not an image's largest
    dilation: int,  # positions added around
) -> Tensor:  # bool [B, H, W]
    """See `masks.clean`. Exact."""
    cleaned = torch.empty_like(mask, memory_format=torch.contiguous_format)
    _launch("clean_mask", (mask.contiguous(),), cleaned, (*mask.shape[1:], least, dilation))
    return cleaned


def widen(mask: Tensor, by: int) -> Tensor:  # bool [B, H, W] -> bool [B, H, W]
    """See `masks.widen`. Exact."""
    wide = torch.empty_like(mask, memory_format=torch.contiguous_format)
    _launch("widen_mask", (mask.contiguous(),), wide, (*mask.shape[1:], by))
    return wide


def pyramid(mask: Tensor, num_levels: int) -> list[Tensor]:  # bool [B, H, W] -> bool [B, H_l, W_l] each
    """The mask at each resolution, highest first; see `blocks.pyramid`. Exact; one launch."""
    if not serves(mask) or not mask.numel() or num_levels == 1:
        return blocks.pyramid(mask, num_levels)
    batch, height, width = mask.shape
    sizes = [(batch, -(-height >> level), -(-width >> level)) for level in range(1, num_levels)]
    lower = torch.empty(sum(b * h * w for b, h, w in sizes), dtype=torch.bool, device=mask.device)
    grid = ceil(sizes[0][0] * sizes[0][1] * sizes[0][2] / 256), num_levels - 1, 1
    held = mask.contiguous()
    arguments = address(held), address(lower), *_numbers((batch, height, width))
    launch(Kernel("mask_rows.cu", "mask_pyramid", 256), grid, arguments, NO_ELEMENT, mask.device)
    parts = lower.split_with_sizes([b * h * w for b, h, w in sizes])
    return [mask, *(part.view(size) for part, size in zip(parts, sizes, strict=True))]


def rows_of(
    mask: Tensor,  # bool [B, H, W]
    capacity: int,  # of the list: a graph's bucket
) -> tuple[Tensor, Tensor]:  # int32 [capacity], int32 [B + 1]
    """The active positions (image, y, x), flattened and ascending, then -1; and where each image's begin. Exact.

    Nothing waits for the device. `starts[B]` is how many there are, also where that is more than the list has room for.
    """
    if serves(mask) and mask.numel():
        index = torch.empty(capacity, dtype=torch.int32, device=mask.device)
        starts = torch.empty(len(mask) + 1, dtype=torch.int32, device=mask.device)
        held = mask.contiguous()
        numbers = _numbers((len(mask), mask[0].numel(), capacity))
        arguments = address(held), address(index), address(starts), *numbers
        launch(Kernel("mask_rows.cu", "mask_rows", THREADS, 128), (1, 1, 1), arguments, NO_ELEMENT, mask.device)
        return index, starts
    found = mask.flatten().nonzero().squeeze(1).int()[:capacity]
    starts = F.pad(mask.flatten(1).sum(1).cumsum(0), (1, 0)).int()
    return F.pad(found, (0, capacity - len(found)), value=-1), starts


def _launch(entry: str, inputs: Sequence[Tensor], out: Tensor, numbers: Sequence[float]) -> None:
    """An entry of edit_mask.cu, a block an image of `out` [B, H, W]. A block's work is shared memory where it fits.

    Either below what needs no asking for, or the most: a kernel has one limit, and sizes come in any order.
    """
    if not out.numel():
        return
    area = out[0].numel()
    words = area + 1 + ceil(area / 2)
    shared_bytes, scratch = 4 * (FIXED_WORDS + words), None
    if shared_bytes > MOST_SHARED_BYTES:
        shared_bytes, scratch = 4 * FIXED_WORDS, torch.empty(len(out) * words, dtype=torch.int32, device=out.device)
    elif shared_bytes > FREE_SHARED_BYTES:
        shared_bytes = MOST_SHARED_BYTES
    arguments = [address(tensor) for tensor in (*inputs, out, scratch)]
    launch(
        Kernel("edit_mask.cu", entry, THREADS, shared_bytes),
        (len(out), 1, 1),
        (*arguments, *_numbers(numbers)),
        NO_ELEMENT,
        out.device,
    )


def _numbers(numbers: Sequence[float]) -> list[Argument]:
    """Integers and floats as a kernel takes them."""
    return [np.int32(number) if isinstance(number, int) else np.float32(number) for number in numbers]


def _floats(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()
