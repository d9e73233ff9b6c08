#!/bin/sh
# Lives the life of a single-use runner: takes its configuration from the machine's user data, runs one job
# with GitHub's runner program, and switches the machine off, whatever happened.
#
# Start it once, at boot, as root. It needs a POSIX shell and what every distribution and busybox have.
# What can be set in its environment:
#   RUNNER_DIRECTORY  where the runner program is unpacked (default: /opt/actions-runner)
#   RUNNER_USER       who runs jobs (default: runner if there is such a user, else root)
#   RUNNER_USER_DATA  the file with the user data (default: wherever it is found)
#   RUNNER_HOOKS      where job-started.sh and job-completed.sh are (default: beside this file)
#   RUNNER_STATE      where the hooks' settings are kept (default: /run/runner)
#   RUNNER_POWEROFF   the command that switches off (default: poweroff, by force if need be)
#
# User data is either GitHub's JIT configuration and nothing else, or lines of NAME=VALUE:
#   jit-config=…        GitHub's JIT configuration
#   monitor-url=…       where the hooks report to; without it they do nothing
#   monitor-token=…     what they prove themselves with
#   when-unheard=run    what to do with a job when the monitor does not answer: run or refuse
set -u
umask 077
PATH=${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}
export PATH

here=$(cd "$(dirname "$0")" && pwd)
directory=${RUNNER_DIRECTORY:-/opt/actions-runner}
hooks=${RUNNER_HOOKS:-$here}
state=${RUNNER_STATE:-/run/runner}
code=1

say() {
    echo "runner: $*"
    # Shown by whoever looks at the machine from outside.
    { echo "runner: $*" >/dev/console; } 2>/dev/null || :
}

# shellcheck disable=SC2317,SC2329 # The trap below calls it.
switch_off() {
    trap '' HUP INT TERM
    say "the machine switches itself off (exit code $code)"
    if [ "${RUNNER_POWEROFF:-}" ]; then
        sh -c "$RUNNER_POWEROFF"
        exit "$code"
    fi
    sync
    poweroff || poweroff -f || { echo o >/proc/sysrq-trigger; } 2>/dev/null
    exit "$code"
}
trap switch_off EXIT
trap 'code=143; exit' HUP INT TERM

fail() {
    say "error: $*"
    exit 1
}

# The first that is there: as asked for; as a small image keeps it; from QEMU's firmware configuration; as
# cloud-init keeps it; from a NoCloud seed disk.
find_user_data() {
    for file in "${RUNNER_USER_DATA:-}" /run/user-data \
        /sys/firmware/qemu_fw_cfg/by_name/opt/runner/user-data/raw \
        /var/lib/cloud/instance/user-data.txt; do
        if [ -s "$file" ] && cat "$file" 2>/dev/null; then
            return 0
        fi
        # What was asked for is what is meant.
        [ -z "${RUNNER_USER_DATA:-}" ] || return 1
    done
    disk=$(blkid -L CIDATA 2>/dev/null || blkid -L cidata 2>/dev/null) || return 1
    mkdir -p "$state/seed" && mount -o ro "$disk" "$state/seed" || return 1
    cat "$state/seed/user-data"
    status=$?
    umount "$state/seed"
    return $status
}

# The value of a line NAME=VALUE.
value() {
    printf '%s\n' "$user_data" | sed -n "s/^$1=//p" | tr -d '\r' | sed -n 1p
}

mkdir -p "$state" || fail "$state cannot be made"
user_data=$(find_user_data) || fail "there is no user data"
jit_config=$(value jit-config)
if [ -z "$jit_config" ]; then
    jit_config=$(printf '%s' "$user_data" | tr -d ' \t\r\n')
fi
case $jit_config in
'') fail "the user data holds no JIT configuration" ;;
*[!A-Za-z0-9+/=_-]*) fail "the user data is neither a JIT configuration nor lines that name one" ;;
esac

user=${RUNNER_USER:-}
if [ -z "$user" ]; then
    user=root
    ! id runner >/dev/null 2>&1 || user=runner
fi
[ -x "$directory/run.sh" ] || fail "$directory/run.sh is not there"

# For the hooks. A job can read this: it is the same user. The token lets it speak for its own machine alone.
monitor_url=$(value monitor-url)
if [ "$monitor_url" ]; then
    {
        printf 'url=%s\n' "$monitor_url"
        printf 'token=%s\n' "$(value monitor-token)"
        printf 'when-unheard=%s\n' "$(value when-unheard)"
    } >"$state/monitor"
    ACTIONS_RUNNER_HOOK_JOB_STARTED=$hooks/job-started.sh
    ACTIONS_RUNNER_HOOK_JOB_COMPLETED=$hooks/job-completed.sh
    RUNNER_STATE=$state
    export ACTIONS_RUNNER_HOOK_JOB_STARTED ACTIONS_RUNNER_HOOK_JOB_COMPLETED RUNNER_STATE
fi
if [ "$user" != root ]; then
    chown -R "$user" "$state" || fail "user $user cannot be given $state"
fi

# Where the job could read it again. What cannot be removed is of no more use: it was good for one runner.
for file in "${RUNNER_USER_DATA:-}" /run/user-data; do
    [ ! -f "$file" ] || rm -f "$file"
done
unset RUNNER_USER_DATA user_data

# By the environment, as arguments can be seen by everyone; the runner program takes it out of there.
ACTIONS_RUNNER_INPUT_JITCONFIG=$jit_config
export ACTIONS_RUNNER_INPUT_JITCONFIG
unset jit_config

cd "$directory" || fail "$directory cannot be entered"
say "waiting for a job as user $user"
# In the background, so that a signal is heard at once. Its standard input would be taken away otherwise.
if [ "$user" = "$(id -un)" ]; then
    [ "$user" != root ] || export RUNNER_ALLOW_RUNASROOT=1
    ./run.sh </dev/null &
else
    su -s /bin/sh "$user" -c 'exec ./run.sh' </dev/null &
fi
program=$!
trap 'code=143; kill -TERM $program 2>/dev/null; exit' HUP INT TERM
unset ACTIONS_RUNNER_INPUT_JITCONFIG
wait "$program"
code=$?
case $code in
0) say "the job is over" ;;
# As the runner program means them.
1) say "error: the runner program failed" ;;
7) say "error: GitHub no longer accepts this version of the runner program: build the image anew" ;;
*) say "error: the runner program ended with exit code $code" ;;
esac
exit "$code"
