#!/bin/sh
# Reserves a runner as Servo's published steps do (actions/runner-select of servo/ci-runners, and runner-select-queueless
# for `select`): the same requests by the same options of curl, whose answers all end up in one file, and the same
# reading of that by jq. The label to run on is the only line of standard output.
#
#   runner-select.sh select|queue BASE_URL UNIQUE_ID REPOSITORY RUN_ID HOSTED_LABEL
set -eu
way=$1 base=$2 unique_id=$3 repository=$4 run_id=$5 hosted=$6
query="unique_id=$unique_id&qualified_repo=$repository&run_id=$run_id"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

post() {
    # What is tried again is appended to what was answered before: curl does not know that it is a file.
    curl -sS --fail-with-body --connect-timeout 5 --max-time 30 "$@" >"$answer"
}

elsewhere() {
    cat "$answer" >&2
    echo "$hosted"
    exit 0
}

case $way in
select)
    post -X POST "$base/select-runner?$query" || elsewhere
    ;;
queue)
    post -X POST "$base/queue/enqueue?$query" || elsewhere
    token=$(cat "$answer")
    # As often as the service says, by Retry-After.
    post --retry-max-time 3600 --retry 3600 --retry-delay 1 \
        -X POST "$base/queue/take/$unique_id?token=$token" || elsewhere
    ;;
esac
jq -e . "$answer" >/dev/null || elsewhere
echo "reserved-for:$unique_id"
