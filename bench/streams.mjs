// Reads many streams at once and compares the moment in each delta, which upstream wrote, with that of its arrival.
// The streams open evenly, spread over the time between two events too, so that upstream does not send in bursts.
// In: JSON on standard input; out: JSON.
import { Agent, request } from "node:http";
import { readFileSync } from "node:fs";

const { url, headers, body, streams, deltas, ramp_seconds, limit_seconds } = JSON.parse(readFileSync(0, "utf8"));
const agent = new Agent({ keepAlive: false, maxSockets: Infinity });
const options = { method: "POST", agent, headers: { ...headers, "Content-Length": Buffer.byteLength(body) } };
const firsts = [];
const delays = [];
const steadyDelays = [];
const allOpen = performance.now() + ramp_seconds * 1000 + 200;
let statusErrors = 0;
let socketErrors = 0;
let unfinished = streams;
let left = streams;

// A delta is a line with exactly one stamp; a line that sums up the text at the end has none or all of them.
function stampOf(line) {
  const place = line.indexOf("@");
  if (place < 0 || !line.startsWith("data:") || line.indexOf("@", place + 1) >= 0) return 0;
  return 1000 * parseFloat(line.slice(place + 1, place + 15));
}

function isLast(line) {
  return line.startsWith("data: [DONE]") || line.startsWith("event: done") || line.includes('"response.completed"');
}

function open() {
  const began = performance.now();
  let rest = "";
  let seen = 0;
  let over = false;
  let finished = false;
  const end = () => {
    if (!over && --left === 0) report();
    over = true;
  };
  const line = (text, now) => {
    const stamp = stampOf(text);
    if (stamp) {
      if (seen === 0) firsts.push(now - began);
      seen += 1;
      const delay = performance.timeOrigin + now - stamp;
      delays.push(delay);
      if (now > allOpen) steadyDelays.push(delay);
    } else if (!finished && isLast(text)) {
      finished = true;
      unfinished -= 1;
    }
  };
  const sent = request(url, options, (answer) => {
    if (answer.statusCode !== 200) statusErrors += 1;
    answer.setEncoding("latin1");
    answer.on("data", (text) => {
      const now = performance.now();
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const each of lines) if (each) line(each, now);
    });
    answer.on("end", end);
    answer.on("error", () => {
      socketErrors += 1;
      end();
    });
  });
  sent.on("error", () => {
    if (!over) socketErrors += 1;
    end();
  });
  sent.end(body);
}

function percentiles(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (share) => Math.round(1000 * (sorted[Math.ceil(share * sorted.length) - 1] ?? 0));
  return { p50_us: at(0.5), p99_us: at(0.99), max_us: at(1) };
}

function report() {
  const result = {
    first: percentiles(firsts),
    event: percentiles(delays),
    steady: percentiles(steadyDelays),
    events: delays.length,
    lost: streams * deltas - delays.length,
    unfinished,
    status_errors: statusErrors,
    socket_errors: socketErrors,
  };
  console.log(JSON.stringify(result));
  process.exit(0);
}

for (let number = 0; number < streams; number += 1) {
  setTimeout(open, (number * 1000 * ramp_seconds) / streams + ((number * 0.618) % 1) * 50);
}
setTimeout(report, limit_seconds * 1000);
