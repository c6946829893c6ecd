"""Plans as a tree of dataclasses, of which some kind of part may be changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

Tree = TypeVar("Tree")
Part = TypeVar("Part")


def each(tree: Tree, kind: type[Part], change: Callable[[Part], Part]) -> Tree:
    """A plan, or a list of them, with each part of some kind changed; always in the same order."""
    changed: Any = tree
    if isinstance(tree, kind):
        changed = change(tree)
    elif isinstance(tree, list):
        changed = [each(part, kind, change) for part in tree]
    elif is_dataclass(tree) and not isinstance(tree, type):
        held = {field.name: getattr(tree, field.name) for field in fields(tree)}
        changed = replace(tree, **{name: each(part, kind, change) for name, part in held.items()})
    return changed  # type: ignore[no-any-return]  # of the same type
