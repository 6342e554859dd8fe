/* An answer as the server streams it. */

/** The events of an answer as {name, data}. One ends with an empty line; a line that begins with a colon is a comment.
    Throws where it ends before `done` or `error`. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the stream did not end with done");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line && !line.startsWith(":"));
      const { event, data } = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s, 2)));
      if (data) yield { name: event, data: JSON.parse(data) };
      if (event === "done" || event === "error") return;
    }
  }
}

/** The length of a text as the server counts it: an emoji is one character. */
export const lengthOf = (text) => [...text].length;

/** What of an answer no segment has yet. */
export const behind = (text, segments) => [...text].slice(segments.length ? segments.at(-1).end : 0).join("");
