#!/bin/sh
# Called by the runner program after the last step of a job: tells the monitor that it is over. Never fails a
# job for it: the monitor learns it from GitHub too.
set -u
state=${RUNNER_STATE:-/run/runner}
[ -r "$state/monitor" ] || exit 0
LC_ALL=C
export LC_ALL

setting() {
    sed -n "s/^$1=//p" "$state/monitor" | sed -n 1p
}

line() {
    printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\000-\037\177' ' ' | cut -c1-1000)"
}

report() {
    line repository "${GITHUB_REPOSITORY:-}"
    line job "${GITHUB_JOB:-}"
    line run "${GITHUB_RUN_ID:-}"
    line attempt "${GITHUB_RUN_ATTEMPT:-}"
    line runner "${RUNNER_NAME:-}"
}

url=$(setting url)/job-completed
if command -v curl >/dev/null; then
    setting token | sed 's/.*/header = "Authorization: Bearer &"/' >"$state/curl.$$"
    report | curl --silent --fail --max-time 10 --config "$state/curl.$$" \
        --header 'Content-Type: text/plain' --data-binary @- "$url" >/dev/null
    rm -f "$state/curl.$$"
else
    report >"$state/report"
    timeout 10 wget -q -O /dev/null --header "Authorization: Bearer $(setting token)" \
        --header 'Content-Type: text/plain' --post-file "$state/report" "$url"
fi
exit 0
