#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The adapter of client/bash. See README.md here. A shell holds one lease, so each name has a subshell
# of its own, which reads its commands from a pipe; a wait is cancelled by a signal.

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=client/bash/lock_keeper.sh
. "$here/../../client/bash/lock_keeper.sh"

declare -A to pid

acquire() {
    local name=$1 key=$2 options=() word
    shift 2
    for word; do
        case $word in
        wait=-1) options+=(--wait forever) ;;
        wait=* | ttl=* | deadline=*) options+=("--${word%%=*}" "${word#*=}ms") ;;
        *) options+=("--${word%%=*}" "${word#*=}") ;;
        esac
    done
    if lock_keeper_acquire "${options[@]}" "$key"; then
        echo "granted $name fence=$LOCK_KEEPER_FENCE ttl=$LOCK_KEEPER_TTL_MS deadline=$LOCK_KEEPER_DEADLINE_MS"
    elif [[ $LOCK_KEEPER_ERROR == errLockHeld ]]; then
        echo "refused $name errLockHeld retry_after=${LOCK_KEEPER_RETRY_AFTER_MS:-none}${LOCK_KEEPER_HOLDER:+ holder=$LOCK_KEEPER_HOLDER}"
    else
        echo "refused $name ${LOCK_KEEPER_ERROR:-errBadRequest}"
    fi
}

lost() {
    if lock_keeper_lost; then
        echo "lost $1 reason=$LOCK_KEEPER_REASON safe=$LOCK_KEEPER_SAFE_MS"
    fi
}

worker() {
    local name=$1 command words
    trap 'lost "$name"' USR1
    trap lock_keeper_cancel USR2
    while read -r command words; do
        case $command in
        acquire)
            # shellcheck disable=SC2086 # words
            set -f && acquire "$name" $words
            ;;
        release)
            if lock_keeper_release; then
                echo "released $name freed=$LOCK_KEEPER_FREED"
            else
                echo "refused $name errLostActorLock reason=$LOCK_KEEPER_REASON"
            fi
            ;;
        valid)
            if lock_keeper_valid; then echo "valid $name true"; else echo "valid $name false"; fi
            ;;
        esac
    done
}

while read -r command name words; do
    case $command in
    open)
        export LOCK_KEEPER_SOCKET=$name LOCK_KEEPER_TIMEOUT_MS=$words
        ;;
    acquire)
        exec {fd}> >(worker "$name")
        to[$name]=$fd pid[$name]=$!
        echo "acquire $words" >&"$fd"
        ;;
    cancel) kill -s USR2 "${pid[$name]}" ;;
    quit) break ;;
    *) echo "$command" >&"${to[$name]}" ;;
    esac
done
for fd in "${to[@]}"; do
    exec {fd}>&-
done
