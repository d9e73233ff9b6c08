# Makes the directory for processes, $1, ahead of the first, and wakes what it takes to start one.
umask 077
[ -d "$1" ] || mkdir -p "$1"
(exec setsid true)
