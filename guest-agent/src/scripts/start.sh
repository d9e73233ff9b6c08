# Runs a command as process $2 under $1, once, and keeps its output and exit status.
# $3: merge, split or session, which merges and is written to  $4: working directory  $5...: the command
# The command inherits this environment, so no variable here may have a name that it could use.
__runner_state=$1/$2 __runner_output=$3 __runner_directory=$4 __runner_path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
__runner_read_birth() { shift 19; __runner_birth=$1; }

umask 077
# Every program that need not be started is time that the command gains.
[ -d "$1" ] || mkdir -p "$1" || exit 73
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
shift 4

read -r __runner_stat <"/proc/$$/stat"
__runner_read_birth ${__runner_stat##*) }
# The first line of the status takes its block on the disk now, so that a full disk later does not keep the
# second from being written.
if ! { : >"$__runner_state/stdout" && : >"$__runner_state/stderr" &&
    echo "$$ $__runner_birth" >"$__runner_state/keeper" &&
    echo started >"$__runner_state/status" &&
    { [ "$__runner_output" != session ] ||
        (cd "$__runner_state" && touch input end taken seen size); }; }; then
    rm -rf "$__runner_state"
    exit 73
fi
# In the foreground: in the background a shell makes its children deaf to SIGINT.
(
    # This shell becomes the command. It is no group's leader, so `setsid` need not fork.
    read -r __runner_stat </proc/self/stat
    __runner_read_birth ${__runner_stat##*) }
    echo "${__runner_stat%% *} $__runner_birth" >"$__runner_state/pid" || exit 126
    exec </dev/null >>"$__runner_state/stdout" || exit 126
    if [ "$__runner_output" = split ]; then
        exec 2>>"$__runner_state/stderr"
    else
        exec 2>&1
    fi
    umask 022
    { [ -d "$__runner_directory" ] || mkdir -p -- "$__runner_directory"; } &&
        cd -- "$__runner_directory" || exit 126
    # By its path: the command's own may not lead to it.
    for __runner_setsid in /usr/bin/setsid /bin/setsid /usr/sbin/setsid /sbin/setsid; do
        [ -x "$__runner_setsid" ] && PATH=$__runner_path && exec "$__runner_setsid" -- "$@"
    done
    PATH=$__runner_path
    exec /bin/busybox setsid -- "$@"
)
echo $? >>"$__runner_state/status"
