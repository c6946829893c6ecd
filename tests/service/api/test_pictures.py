"""Pictures as their tenants see them, over the embedded model."""

from __future__ import annotations

import pytest

from service.api.keys import digest_of
from service.settings import Settings

pytestmark = pytest.mark.anyio

OLD = "a snow mountain under a night sky with a red house"
NEW = "a snow mountain under a night sky with a blue house"
DRAWING = {"seed": 5, "num_inference_steps": 2}
ANN = {"authorization": "Bearer ann-key"}
BOB = {"authorization": "Bearer bob-key"}


@pytest.fixture(scope="module")
async def service(serve):
    """For two keys; with a picture of Ann's and an edit of it."""
    entries = ",".join(f"{name}:{digest_of(name + '-key')}" for name in ("ann", "bob"))
    async with serve(Settings(device="cpu", threads=1, api_keys=entries)) as opened:
        opened.app.state.worker._batcher.wait_opened()
        yield opened


@pytest.fixture(scope="module")
async def source(service):
    response = await service.post("/generate", json={"prompt": OLD, **DRAWING}, headers=ANN)
    assert response.status_code == 200, response.text
    return response.json()["image_id"]


@pytest.fixture(scope="module")
async def edited(service, source):
    response = await service.post("/edit", json={"prompt": NEW, "image_id": source}, headers=ANN)
    assert response.status_code == 200, response.text
    return response.json()["image_id"]


async def test_a_lineage_tells_ancestors_and_edits(service, source, edited):
    above = (await service.get(f"/images/{source}/lineage", headers=ANN)).json()
    below = (await service.get(f"/images/{edited}/lineage", headers=ANN)).json()
    old = {"image_id": source, "prompt": OLD, "source_id": None, "image_url": f"/images/{source}"}
    new = {"image_id": edited, "prompt": NEW, "source_id": source, "image_url": f"/images/{edited}"}
    assert above == {"picture": old, "ancestors": [], "edits": [new]}
    assert below == {"picture": new, "ancestors": [old], "edits": []}


@pytest.mark.parametrize("part", ["", "/mask", "/lineage"])
@pytest.mark.parametrize("headers", [BOB, ANN | {"if-none-match": "*"}])
async def test_anothers_picture_is_not_there(service, edited, part, headers):
    known = headers is not BOB
    image_id = edited if not known else "unknown"
    response = await service.get(f"/images/{image_id}{part}", headers=headers)
    assert response.status_code == 404
    assert response.json()["detail"] == f"no image has the id {image_id!r}"


async def test_anothers_picture_is_neither_edited_nor_deleted(service, source, edited):
    edit = await service.post("/edit", json={"prompt": NEW, "image_id": source}, headers=BOB)
    assert (edit.status_code, edit.json()["type"]) == (404, "urn:retouch:problem:unknown-image")
    assert (await service.delete(f"/images/{edited}", headers=BOB)).status_code == 404
    assert (await service.get(f"/images/{edited}", headers=ANN)).status_code == 200


@pytest.mark.usefixtures("source")
async def test_anothers_picture_is_not_found_by_its_words(service):
    answer = (await service.post("/edit", json={"prompt": NEW, "num_inference_steps": 2}, headers=BOB)).json()
    assert answer["source_id"] is None


async def test_the_same_words_of_two_tenants_are_two_pictures(service, source):
    response = await service.post("/generate", json={"prompt": OLD, **DRAWING}, headers=BOB)
    assert response.json()["image_id"] != source


@pytest.mark.parametrize("part", ["", "/mask"])
async def test_a_picture_is_fetched_once(service, edited, part):
    first = await service.get(f"/images/{edited}{part}", headers=ANN)
    assert first.headers["content-type"] == "image/png"
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == "Authorization"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await service.get(f"/images/{edited}{part}", headers=ANN | {"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    head = await service.head(f"/images/{edited}{part}", headers=ANN)
    assert (head.status_code, head.headers["etag"]) == (200, etag)
    assert head.headers["content-length"] == str(len(first.content))
    other = await service.get(f"/images/{edited}{part}", headers=ANN | {"if-none-match": '"other"'})
    assert other.status_code == 200


async def test_a_picture_and_its_mask_are_not_taken_for_each_other(service, edited):
    etags = {(await service.get(f"/images/{edited}{part}", headers=ANN)).headers["etag"] for part in ("", "/mask")}
    assert len(etags) == 2


async def test_a_drawn_picture_has_no_mask(service, source):
    response = await service.get(f"/images/{source}/mask", headers=ANN)
    problem = response.json()
    assert (response.status_code, problem["type"]) == (404, "urn:retouch:problem:no-mask")
    assert (problem["image_id"], "was drawn, not edited" in problem["detail"]) == (source, True)


@pytest.mark.parametrize("image_id", ["%2e%2e%2fsecret", "a%00b", "é", "'", '"'])
async def test_an_id_is_a_name_and_no_path(service, image_id):
    for path in (f"/images/{image_id}", f"/images/{image_id}/mask"):
        assert (await service.get(path, headers=ANN)).status_code == 404
    edit = await service.post("/edit", json={"prompt": NEW, "image_id": f"../{image_id}"}, headers=ANN)
    assert edit.status_code == 404


async def test_a_deleted_picture_is_told_to_nobody_again(service):
    key = ANN | {"idempotency-key": "draw"}
    drawing = {"prompt": OLD, **DRAWING, "seed": 6}
    first = (await service.post("/generate", json=drawing, headers=key)).json()
    url = first["image_url"]
    assert (await service.delete(url, headers=ANN)).status_code == 204
    known = ANN | {"if-none-match": f'"{first["image_id"]}.image"'}
    for headers in (ANN, known):
        assert (await service.get(url, headers=headers)).status_code == 404
    again = await service.post("/generate", json=drawing, headers=key)
    assert again.json()["image_id"] == first["image_id"]
    assert (await service.get(url, headers=ANN)).status_code == 200  # it was drawn again


async def test_the_model_is_told(service):
    card = (await service.get("/model", headers=ANN)).json()
    words = card.pop("words")
    assert {"house", "mountain", "night"} <= set(words)
    assert card == {
        "name": "postcard", "width": 256, "height": 256, "num_inference_steps": 20, "guidance_scale": 4.0,
        "sampler": "ddim", "samplers": ["ddim", "dpm++"], "max_pixels": 2**20,
    }  # fmt: skip


async def test_a_model_that_is_not_loaded_is_not_told(loading):
    response = await loading.get("/model")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
