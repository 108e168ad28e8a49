#!/usr/bin/env bash
# The master: docs/nug/solve.sh INSTANCE WORKERS [OPTION of rexec submit]...
# Prints the least cost, and the places of the facilities that have it.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
instance=$(realpath "$1") workers=$2
shift 2
directory=$(mktemp -d "$PWD/${instance##*/}.XXXX")
cd "$directory"
mkdir todo taken "done" best
gcc -O2 -o qap "$here/qap.c"

read -r n <"$instance"
batch=$(rexec submit --checkpoint --name worker "$@" -n "$workers" ./qap "$instance" . {})
echo "$batch searches in $directory" >&2
for ((i = 0; i < n; i++)); do
    for ((j = 0; j < n; j++)); do
        ((i == j)) || : >"todo/$i-$j"
    done
done
: >end
rexec watch "$batch" >&2

parts=$(ls "done" | wc -l)
((parts == n * (n - 1))) || { echo "$parts of $((n * (n - 1))) parts were searched: rexec log $batch" >&2; exit 1; }
least=$(ls best | sort -n | head -n 1)
echo "$least: $(<"best/$least")"
