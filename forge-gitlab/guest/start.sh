#!/bin/sh
# Lives the life of a single-use runner: takes its token from the machine's user data, runs one job with GitLab's
# own runner program, and switches the machine off, whatever happened.
#
# Start it once, at boot, as root. It needs a POSIX shell and what every distribution and busybox have, and a
# gitlab-runner whose `run-single` knows `--token-file`.
# What can be set in its environment:
#   RUNNER_PROGRAM    the runner program (default: gitlab-runner)
#   RUNNER_DIRECTORY  where builds and caches are (default: /work/gitlab-runner)
#   RUNNER_USER       who runs jobs (default: gitlab-runner if there is such a user, else root)
#   RUNNER_SHELL      what jobs are written for: bash or sh (default: bash)
#   RUNNER_WAIT       for how many seconds to wait for a job; 0 is for ever (default: 0)
#   RUNNER_USER_DATA  the file with the user data (default: wherever it is found)
#   RUNNER_STATE      where the token is kept (default: /run/runner)
#   RUNNER_POWEROFF   the command that switches off (default: poweroff, by force if need be)
#
# User data is lines of NAME=VALUE:
#   gitlab-url=…      GitLab's address
#   gitlab-token=…    the token of a runner that was made for this machine alone
set -u
umask 077
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
export PATH

program=${RUNNER_PROGRAM:-gitlab-runner}
directory=${RUNNER_DIRECTORY:-/work/gitlab-runner}
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
    rm -f "$state/token"
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

mkdir -p "$state" "$directory" || fail "$state and $directory cannot be made"
user_data=$(find_user_data) || fail "there is no user data"
url=$(value gitlab-url)
token=$(value gitlab-token)
case $url in
http://?* | https://?*) ;;
*) fail "the user data has no line gitlab-url" ;;
esac
case $token in
'') fail "the user data has no line gitlab-token" ;;
*[!A-Za-z0-9._=-]*) fail "the token in the user data is none" ;;
esac
command -v "$program" >/dev/null || fail "$program is not there"

user=${RUNNER_USER:-}
if [ -z "$user" ]; then
    user=root
    ! id gitlab-runner >/dev/null 2>&1 || user=gitlab-runner
fi

# In a file, as arguments can be seen by everyone and the environment is passed on to jobs.
printf '%s' "$token" >"$state/token" || fail "$state/token cannot be written"
unset token user_data
for file in "${RUNNER_USER_DATA:-}" /run/user-data; do
    [ ! -f "$file" ] || rm -f "$file"
done
unset RUNNER_USER_DATA
if [ "$user" != "$(id -un)" ]; then
    chown -R "$user" "$state" "$directory" || fail "user $user cannot be given $state and $directory"
fi

set -- run-single --url "$url" --token-file "$state/token" --name "$(uname -n)" \
    --executor shell --shell "${RUNNER_SHELL:-bash}" \
    --builds-dir "$directory/builds" --cache-dir "$directory/cache" \
    --max-builds 1 --wait-timeout "${RUNNER_WAIT:-0}"
cd "$directory" || fail "$directory cannot be entered"
say "waiting for a job as user $user"
# In the background, so that a signal is heard at once. Its standard input would be taken away otherwise.
if [ "$user" = "$(id -un)" ]; then
    "$program" "$@" </dev/null &
else
    # shellcheck disable=SC2016 # For the other shell.
    su -s /bin/sh "$user" -c 'exec "$0" "$@"' -- "$program" "$@" </dev/null &
fi
child=$!
# It heeds SIGTERM at once; SIGQUIT would wait for the job.
trap 'code=143; kill -TERM $child 2>/dev/null; exit' HUP INT TERM
wait "$child"
code=$?
case $code in
0) say "the runner program is done" ;;
*) say "error: the runner program ended with exit code $code" ;;
esac
exit "$code"
