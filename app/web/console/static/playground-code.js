/* A request as a program that runs as it is pasted. `request`: {url, headers, body}. */

const ARGUMENT_MAX = 100_000; // Linux takes 128 KiB in one argument; a picture may be longer.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** For a shell as bash or zsh. */
export function curl({ url, headers, body }) {
  const text = JSON.stringify(body, null, 2);
  const lines = [`curl -sN ${quoted(url)}`, ...Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`)];
  const isLong = new TextEncoder().encode(text).length > ARGUMENT_MAX;
  const data = isLong ? `--data-binary @- <<'END'\n${text}\nEND` : `-d ${quoted(text)}`;
  return [...lines, data].join(" \\\n  ");
}

/** A value as Python writes it: as JSON, but for three words. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const isList = Array.isArray(value);
  const members = isList
    ? value.map((one) => literal(one, inner))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  return members.length ? `${open}\n${members.map((one) => `${inner}${one},\n`).join("")}${indent}${close}` : open + close;
}

/** For Python 3 without packages. */
export const python = ({ url, headers, body }) => `import json
import urllib.request

body = ${literal(body)}
headers = ${literal(headers)}
request = urllib.request.Request(${JSON.stringify(url)}, json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as answer:
    for line in answer:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            event = value
        elif name == "data" and event == "delta":
            print(json.loads(value)["text"], end="", flush=True)
        elif name == "data" and event == "error":
            raise SystemExit(json.loads(value)["detail"])
print()
`;

/** For Node and for browsers. */
export const javascript = ({ url, headers, body }) => `const answer = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: ${JSON.stringify(headers, null, 2).replaceAll("\n", "\n  ")},
  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),
});
if (!answer.ok) throw new Error((await answer.json()).detail);
let rest = "", text = "";
for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
  const blocks = (rest + piece).split("\\n\\n");
  rest = blocks.pop();
  for (const block of blocks) {
    const [, name, data] = block.match(/^event: (.*)\\ndata: (.*)/m) ?? [];
    if (name === "delta") text += JSON.parse(data).text;
    if (name === "error") throw new Error(JSON.parse(data).detail);
  }
}
console.log(text);
`;
