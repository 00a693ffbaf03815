-- For wrk: requests in one write (the first argument after "--" says how many), a pause before each (the second one: its
-- mean in ms), and the result as a line of JSON.

function init(args)
   local depth = tonumber(args[1])
   if depth > 1 then
      local requests = string.rep(wrk.format(), depth)
      request = function() return requests end
   end
   local think_ms = tonumber(args[2] or "0")
   if think_ms > 0 then
      delay = function() return math.random(0, 2 * think_ms) end
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nJSON {"requests": %d, "duration_us": %d, "p50_us": %.1f, "p90_us": %.1f, "p99_us": %.1f, "p999_us": %.1f, '
      .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
      latency:percentile(99.9), errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
