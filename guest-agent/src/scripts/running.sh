# Names every process under $1 that has not ended.
cd "$1" 2>/dev/null || exit 0
is() { state=$1; shift 19; [ "$state" != Z ] && [ "$1" = "$birth" ]; }
alive() {
    read -r pid birth <"$1" || return 1
    read -r stat <"/proc/$pid/stat" || return 1
    is ${stat##*) }
} 2>/dev/null
for id in *; do
    [ -s "$id/status" ] || continue
    { read -r first && read -r second; } <"$id/status" && continue
    { alive "$id/keeper" || alive "$id/pid"; } && echo "$id"
done
exit 0
