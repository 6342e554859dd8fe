// Keeps many calls in flight on kept connections and counts the answers that arrive within a window. The callers start
// spread over the first second, so that one-second answers arrive evenly. In: JSON on standard input; out: JSON.
import { Agent, request } from "node:http";
import { readFileSync } from "node:fs";

const { url, headers, body, callers, warm_seconds, window_seconds } = JSON.parse(readFileSync(0, "utf8"));
const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
const options = { method: "POST", agent, headers: { ...headers, "Content-Length": Buffer.byteLength(body) } };
const latencies = [];
let statusErrors = 0;
let socketErrors = 0;
const opens = performance.now() + warm_seconds * 1000;
const closes = opens + window_seconds * 1000;

function finished(began, failed) {
  const now = performance.now();
  if (now >= opens && now < closes && !failed) latencies.push(now - began);
  if (now < closes) setTimeout(call, failed ? 100 : 0);
}

function call() {
  const began = performance.now();
  let over = false;
  const end = (failed) => {
    if (!over) finished(began, failed);
    over = true;
  };
  const sent = request(url, options, (answer) => {
    const refused = answer.statusCode < 200 || answer.statusCode > 299;
    if (refused) statusErrors += 1;
    answer.resume();
    answer.on("end", () => end(refused));
  });
  sent.on("error", () => {
    if (!over && performance.now() < closes) socketErrors += 1;
    end(true);
  });
  sent.end(body);
}

for (let number = 0; number < callers; number += 1) setTimeout(call, (number * 1000) / callers);
setTimeout(() => {
  const sorted = Float64Array.from(latencies).sort();
  const at = (share) => Math.round(1000 * (sorted[Math.ceil(share * sorted.length) - 1] ?? 0));
  const result = {
    requests: sorted.length,
    seconds: window_seconds,
    p50_us: at(0.5),
    p99_us: at(0.99),
    status_errors: statusErrors,
    socket_errors: socketErrors,
  };
  console.log(JSON.stringify(result));
  process.exit(0);
}, closes - performance.now() + 20);
