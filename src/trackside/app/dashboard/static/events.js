// Answers as they come, and streams of runs, read by hand: an `EventSource` hears only events whose names it knows, and those
// of agents inside have any name.

/** Statuses with which asking again for a stream makes no sense. */
export const FOR_GOOD = [401, 403, 404, 422];

/** The text of a response, piece by piece as it comes. */
export async function* piecesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** The server-sent events of a response, one after the other: `{ event, data, id }`, as texts; `id` is the last that was said. */
export async function* eventsOf(response) {
  let rest = "";
  let event = "message";
  let data = [];
  let id = null;
  for await (const piece of piecesOf(response)) {
    rest += piece;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield { event, data: data.join("\n"), id };
        event = "message";
        data = [];
      } else if (line.startsWith("event:")) event = line.slice(6).trim();
      else if (line.startsWith("id:")) id = line.slice(3).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}
