"""Five hundred requests that cannot be done: each is told why, and the service is as it was before."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

GUARD_SECONDS = 60  # a test that hangs fails
NUM_REQUESTS = 500
MOST_GROWTH_BYTES = 64 << 20  # of the process: the largest body is 8 MiB, and allocators keep some of what they had
MOST_ANSWER_BYTES = 4096
SIZE = 64
DRAW = {"prompt": "a green hill", "seed": 1}
BOUNDARY = "part-of-a-form"


@dataclass(frozen=True)
class Bad:
    """A request, and how it is to be refused."""

    name: str
    head: bytes
    content: bytes = b""
    statuses: frozenset[int] = frozenset({422})
    field: str | None = None  # that the answer must name

    @property
    def path(self) -> str:
        return self.head.split(b" ")[1].decode("latin-1") if b" " in self.head else ""


@dataclass(frozen=True)
class Refusal:
    """An answer."""

    status: int
    media_type: str | None
    content: bytes

    @property
    def field(self) -> str | None:
        """That is at fault, as either interface names it."""
        told = json.loads(self.content)
        return told["error"]["param"] if "error" in told else told.get("field")


def head(method: str, path: str, content: bytes = b"", **headers: str) -> bytes:
    named = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(content))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in named.items()]]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def posted(name: str, path: str, body: Any, field: str | None, *statuses: int, **headers: str) -> Bad:
    """JSON, or bytes that say that they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    default = 400 if path.startswith("/v1/") else 422
    headers = {"Content_Type": "application/json"} | headers
    return Bad(name, head("POST", path, content, **headers), content, frozenset(statuses or {default}), field)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    checked = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checked)


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


ROWS = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * SIZE) * SIZE))
END = chunk(b"IEND", b"")
LONG = chunk(b"PLTE", bytes(3)), chunk(b"tRNS", bytes(300))  # 256 are the most
BOMB = zlib.compress(bytes(40 << 20), 9)  # 40 MiB in 40 KB


def bad_pictures(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files that are no edit mask of a picture of 64 x 64."""
    whole = png_of(header(SIZE, SIZE), ROWS, END)
    white, size = Image.new("L", (SIZE, SIZE), 255), (rng.choice((8, 56, 72, 128)), SIZE)
    yield "truncated", whole[: rng.randrange(1, len(whole) - len(END) - len(ROWS) // 2)]
    yield "bad checksum of the header", png_of(chunk(b"IHDR", header(SIZE, SIZE)[8:21], crc=rng.randrange(1, 99)), ROWS)
    yield "no pixels", png_of(header(SIZE, SIZE), END)
    yield "bytes that are not compressed", png_of(header(SIZE, SIZE), chunk(b"IDAT", rng.randbytes(200)), END)
    yield "bomb of pixels", png_of(header(*size), chunk(b"IDAT", BOMB), END)
    yield "bomb of text", png_of(header(SIZE, SIZE), chunk(b"zTXt", b"a\0\0" + BOMB), ROWS, END)
    yield "bomb of a profile", png_of(header(SIZE, SIZE), chunk(b"iCCP", b"a\0\0" + BOMB), ROWS, END)
    yield "0 x 0", png_of(header(0, 0), ROWS, END)
    yield "100000 x 100000", png_of(header(100_000, 100_000), ROWS, END)
    yield "2 ** 31 x 1", png_of(header(2**31, 1), ROWS, END)
    yield "7 bits", png_of(header(SIZE, SIZE, depth=7), ROWS, END)
    yield "no such colours", png_of(header(SIZE, SIZE, colour=5), ROWS, END)
    yield "no palette", png_of(header(SIZE, SIZE, colour=3), ROWS, END)
    yield (
        "a palette that is more transparent than it has colours",
        png_of(header(SIZE, SIZE, colour=3), *LONG, ROWS, END),
    )
    yield "16 bits of another size", file_of(Image.new("I;16", size, 65535))
    yield "palette of another size", file_of(Image.new("P", size, 1))
    yield "two levels of another size", file_of(Image.new("1", size, 1))
    yield "transparent of another size", file_of(Image.new("RGBA", size))
    yield "another size", file_of(white.resize(size))
    yield "a JPEG", file_of(white, "JPEG")
    yield "a GIF", file_of(white, "GIF")
    yield "a WebP", file_of(white, "WebP")
    yield "an SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
    yield "a zip", b"PK\x03\x04" + rng.randbytes(60)
    yield "nothing", b""
    yield "noise", rng.randbytes(rng.randrange(1, 500))


WRONG: dict[str, list[str]] = {  # JSON that fields of both native routes cannot be
    "seed": ["-1", "1.5", '"7"', "true", "[1]", "NaN", "1e999", "9223372036854775808", "9" * 400],
    "num_inference_steps": ["0", "-5", "1001", "1e3", "{}", "-Infinity"],
    "guidance_scale": ["-0.1", "51", "NaN", "Infinity", "1e999", '"4"', "[]"],
    "sampler": ['"euler"', "1", '"DDIM"', '""'],
    "width": ["0", "63", "65", "-64", "4096", "64.5", "1e30", '"64"'],
    "height": ["8", "72.0001", "true", "99999999999999999999"],
    "negative_prompt": ["1", "[]", f'"{"a" * 2001}"', r'"\u0000"', r'"\udc00"', r'"\u001b[31m"'],
    "cache": ['"yes"', "true", "0"],
    "stream": ['"yes"', "1", "[]"],
    "preview_every": ["-1", "1001", "0.5", "1"],
    "deadline_seconds": ["0", "-1", "NaN", "Infinity", "1e300", '"5"'],
    "prompt": ['""', '"   "', "1", "[]", "{}", f'"{"a" * 100_000}"', r'"\ud800"', r'"a\u0000b"', r'"\u009b"'],
    "no_such_field": ["1", "null", "[[[]]]"],
}
WRONG_OF_EDITS: dict[str, list[str]] = {
    "image_id": ['""', "1", f'"{"a" * 101}"', r'"\ud800"', "[]"],
    "source_prompt": ['""', "7", r'"\udfff"', f'"{"é" * 2001}"'],
    "edit_mask": ["1", '"data:image/png;base64,iVBORw0KGgo="', '"*"', r'"\ud800"', '"aGVsbG8="'],
    "mask_mode": ['"all"', '"detect "', "1"],
    "preset": ['"fast"', "true"],
    "detection": ['"no"', "1"],
    "attention": ['"all"'],
    "dilation": ["-1", "17", "1.5", "NaN"],
    "margin": ["-1", "1e9"],
    "paste_margin": ["17", '"1"'],
    "decoding": ['"fast"'],
    "deep_every": ["0", "21"],
    "dry_run": ['"no"', "2"],
    "min_similarity": ["-1.1", "2", "NaN", '"0.5"'],
}


PROMPT = '"prompt": "a sea", '


def with_value(field: str, text: str) -> bytes:
    """A body in which one field is this text."""
    return f'{{{"" if field == "prompt" else PROMPT}"{field}": {text}}}'.encode()


def bad_values(rng: random.Random) -> Iterator[Bad]:
    """One field is wrong."""
    for path, fields in (("/generate", WRONG), ("/edit", WRONG | WRONG_OF_EDITS)):
        for field, texts in fields.items():
            text = rng.choice(texts)
            yield posted(f"{path} {field} {text[:20]}", path, with_value(field, text), field)


def bad_bodies(rng: random.Random) -> Iterator[Bad]:
    """What is no JSON object, or does not say that it is one."""
    whole = json.dumps(DRAW).encode()
    for path in ("/generate", "/edit", "/v1/images/generations"):
        for name, body in (
            ("truncated", whole[: rng.randrange(1, len(whole) - 1)]),
            ("empty", b""),
            ("deep lists", b"[" * rng.randrange(1000, 200_000)),
            ("deep objects", b'{"prompt":' * 50_000),
            ("noise", rng.randbytes(100)),
            ("no UTF-8", b'{"prompt": "\xff\xfe"}'),
            ("a long number", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}"),
            ("a list", b"[1, 2]"),
            ("null", b"null"),
            ("a text", b'"a green hill"'),
            ("two objects", whole + whole),
            ("many values", b'{"prompt": [' + b"1," * rng.randrange(70_000, 4_000_000) + b"1]}"),
            ("many escapes", b'{"prompt": "' + rb"\n" * rng.randrange(70_000, 4_000_000) + b'"}'),
            ("a comment", b"/* hi */ " + whole),
            ("too large", b" " * (8 * 2**20 + 1)),
        ):
            yield posted(f"{path} {name}", path, body, None if name == "too large" else "body", *_too_large(name))
        media_type = rng.choice(["text/plain", "application/xml", "image/png", "", "multipart/form-data", "\xff"])
        yield posted(f"{path} as {media_type!r}", path, whole, "content-type", Content_Type=media_type)
    yield posted("a name in unicode", "/generate", b'{"prompt": "a", "\\ud800": 1}', "body")
    yield posted("a long name", "/generate", {"prompt": "a", "x" * 10_000: 1}, "x" * 10_000)
    yield posted("many names", "/generate", {"prompt": "a"} | {f"field{number}": 1 for number in range(2000)}, "body")
    yield posted("some names", "/generate", {"prompt": "a"} | {f"field{number}": 1 for number in range(90)}, "field0")
    yield posted("a name twice", "/generate", b'{"prompt": "a", "seed": 1, "seed": 2}', "seed")
    yield posted("a name in unicode twice", "/generate", b'{"prompt": "a", "\\ud800": 1, "\\ud800": 1}', "body")
    yield posted("a key that is too long", "/generate", DRAW, "Idempotency-Key", Idempotency_Key="k" * 201)
    yield posted("an empty key", "/generate", DRAW, "Idempotency-Key", Idempotency_Key="")
    yield posted("two sources", "/edit", {"prompt": "a", "image_id": "b", "source_prompt": "c"}, "image_id")
    yield posted(
        "nobody's image", "/edit", {"prompt": "a", "image_id": rng.choice(["../x", "\0", "é", "%"])}, None, 404
    )


def _too_large(name: str) -> tuple[int, ...]:
    return (413,) if name == "too large" else ()


def bad_paths(rng: random.Random) -> Iterator[Bad]:
    """Pictures that nobody can have."""
    for part in ("%00%ff", "%ed%a0%80", "a" * 101, "..%2f..%2fetc%2fpasswd", "%F0%9F%8F%A0", rng.randbytes(8).hex()):
        for method, rest in (("GET", ""), ("GET", "/mask"), ("GET", "/lineage"), ("DELETE", "")):
            yield Bad(f"{method} {part[:20]}", head(method, f"/images/{part}{rest}"), statuses=frozenset({404, 422}))
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "BREW"):
        yield Bad(f"{method} /generate", head(method, "/generate"), statuses=frozenset({405}))
    for host in ("evil.example", "127.0.0.1.evil.example", "[", "a b", "\xff"):
        named = head("GET", "/model", Host=host)
        yield Bad(f"for {host!r}", named, statuses=frozenset({400, 403}))
    yield posted("from another site", "/generate", DRAW, None, 403, Origin="http://evil.example")


def form(*parts: tuple[str, bytes], end: bytes = b"--") -> bytes:
    """Parts as multipart/form-data: what stands after `name=`, and the content."""
    marked = [f"--{BOUNDARY}\r\nContent-Disposition: form-data{told}\r\n\r\n".encode() + its for told, its in parts]
    return b"\r\n".join([*marked, f"--{BOUNDARY}".encode() + end + b"\r\n"])


def bad_forms(rng: random.Random, kept: bytes) -> Iterator[Bad]:
    """Of OpenAI's edits. `kept` is a picture that the service knows."""
    image, prompt = ('; name="image"; filename="a.png"', kept), ('; name="prompt"', b"a sea")

    def sent(
        name: str, content: bytes, field: str | None, *statuses: int, boundary: str = f"; boundary={BOUNDARY}"
    ) -> Bad:
        media_type = f"multipart/form-data{boundary}"
        return posted(f"a form: {name}", "/v1/images/edits", content, field, *statuses, Content_Type=media_type)

    yield sent("no boundary", form(image, prompt), None, boundary="")
    yield sent("another boundary", form(image, prompt), None, boundary="; boundary=other")
    yield sent("no end", form(image, prompt)[: -rng.randrange(8, 40)], None)
    yield sent("nothing", form(), "prompt")
    yield sent("no prompt", form(image), "prompt")
    yield sent("no image", form(prompt), "image")
    yield sent("a part without a name", form(image, prompt, ("", b"x")), None)
    yield sent("no part's head", f"--{BOUNDARY}\r\n".encode() + rng.randbytes(50), None)
    yield sent("65 fields", form(image, *[(f'; name="f{number}"', b"") for number in range(65)]), None)
    yield sent("17 files", form(prompt, *[image] * 17), None)
    yield sent("two images", form(prompt, image, image), "image")
    yield sent("a field twice", form(image, prompt, prompt), "prompt")
    yield sent("a field of 100 KB", form(image, ('; name="prompt"', b"a" * 100_000)), None)
    yield sent("a field that is a file", form(image, ('; name="prompt"; filename="p"', b"a sea")), "prompt")
    yield sent("a file that is a field", form(prompt, ('; name="image"', b"a.png")), "image")
    for field, value in (("n", "0"), ("n", "two"), ("size", "0x0"), ("size", "64 64"), ("stream", "perhaps"),
                         ("seed", "nan"), ("guidance_scale", "inf"), ("quality", "hd"), ("no_such", "1")):  # fmt: skip
        yield sent(f"{field} {value}", form(image, prompt, (f'; name="{field}"', value.encode())), field)
    for name, file in bad_pictures(rng):
        yield sent(f"image {name}", form(prompt, ('; name="image"; filename="a.png"', file)), "image")
        mask = ('; name="mask"; filename="m.png"', file)
        yield sent(f"mask {name}", form(prompt, image, mask), "mask")


def bad_masks(rng: random.Random, image_id: str) -> Iterator[Bad]:
    """Of native edits of a picture that is kept."""
    for name, file in bad_pictures(rng):
        body = {"prompt": "a sea", "image_id": image_id, "edit_mask": base64.b64encode(file).decode()}
        yield posted(f"mask {name}", "/edit", body, "edit_mask")


def no_http(rng: random.Random) -> Iterator[Bad]:
    """What is no request at all."""
    generate = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for name, text in (
        ("no version", "GET /\r\n\r\n"),
        ("a word", "rubbish\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("a line without a colon", "GET / HTTP/1.1\r\nHost: localhost\r\nrubbish\r\n\r\n"),
        ("a zero in a header", "GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n"),
        ("a space before a colon", "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"),
        ("a space in the path", "GET / / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a header of a megabyte", f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'a' * 2**20}\r\n\r\n"),
        ("a path of a megabyte", f"GET /{'a' * 2**20} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a chunk without a size", f"{generate}Transfer-Encoding: chunked\r\n\r\nZZ\r\n"),
        ("a chunk below zero", f"{generate}Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n"),
        ("a chunk of another size", f"{generate}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}}}\r\n0\r\n\r\n"),
        ("another transfer", f"{generate}Transfer-Encoding: gzip\r\n\r\n"),
        ("a length below zero", f"{generate}Content-Length: -1\r\n\r\n"),
        ("two lengths", f"{generate}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        ("a length of 30 digits", f"{generate}Content-Length: {'9' * 30}\r\n\r\n"),
        ("a length in words", f"{generate}Content-Length: two\r\n\r\n"),
    ):
        yield Bad(f"no HTTP: {name}", text.encode("latin-1"), statuses=frozenset({400}))
    yield Bad("no HTTP: TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", statuses=frozenset({400}))
    yield Bad("no HTTP: noise", rng.randbytes(200) + b"\r\n\r\n", statuses=frozenset({400}))


def requests_of(rng: random.Random, image_id: str, kept: bytes) -> list[Bad]:
    """All kinds in turn, for as long as it takes."""
    kinds = [
        lambda: bad_values(rng),
        lambda: bad_bodies(rng),
        lambda: bad_paths(rng),
        lambda: bad_masks(rng, image_id),
        lambda: bad_forms(rng, kept),
        lambda: no_http(rng),
    ]
    return list(islice((bad for kind in cycle(kinds) for bad in kind()), NUM_REQUESTS))


def answer_to(port: int, bad: Bad) -> Refusal:
    """Sends it as it is. A server may answer and hang up before it has read all."""
    with socket.create_connection(("127.0.0.1", port), GUARD_SECONDS) as connection:
        with suppress(BrokenPipeError):
            connection.sendall(bad.head + bad.content)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Refusal(response.status, response.getheader("Content-Type"), response.read())


def complaint(bad: Bad, got: Refusal) -> str | None:
    """What is wrong with an answer."""
    if got.status not in bad.statuses:
        return f"{got.status}, not {sorted(bad.statuses)}: {got.content[:200]!r}"
    media_type = "application/json" if bad.path.startswith("/v1/") else "application/problem+json"
    if got.media_type != media_type:
        return f"came as {got.media_type}"
    if len(got.content) > MOST_ANSWER_BYTES:
        return f"is told in {len(got.content)} bytes"
    if bad.field is not None and got.field not in {bad.field, bad.field[:100]}:
        return f"names {got.field!r}, not {bad.field!r}: {got.content[:200]!r}"
    return None


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def server(open_service):
    with open_service() as opened:
        yield opened


def test_bad_requests_are_refused_with_reasons_and_leave_nothing(server, wait_until):
    worker = server.app.state.worker
    with httpx.Client(base_url=server.url, timeout=GUARD_SECONDS) as client:
        drawn = client.post("/generate", json=DRAW).json()
    asked = requests_of(random.Random(0), drawn["image_id"], base64.b64decode(drawn["image"]))
    assert len({bad.name for bad in asked}) > NUM_REQUESTS // 2
    memory, files, jobs = resident_bytes(), num_files(), Counter(worker.numbers().batching.ended_jobs)
    told = {f"{bad.name}: {wrong}" for bad in asked if (wrong := complaint(bad, answer_to(server.port, bad)))}
    assert not told, "\n".join(sorted(told))
    wait_until(lambda: num_files() == files and server.app.state.drain.num_jobs == 0)
    numbers = worker.numbers().batching
    assert (numbers.queued_jobs, numbers.running_jobs, numbers.num_restarts) == (0, 0, 0)
    assert numbers.ended_jobs.get("done") == jobs["done"]
    assert resident_bytes() - memory < MOST_GROWTH_BYTES
    with httpx.Client(base_url=server.url, timeout=GUARD_SECONDS) as client:
        again = client.post("/generate", json=DRAW | {"cache": "off"}).json()
    assert again["image"] == drawn["image"]
