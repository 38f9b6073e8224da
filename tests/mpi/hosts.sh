#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Runs ranks on three hosts: network namespaces, joined by a switch over links with a limited rate.
#   hosts.sh PROGRAM run   the bytes of PROGRAM (benchmarks/mpi/communication.cpp) must be right
#   hosts.sh PROGRAM cut   one link is cut: the job must end with the sentence of the watchdog,
#                          with a non-zero exit code, and no process may be left
# Exits with 77, and says why, where such hosts cannot be made.
set -euo pipefail

# As mpirun's agent: hosts.sh agent JOB ADDRESS COMMAND runs the command on that host.
if [ "$1" = agent ]; then
  host=h${3##*.}
  namespace=$2-$host
  shift 3
  exec ip netns exec "$namespace" unshare --uts sh -c "hostname $host; $*"
fi

program=$1 mode=$2
self=$(realpath "${BASH_SOURCE[0]}")
job=dropbp-$$
hosts=(1 2 3)
rate=100mbit
deadline=8
output=$(mktemp)

skip() {
  echo "SKIPPED: $*"
  exit 77
}
fail() {
  echo "hosts.sh $mode: $*"
  sed 's/^/  | /' "$output"
  exit 1
}
for tool in ip tc unshare sysctl mpirun timeout; do
  command -v "$tool" >/dev/null || skip "three hosts need the command $tool"
done

processes() {
  for host in "${hosts[@]}"; do ip netns pids "$job-h$host" 2>/dev/null || true; done
}
clean() {
  local left
  left=$(processes)
  # shellcheck disable=SC2086
  [ -z "$left" ] || kill -9 $left 2>/dev/null || true
  for name in switch "${hosts[@]/#/h}"; do ip netns del "$job-$name" 2>/dev/null || true; done
  rm -f "$output"
}
trap clean EXIT

may() { "$@" 2>"$output" || skip "three hosts are not permitted: $*: $(tail -n 1 "$output")"; }
may ip netns add "$job-switch"
may ip -n "$job-switch" link add switch type bridge
may ip -n "$job-switch" link set switch up
for host in "${hosts[@]}"; do
  may ip netns add "$job-h$host"
  may ip -n "$job-h$host" link add eth0 type veth peer name "port$host" netns "$job-switch"
  may ip -n "$job-switch" link set "port$host" master switch up
  may ip -n "$job-h$host" address add "10.77.0.$host/24" dev eth0
  may ip -n "$job-h$host" link set eth0 up
  may ip -n "$job-h$host" link set lo up
  may tc -n "$job-h$host" qdisc add dev eth0 root tbf rate "$rate" burst 64kb latency 200ms
  # When mpirun ends a job it waits for all hosts. It gives up one that does not answer when TCP
  # does, which is after 13 s here, and after 15 minutes by default.
  may ip netns exec "$job-h$host" unshare --uts sysctl -q -w net.ipv4.tcp_retries2=5
done

# Each host is a node of its own: messages go over its link, not through shared memory.
mpi=(mpirun --allow-run-as-root -n 3 --host 10.77.0.1,10.77.0.2,10.77.0.3
  --mca plm_rsh_agent "$self agent $job" --mca btl tcp,self --mca pml ob1
  --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0)
start() {
  timeout -k 5 "$1" "$self" agent "$job" 10.77.0.1 "$(printf '%q ' "${mpi[@]}" "$program" "${@:2}")"
}

if [ "$mode" = run ]; then
  start 400 --elements 8192 --steps 5 --rounds 3 >"$output" 2>&1 ||
    fail "the job must succeed, but it ended with $?"
  grep -q "^3 ranks" "$output" || fail "the job must have three ranks"
  sent=$(ip netns exec "$job-h1" cat /sys/class/net/eth0/statistics/tx_bytes)
  [ "$sent" -gt 1000000 ] || fail "gradients must go over the links, but only $sent bytes did"
  echo "three hosts at $rate, $sent bytes sent by the first:"
  cat "$output"
  exit 0
fi

start 200 --elements 8192 --steps 1000000 --deadline "$deadline" >"$output" 2>&1 &
started=$!
for ((waited = 0; waited < 1200; ++waited)); do
  grep -q "^3 ranks" "$output" && break
  kill -0 "$started" 2>/dev/null || fail "the job must not end before its link is cut"
  sleep 0.1
done
sleep 2
kill -0 "$started" 2>/dev/null || fail "the job must not end before its link is cut"
begin=$SECONDS
ip -n "$job-h3" link set eth0 down
code=0
wait "$started" || code=$?
seconds=$((SECONDS - begin))
[ "$code" -ne 0 ] || fail "the job must end with a non-zero exit code"
[ "$code" -ne 124 ] && [ "$code" -ne 137 ] ||
  fail "the job must end by itself, but it had not in 200 s"
grep -qE "a step must end within $deadline s, but step [0-9]+ has not" "$output" ||
  fail "a rank must say that a step has not ended"
for ((waited = 0; waited < 200; ++waited)); do
  [ -n "$(processes)" ] || break
  sleep 0.1
done
[ -z "$(processes)" ] || fail "these processes are left: $(processes | xargs ps -o pid,args -p)"
echo "a link was cut: the job ended after $seconds s (exit code $code):" \
  "$(grep -m1 -oE "rank [0-9]+: .*a step must end within.*" "$output")"
