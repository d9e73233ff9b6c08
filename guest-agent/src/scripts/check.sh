# Whether the program $1 can be executed here.
exec "$1" --check
