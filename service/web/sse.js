// Server-Sent Events from the body of a fetch: EventSource can neither post nor send a key.

/** Yields {event, data} as they come; comments are passed over. `data` is parsed JSON. */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop();
      yield* blocks.map(parse).filter(Boolean);
    }
  } finally {
    reader.cancel().catch(() => {}); // who leaves early cancels the job
  }
}

function parse(block) {
  const lines = block.split(/\r?\n/);
  const values = (name) =>
    lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).replace(/^ /, ""));
  const data = values("data").join("\n");
  return data && { event: values("event")[0] ?? "message", data: JSON.parse(data) };
}
