"""Every operator that has a kernel, at the shapes of Stable Diffusion 2.1: correct first, then timed.

scene.py      a mask at its resolutions, and random tensors of their shapes
case.py       one operator at one shape: ours, what it means, torch's over the whole map, what it must cost
operators.py  all cases of a scene
clock.py      milliseconds of one call, and the card's own limits in the same run
report.py     a case measured, as plain data and as a line
sweep.py      tiles, warps and splits, to set `choose_*` by
"""
