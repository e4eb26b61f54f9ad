#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command while it holds a lease, and stops the command when the lease is revoked:
#
#     hold.sh KEY COMMAND [ARGUMENT...]
#
# Exit: the command's own status; 75 the key is held; 69 no sidecar, or no Redis; 123 lease lost.
# Needs bash, socat and a running lock-keeper.
set -u

socket=${LOCK_KEEPER_SOCKET:-/run/lock-keeper/lock-keeper.sock}
key=${1:?usage: hold.sh KEY COMMAND [ARGUMENT...]}
shift

coproc KEEPER { exec socat - "UNIX-CONNECT:$socket"; }
exec {from}<&"${KEEPER[0]}" {to}>&"${KEEPER[1]}" # copies that a subshell keeps
socat=$KEEPER_PID

json_key=${key//\\/\\\\}
printf '{"op":"acquire","key":"%s"}\n' "${json_key//\"/\\\"}" >&"$to"
IFS= read -r reply <&"$from" || { echo "hold.sh: no lock-keeper at $socket" >&2; exit 69; }
case $reply in
'{"ok":true,'*) ;;
*'"error":"errLockHeld"'*) echo "hold.sh: $reply" >&2; exit 75 ;;
*) echo "hold.sh: $reply" >&2; exit 69 ;;
esac
lease=${reply#*\"lease\":\"} lease=${lease%%\"*}

# The command gets neither end of the connection, so the lease ends with this script, not with
# whatever the command leaves running. It gets a process group of its own to be stopped as a whole.
set -m
"$@" {from}<&- {to}>&- &
command=$!
set +m

# The watcher: the next line that is a revoked event, or the end of the stream, means stop.
{
    while IFS= read -r line; do
        case $line in
        '{"event":"revoked",'*) break ;;
        '{"ok":'*) exit 0 ;; # the reply to our release
        esac
    done
    echo "hold.sh: stopping: ${line:-the sidecar is gone}" >&2
    kill -TERM -- "-$command"
    # Half of the time that the key is still sure to be ours; none where it may be gone already.
    safe=${line##*\"safe_ms\":} safe=${safe%%,*}
    sleep "$((${safe:-0} / 2000))"
    kill -KILL -- "-$command" 2>/dev/null
    exit 123
} <&"$from" {to}>&- &
watcher=$!

wait "$command"
status=$?
{ printf '{"op":"release","lease":"%s"}\n' "$lease" >&"$to"; } 2>/dev/null
wait "$watcher"
[ $? -eq 123 ] && status=123
kill "$socat" 2>/dev/null
exit "$status"
