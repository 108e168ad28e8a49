#!/usr/bin/env bash
# A job on the embedded host: the same code as over ssh, with no second machine.   docs/demo.sh [REXEC]
set -euo pipefail
rexec=$(realpath "$(command -v "${1:-rexec}")")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

cat >job.py <<'JOB'
import os, socket

print(f"job: I am pid {os.getpid()} on {socket.gethostname()}, in {os.getcwd()}")
root = next(line.split()[2] for line in open("/proc/mounts") if line.split()[1] == "/")
print(f"job: my / is {root}: this machine's files, asked for over a link as they would be from another machine")
with open("result.txt", "w") as file:
    print("written by the job", file=file)
print("job: result.txt is written, and I wait for a line", flush=True)
print("job: got", repr(input()), "and end with status 7")
raise SystemExit(7)
JOB

echo "\$ rexec --on local python3 job.py"
coproc JOB { exec "$rexec" --on local python3 job.py; }
pid=$JOB_PID
exec {out}<&"${JOB[0]}" {in}>&"${JOB[1]}"
for _ in 1 2 3; do
    read -r -t 30 line <&"$out"
    echo "$line"
done
echo "here: rexec is pid $pid, the job still runs, and result.txt says: $(<result.txt)"
echo "go on" >&"$in"
read -r -t 30 line <&"$out"
echo "$line"
status=0
wait "$pid" || status=$?
echo "here: rexec ended with status $status"
[[ $status == 7 && $(<result.txt) == "written by the job" ]]
