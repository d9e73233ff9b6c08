#!/bin/sh
# Stands in for GitHub's runner program, and behaves like it at its edges: where its configuration comes from,
# one job, the hooks around it, exit codes. `server` beside it says where the fake GitHub is; `job.sh` beside
# it is the job.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here" || exit 1

jit_config=${ACTIONS_RUNNER_INPUT_JITCONFIG:-}
if [ "${1:-}" = --jitconfig ]; then
    jit_config=$2
fi
# As the real one: no job sees it.
unset ACTIONS_RUNNER_INPUT_JITCONFIG
if [ "$(id -u)" = 0 ] && [ -z "${RUNNER_ALLOW_RUNASROOT:-}" ]; then
    echo "Must not run interactively with sudo"
    exit 1
fi
if [ -z "$jit_config" ]; then
    echo "Not configured. Run config.(sh/cmd) to configure the runner."
    exit 1
fi

server=$(cat server)/_fake/runner
if ! session=$(wget -q -O - --post-data "$jit_config" "$server/connect"); then
    echo "The runner registration has been deleted from the server, please re-configure."
    exit 1
fi
echo "Listening for Jobs"
job=
while [ -z "$job" ]; do
    job=$(wget -q -O - "$server/$session/next?wait=20")
done
eval "$job"
RUNNER_NAME=$(uname -n)
# shellcheck disable=SC2154 # They came with the job.
export RUNNER_NAME GITHUB_ACTIONS=true GITHUB_REPOSITORY="$job_repository" GITHUB_EVENT_NAME="$job_event" \
    GITHUB_REF="$job_ref" GITHUB_SHA="$job_sha" GITHUB_ACTOR="$job_actor" GITHUB_JOB="$job_name" \
    GITHUB_WORKFLOW="$job_workflow" GITHUB_WORKFLOW_REF="$job_workflow_ref" \
    GITHUB_RUN_ID="$job_run_id" GITHUB_RUN_ATTEMPT=1
echo "Running job: $job_name"
result=success
if [ "${ACTIONS_RUNNER_HOOK_JOB_STARTED:-}" ]; then
    sh "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || result=failure
fi
# A job whose first hook fails runs no step.
if [ $result = success ]; then
    sh ./job.sh || result=failure
fi
if [ "${ACTIONS_RUNNER_HOOK_JOB_COMPLETED:-}" ]; then
    sh "$ACTIONS_RUNNER_HOOK_JOB_COMPLETED" || result=failure
fi
wget -q -O /dev/null --post-data '' "$server/$session/complete?result=$result" || exit 1
echo "Job $job_name completed with result: $result"
# How the job ended is not how the runner did.
exit 0
