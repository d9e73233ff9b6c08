# Leads the new process group of a command, says so, and becomes the command.
# $1: state directory  $2: the command's PATH  $3: working directory  $4...: the command
__runner_read_birth() { shift 19; __runner_birth=$1; }
read -r __runner_stat <"/proc/$$/stat"
__runner_read_birth ${__runner_stat##*) }
echo "$$ $__runner_birth" >"$1/pid" || exit 126
umask 022
{ [ -d "$3" ] || mkdir -p -- "$3"; } && cd -- "$3" || exit 126
PATH=$2
shift 3
exec "$@"
