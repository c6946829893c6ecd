"""Answers as the API's description shows them: what the embedded model made of the first requests that it shows."""

from __future__ import annotations

from service.api.answers import url_of
from service.api.schemas import Answer
from service.jobs import Receipt

PICTURE = "iVBORw0KGgo..."  # a PNG in base64, as far as it is shown
DRAWN = Receipt(
    "916638319f32070b4cb6",
    rows_computed=40960,
    rows_total=40960,
    macs_computed=87735009280,
    macs_dense=87735009280,
    seconds={"queue": 0.0003, "encode": 0.0059, "denoise": 4.9357, "decode": 0.3971, "total": 5.7885},
)
EDITED = Receipt(
    "be908085a48dfa65e3ae",
    "916638319f32070b4cb6",
    similarity=0.9964,
    tier="host",
    edited_ratio=0.0918,
    rows_computed=9904,
    rows_total=40960,
    macs_computed=24112832512,
    macs_dense=87735009280,
    bytes_moved=29718784,
    transfer_wait_seconds=0.0391,
    seconds={"queue": 0.0003, "encode": 0.0309, "detect": 0.573, "denoise": 0.823, "decode": 0.1277, "total": 2.0572},
)


def answer_with(receipt: Receipt) -> Answer:
    """The answer of a job that ended with this receipt, without its pixels."""
    return Answer(
        image_id=receipt.image_id,
        source_id=receipt.source_id,
        image=PICTURE,
        image_url=url_of(receipt.image_id),
        mask=None if receipt.source_id is None else PICTURE,
        receipt=receipt,
    )
