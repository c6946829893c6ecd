"""Keys: who asks. The service knows their digests only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import InputError, UnauthorizedError

MARK = "rt_"  # of a key: found by those who look for secrets in what is published
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Keys:
    """The keys that are known here. Without any, everybody is one tenant without a name."""

    names: Mapping[str, str]  # by the key's digest; a name may have two keys, while one replaces the other

    @classmethod
    def parse(cls, entries: str) -> Keys:
        """From `ann:DIGEST,bob:DIGEST`. InputError says which entry is none."""
        pairs = [entry.strip().partition(":") for entry in entries.split(",") if entry.strip()]
        for name, _, digest in pairs:
            if not NAME.fullmatch(name) or not DIGEST.fullmatch(digest):
                raise InputError(
                    "RETOUCH_API_KEYS",
                    f"must be NAME:SHA256,NAME:SHA256 (see `retouch key`), the entry {name!r} is not",
                )
        names = {digest: name for name, _, digest in pairs}
        if len(names) < len(pairs):
            raise InputError("RETOUCH_API_KEYS", "one key is given twice")
        return cls(names)

    def __bool__(self) -> bool:
        return bool(self.names)

    def tenant_of(self, authorization: str | None) -> str:
        """Whose the key in this header is, "" where there are no keys at all. UnauthorizedError if it is nobody's."""
        if not self.names:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthorizedError("a key is needed: Authorization: Bearer KEY")
        came = digest_of(key.strip())
        found = [name for known, name in self.names.items() if hmac.compare_digest(known, came)]  # all, in equal time
        if not found:
            raise UnauthorizedError("the key is not known here")
        return found[0]


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the setting. InputError where the name cannot be."""
    if not NAME.fullmatch(name):
        raise InputError("name", f"must be 1 to 64 letters, digits and . _ -, got {name!r}")
    key = MARK + secrets.token_urlsafe(32)
    return key, f"{name}:{digest_of(key)}"


def digest_of(key: str) -> str:
    """SHA-256, in hex. A key is random and long, so it needs neither salt nor many rounds."""
    return hashlib.sha256(key.encode()).hexdigest()
