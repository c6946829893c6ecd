"""A client of the service, for Python: waiting or not, typed, and without torch.

    from service.client import Client
    from service.jobs import MaskFound

    with Client("http://127.0.0.1:8000") as client:
        house = client.generate("a snow mountain with a red house", seed=7)
        blue = client.edit("a snow mountain with a blue house", image_id=house.image_id)
        blue.picture.save("blue.png")
        print(f"{blue.receipt.edited_ratio:.0%} of it changed, in {blue.receipt.seconds['total']:.1f} s")

        with client.stream_edit("a snow mountain with fireworks", image_id=house.image_id, preview_every=4) as events:
            for event in events:
                if isinstance(event, MaskFound) and event.edited_ratio > 0.5:
                    break  # closes the connection, which cancels the job

`AsyncClient` has the same methods, to be awaited. What the service refuses is raised as `service.errors` has it, so
that code reads the same before and behind the wire; what does not come from the service is a `ServerError`, and what
the network does stays httpx's. Fields are those of the service's own description, /docs.

    calls     what is asked: requests as plain data
    answers   what comes back, as frozen values
    events    the same, as it comes (Server-Sent Events)
    errors    problems, as the errors that they were
    link      what both clients agree on: address, key, when to try again
"""

from service.client.answers import Kept, Lineage, Model, Result
from service.client.async_client import AsyncClient
from service.client.errors import ServerError
from service.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "Kept", "Lineage", "Model", "Result", "ServerError"]
