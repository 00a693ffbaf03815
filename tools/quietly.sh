#!/usr/bin/env bash
# Run a command with its output in a log; report progress, and show the end of the log if it fails.
#
#     tools/quietly.sh LOG TITLE COMMAND...
set -euo pipefail

log=$1 title=$2
shift 2
TIMEOUT_S=1200
BEAT_S=10

mkdir -p "$(dirname "$log")"
echo "$title (log: $log)"
timeout --kill-after=10 "$TIMEOUT_S" "$@" >"$log" 2>&1 </dev/null &
child=$!
# A background job of a script does not get Ctrl-C.
trap 'kill "$child" 2>/dev/null; exit 130' INT TERM

begin=$SECONDS beat=$SECONDS
while kill -0 "$child" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - beat >= BEAT_S)); then
        beat=$SECONDS
        echo "  ... $((SECONDS - begin)) s"
    fi
done
status=0
wait "$child" || status=$?
if ((status != 0)); then
    echo "$title: failed with status $status; the end of $log:" >&2
    tail -n 60 "$log" >&2
    exit "$status"
fi
echo "  done, $((SECONDS - begin)) s"
