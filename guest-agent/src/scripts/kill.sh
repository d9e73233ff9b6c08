# Sends signal $3 to the process group of process $2 under $1.
state=$1/$2
ended() { { read -r first && read -r second; } <"$state/status"; } 2>/dev/null
[ -d "$state" ] || exit 44
# By force, all that a session started goes too, whatever groups it made.
end_session() {
    [ "$1" = KILL ] && [ -s "$state/session" ] && read -r session <"$state/session" || return 0
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        pid=${line%% *}
        # Fields after the name: state, parent, group, session.
        set -- ${line##*) }
        [ "$4" = "$session" ] && kill -s KILL "$pid"
    done 2>/dev/null
}
# A process that was spawned just now may be a few steps from leading its group.
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    ended && exit 0
    if [ -s "$state/pid" ] && read -r pid birth <"$state/pid"; then
        kill -s "$3" -- "-$pid" && { end_session "$3"; exit 0; }
        [ -d "/proc/$pid" ] || exit 0
    fi
    sleep 0.1
done
exit 1
