"""Why something was not computed as it was asked for, by few names: a receipt's texts have numbers in them."""

from __future__ import annotations

REASONS = {  # a part of the receipt's text, and its name
    "no activations to read": "not_readable",
    "edit of an edit": "depth",
    "was replaced by edits": "drift",
    "dense is as quick": "large_region",
    "recordings keep no attention": "no_attention_kept",
    "no attention of the source is recorded": "no_attention_recorded",
    "shallow steps leave nothing": "shallow_steps",
    "no recording is near enough": "no_source",
    "recordings are not wanted": "cache_off",
    "the mask is empty": "empty_mask",
    "the new words change nothing": "no_change",
    "its end was not read": "long_prompt",
}
OTHER = "other"


def name_of(reason: str) -> str:
    """The name of a receipt's reason; `other` where it has none yet."""
    return next((name for part, name in REASONS.items() if part in reason), OTHER)
