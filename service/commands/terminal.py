"""What the user is told beside what was asked for: on stderr."""

from __future__ import annotations

import sys

from service.jobs import Receipt


def say(text: str) -> None:
    """One line, or several."""
    sys.stderr.write(text + "\n")


def summary(receipt: Receipt) -> str:
    """What a job cost, in a few words."""
    parts = [f"{receipt.seconds['total']:.1f} s"]
    if receipt.source_id is not None:
        parts.insert(0, f"{receipt.edited_ratio:.0%} of the picture changed")
    if receipt.macs_computed and receipt.macs_dense:
        parts.append(f"{receipt.macs_computed / receipt.macs_dense:.0%} of a dense run's multiplications")
    lines = [", ".join(parts)]
    lines += [f"{fallback.stage}: {fallback.reason}" for fallback in receipt.fallbacks]
    if receipt.unknown_words:
        lines.append(f"words that the model does not know: {', '.join(receipt.unknown_words)}")
    return "\n".join(lines)
