#!/bin/sh
# Called by the runner program before the first step of a job: tells the monitor what is about to run, and
# refuses it (exit code 1) if the monitor says so. What it writes is in the job's log.
set -u
state=${RUNNER_STATE:-/run/runner}
[ -r "$state/monitor" ] || exit 0
LC_ALL=C
export LC_ALL

setting() {
    sed -n "s/^$1=//p" "$state/monitor" | sed -n 1p
}

# One line of the report. A value is one line of printable characters, of 1000 at most.
line() {
    printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\000-\037\177' ' ' | cut -c1-1000)"
}

report() {
    line repository "${GITHUB_REPOSITORY:-}"
    line event "${GITHUB_EVENT_NAME:-}"
    line ref "${GITHUB_REF:-}"
    line head-ref "${GITHUB_HEAD_REF:-}"
    line sha "${GITHUB_SHA:-}"
    line actor "${GITHUB_ACTOR:-}"
    line workflow "${GITHUB_WORKFLOW:-}"
    line workflow-ref "${GITHUB_WORKFLOW_REF:-}"
    line job "${GITHUB_JOB:-}"
    line run "${GITHUB_RUN_ID:-}"
    line attempt "${GITHUB_RUN_ATTEMPT:-}"
    line runner "${RUNNER_NAME:-}"
}

unheard() {
    if [ "$(setting when-unheard)" = refuse ]; then
        echo "This job is refused: the runner's monitor does not answer."
        exit 1
    fi
    echo "The runner's monitor does not answer; the job runs all the same."
    exit 0
}

# The token is read from a file: arguments can be seen by everyone. The answer is a line: allow, or
# refuse and a reason.
url=$(setting url)/job-started
if command -v curl >/dev/null; then
    setting token | sed 's/.*/header = "Authorization: Bearer &"/' >"$state/curl.$$"
    answer=$(report | curl --silent --show-error --fail --max-time 20 --retry 2 \
        --config "$state/curl.$$" --header 'Content-Type: text/plain' --data-binary @- "$url")
    heard=$?
    rm -f "$state/curl.$$"
else
    # busybox's reads no header from a file, and Debian's build of it breaks at its own option for a timeout.
    report >"$state/report"
    answer=$(timeout 20 wget -q -O - --header "Authorization: Bearer $(setting token)" \
        --header 'Content-Type: text/plain' --post-file "$state/report" "$url")
    heard=$?
fi
[ $heard = 0 ] || unheard

answer=$(printf '%s\n' "$answer" | tr -d '\r' | sed -n 1p)
case $answer in
allow*) exit 0 ;;
refuse*)
    echo "This job is refused: ${answer#refuse}" | tr '\000-\011\013-\037\177' ' '
    exit 1
    ;;
*) unheard ;;
esac
