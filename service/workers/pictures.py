"""The pictures that are kept, as their owners see them."""

from __future__ import annotations

from cache_store.store import Recording, Store
from service.engine.core import Told, png_of
from service.errors import UnknownImageError
from service.workers import Blob, Drawn, Lineage


class Pictures:
    """What a store has of one tenant; another's is not there. All methods may wait for the disk, `read` makes PNGs."""

    def __init__(self, store: Store, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    def read(self, image_id: str, name: Blob) -> bytes | None:
        """As `Worker.read`."""
        with self._open(image_id) as recording:
            return png_of(recording, name)

    def lineage(self, image_id: str) -> Lineage:
        """As `Worker.lineage`."""
        picture = self._drawn(image_id)
        edits = [one for one in self._all() if one.source_id == image_id]
        return Lineage(picture, tuple(self._ancestors(picture)), tuple(edits))

    def delete(self, image_id: str) -> None:
        """As `Worker.delete`."""
        self._drawn(image_id)
        self._store.delete(image_id)

    def find(self, digest: str) -> str | None:
        """The id of the picture with these pixels, `service.engine.core.pixels_digest`; None if there is none."""
        return next((one for one in self._store.ids() if self._has(one, digest)), None)

    def _has(self, image_id: str, digest: str) -> bool:
        told = self._told(image_id)
        return told is not None and told.pixels == digest

    def _ancestors(self, picture: Drawn) -> list[Drawn]:
        found: list[Drawn] = []
        while picture.source_id is not None and (told := self._told(picture.source_id)) is not None:
            picture = _drawn(picture.source_id, told)
            found.append(picture)
        return found

    def _all(self) -> list[Drawn]:
        told = ((one, self._told(one)) for one in self._store.ids())
        return [_drawn(one, its) for one, its in told if its is not None]

    def _drawn(self, image_id: str) -> Drawn:
        told = self._told(image_id)
        if told is None:
            raise UnknownImageError(image_id)
        return _drawn(image_id, told)

    def _open(self, image_id: str) -> Recording:
        """A recording of the tenant, open."""
        if self._told(image_id) is None or (recording := self._store.open(image_id)) is None:
            raise UnknownImageError(image_id)
        return recording

    def _told(self, image_id: str) -> Told | None:
        """What a recording of the tenant says; None where there is none, or an earlier version's."""
        recording = self._store.open(image_id, uses=False)
        if recording is None:
            return None
        with recording:
            try:
                told = Told.load(recording)
            except ValueError:
                return None
        return told if told.tenant == self._tenant else None


def _drawn(image_id: str, told: Told) -> Drawn:
    return Drawn(image_id, told.prompt, told.source_id, told.sampling)
