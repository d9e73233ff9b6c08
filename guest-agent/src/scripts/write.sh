# Adds standard input to the temporary file $2, which becomes $1 with mode $3 at last.
# $4: first or more  $5: last or more
fail() {
    rm -f -- "$1"
    exit 1
}
if [ "$4" = first ]; then
    parent=${1%/*}
    mkdir -p -- "${parent:-/}" || exit 1
    [ -d "$1" ] && echo "Is a directory" >&2 && exit 1
    umask 077
    cat >"$2" || fail "$2"
else
    cat >>"$2" || fail "$2"
fi
if [ "$5" = last ]; then
    chmod -- "$3" "$2" && mv -f -- "$2" "$1" || fail "$2"
fi
