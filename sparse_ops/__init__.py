"""Operators on rows: recompute some positions of an activation, read the others.

`plan` says which rows and where their neighbours lie, `reference` computes them, `context` tells a network what to
compute, read and keep. `DESIGN.md` follows one mask through.
"""
