-- Sends BENCH_HEADERS and the file BENCH_BODY, and prints what was measured as one line of JSON. What the body says of
-- the session "own-1" is said of each of BENCH_SESSIONS in turn.
wrk.method = "POST"
wrk.body = io.open(os.getenv("BENCH_BODY"), "rb"):read("*a")
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end
local callers = tonumber(os.getenv("BENCH_CALLERS"))
local sessions = tonumber(os.getenv("BENCH_SESSIONS"))

if sessions > 1 then
  local requests, place = {}, 0
  function init()
    for number = 1, sessions do
      requests[number] = wrk.format(nil, nil, nil, (wrk.body:gsub("own%-1", "own-" .. number)))
    end
  end
  function request()
    place = place % sessions + 1
    return requests[place]
  end
end

-- wrk adds latencies nobody waited for: for each beyond twice the mean also those that equally spaced callers would
-- have seen (stats_correct in its source, after HdrHistogram). With one caller that is taken back, exactly; with many,
-- whose percentiles no target needs, it would take too long.
local function measured(latency, requests, mean)
  local counts, values, total = {}, {}, 0
  for place = 1, #latency do
    local value, count = latency(place)
    counts[value], values[place], total = count, value, total + count
  end
  if total == requests then return counts, values end
  for place = #values, 1, -1 do
    local value = values[place]
    if value < 2 * mean then break end
    local count, other = counts[value], value - mean
    while count > 0 and other > mean do
      counts[other] = counts[other] - count
      other = other - mean
    end
  end
  return counts, values
end

local function percentile(counts, values, total, share)
  local seen = 0
  for _, value in ipairs(values) do
    seen = seen + counts[value]
    if seen >= share * total then return value end
  end
  return values[#values]
end

function done(summary, latency)
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  if callers == 1 and summary.requests > 0 then
    local counts, values = measured(latency, summary.requests, math.floor(summary.duration / summary.requests))
    local total = 0
    for _, count in pairs(counts) do total = total + count end
    if total ~= summary.requests then error("the correction was not taken back: " .. total) end
    p50, p99 = percentile(counts, values, total, 0.5), percentile(counts, values, total, 0.99)
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"status_errors": %d, "socket_errors": %d}\n',
    summary.requests, summary.duration / 1e6, p50, p99, latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
