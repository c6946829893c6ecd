"""Server-Sent Events, however they are cut on their way."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client.errors import ServerError
from service.client.events import aiter_events, check_stream, iter_events
from service.jobs import Accepted, Receipt

ENDS = ["\n", "\r\n", "\r"]
RECEIPT = {"image_id": "id", "fallbacks": [], "unknown_words": [], "seconds": {"total": 1.5}}


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        yield from self.chunks

    async def __aiter__(self):
        for chunk in self.chunks:
            yield chunk


def read(chunks):
    return list(iter_events(response(chunks)))


async def aread(chunks):
    return [event async for event in aiter_events(response(chunks))]


def response(chunks):
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Chunks(chunks))


def sent(name, data):
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


@st.composite
def cut_streams(draw):
    """Image ids as text of any script, and the bytes of a stream that tells them, cut anywhere."""
    ids = draw(st.lists(st.text(), min_size=1, max_size=4))
    end = draw(st.sampled_from(ENDS))
    lines = []
    for image_id in ids:
        data = {"image_id": image_id, "source_id": None, "num_inference_steps": 2}
        text = json.dumps(data, ensure_ascii=False, indent=draw(st.sampled_from([None, 1])))
        lines += draw(st.sampled_from([[], [": ping", ""], ["event: of-tomorrow", "data: {}", ""], ["id: 1"]]))
        lines += [
            "event: accepted",
            *(f"data:{draw(st.sampled_from([' ', '']))}{line}" for line in text.split("\n")),
            "",
        ]
    lines += ["event: receipt", f"data: {json.dumps(RECEIPT)}", "", ""]
    stream = end.join(lines).encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return ids, chunks


@given(cut_streams())
def test_events_are_the_same_however_they_are_cut(stream):
    ids, chunks = stream
    *accepted, receipt = read(chunks)
    assert accepted == [Accepted(image_id, None, 2) for image_id in ids]
    assert receipt == Receipt("id", seconds={"total": 1.5})
    assert asyncio.run(aread(chunks)) == [*accepted, receipt]


def test_a_stream_byte_by_byte():
    stream = sent("accepted", {"image_id": "雪", "source_id": None, "num_inference_steps": 2}) + sent(
        "receipt", RECEIPT
    )
    chunks = [bytes([byte]) for byte in stream.replace("\n", "\r\n").encode()]
    assert [type(event) for event in read(chunks)] == [Accepted, Receipt]


@pytest.mark.parametrize("rest", ["", "event: receipt\ndata: {}", ": ping\n\n"])
def test_a_stream_without_an_end_was_cut(rest):
    chunks = [sent("accepted", {"image_id": "a", "source_id": None, "num_inference_steps": 2}).encode(), rest.encode()]
    events = iter_events(response(chunks))
    assert isinstance(next(events), Accepted)
    with pytest.raises(ServerError, match="the stream ended before the job did"):
        next(events)
    with pytest.raises(ServerError, match="the stream ended before the job did"):
        asyncio.run(aread(chunks))


@pytest.mark.parametrize(
    "event",
    [
        sent("accepted", {}),
        sent("accepted", []),
        "event: receipt\ndata: {\n\n",
        sent("mask", {"mask": "?", "edited_ratio": 1}),
        sent("image", {"image_id": "a", "image": "AAAA"}),
        sent("preview", {"step": 1, "image": "AAAA", "box": [1, 2]}),
        sent("error", {"detail": "?"}),
        sent("error", {"type": "urn:retouch:problem:busy", "status": 429, "detail": "; try again in 5 s"}),
    ],
)
def test_an_event_that_no_service_sends_is_a_server_error(event):
    with pytest.raises(ServerError, match="no answer of this service"):
        read([event.encode()])


def test_what_is_no_stream_is_a_server_error():
    with pytest.raises(ServerError, match="must be text/event-stream, got text/html"):
        check_stream(httpx.Response(200, html="<p>a page"))
