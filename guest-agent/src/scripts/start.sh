# Runs a command as process $3 under $2, once, and keeps its output and exit status.
# $1: lead.sh  $4: merge or split  $5: working directory  $6...: the command
# The command inherits this environment, so no variable here may have a name that it could use.
__runner_lead=$1 __runner_state=$2/$3 __runner_output=$4 __runner_directory=$5 __runner_path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
command -v setsid >/dev/null || setsid() { busybox setsid "$@"; }
__runner_read_birth() { shift 19; __runner_birth=$1; }

umask 077
# Every program that need not be started is time that the command gains.
[ -d "$2" ] || mkdir -p "$2" || exit 73
if ! mkdir "$__runner_state" 2>/dev/null; then
    [ -d "$__runner_state" ] || exit 73
    for __runner_try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -s "$__runner_state/status" ] && exit 0
        sleep 0.1
    done
    # Whoever made the directory was killed before it ran anything.
    : >>"$__runner_state/stdout"
    : >>"$__runner_state/stderr"
    printf 'started\n137\n' >"$__runner_state/status"
    exit 0
fi
shift 5

read -r __runner_stat <"/proc/$$/stat"
__runner_read_birth ${__runner_stat##*) }
# The first line of the status takes its block on the disk now, so that a full disk later does not keep the
# second from being written.
if ! { : >"$__runner_state/stdout" && : >"$__runner_state/stderr" &&
    echo "$$ $__runner_birth" >"$__runner_state/keeper" &&
    echo started >"$__runner_state/status"; }; then
    rm -rf "$__runner_state"
    exit 73
fi
# In the foreground: in the background a shell makes its children deaf to SIGINT.
if [ "$__runner_output" = merge ]; then
    setsid /bin/sh -c "$__runner_lead" runner "$__runner_state" "$__runner_path" "$__runner_directory" "$@" \
        </dev/null >>"$__runner_state/stdout" 2>&1
else
    setsid /bin/sh -c "$__runner_lead" runner "$__runner_state" "$__runner_path" "$__runner_directory" "$@" \
        </dev/null >>"$__runner_state/stdout" 2>>"$__runner_state/stderr"
fi
echo $? >>"$__runner_state/status"
