"""What a recording is called: a digest of everything that draws its image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def recording_id(identity: Mapping[str, Any]) -> str:
    """20 hexadecimal digits; equal for equal identities whatever the order of their names.

    Values must be JSON (TypeError otherwise; ValueError for NaN, which is unequal to itself). 7 and 7.0 are two values.
    """
    canonical = json.dumps(dict(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]
