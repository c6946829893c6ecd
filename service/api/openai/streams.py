"""The events by which pictures come to OpenAI's clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from PIL import Image

from service.api.openai.answers import Answers, Completed, Partial
from service.api.openai.errors import Failure
from service.api.streams import Frames, frame
from service.jobs import ImageReady, Numbered, Preview, Receipt


async def frames_of(answers: Answers, events: AsyncGenerator[Numbered, None]) -> Frames:
    """What the jobs of a request tell, each event with its job's number; partial images as many as were asked for."""
    num_partials: Counter[int] = Counter()
    images: dict[int, Image.Image] = {}
    told: Partial | Completed
    async with aclosing(events):
        async for number, event in events:
            match event:
                case Preview() if num_partials[number] < answers.body.partial_images:
                    told = await asyncio.to_thread(answers.partial, number, num_partials[number], event)
                    num_partials[number] += 1
                    yield frame(told.type, told.model_dump_json())
                case ImageReady():
                    images[number] = event.image
                case Receipt():
                    told = await asyncio.to_thread(answers.completed, number, images.pop(number), event)
                    yield frame(told.type, told.model_dump_json())


def interval(num_partials: int, num_steps: int) -> int:
    """Steps from one preview to the next, so that so many come at least, evenly, if there are enough; 0 = none."""
    if not num_partials:
        return 0
    return max(1, min(round(num_steps / (num_partials + 1)), (num_steps - 1) // num_partials))


def frame_of(failure: Failure) -> bytes:
    """The end of a stream that fails."""
    return frame("error", f'{{"type": "error", "error": {failure.error.model_dump_json()}}}')
