# shellcheck shell=bash disable=SC2034 # what is set here is for the script
# SPDX-License-Identifier: Apache-2.0
#
# Hold a Redis lock through the lock-keeper sidecar from a bash script, and hear of it before it is
# lost. To be sourced. Needs bash 4.4 or later, socat and Linux.
#
#   lock_keeper_acquire [OPTION]... KEY   get the lease
#     --wait DURATION|forever             how long to wait for it (default: try once)
#     --ttl DURATION, --deadline DURATION, --label TEXT    as the protocol's acquire
#     --bind connection|pid|none          pid: it lives and dies with this script ($$), whatever
#                                         becomes of the connection
#     --signal NAME                       sent to this shell when the lease is lost (default USR1:
#                                         without a trap it ends the script); none: no signal
#   lock_keeper_release                   give it back
#   lock_keeper_valid                     0: one may act on the key now
#   lock_keeper_lost                      0: it was lost; LOCK_KEEPER_REASON, LOCK_KEEPER_SAFE_MS
#   lock_keeper_cancel                    for a trap: ends the wait of lock_keeper_acquire
#
# A DURATION is a number with ms, s, m or h. After a grant LOCK_KEEPER_KEY, _LEASE (a secret) and
# _FENCE are set; after a refusal LOCK_KEEPER_ERROR and _MESSAGE, and for a held key _HOLDER (its
# label), _HOLDER_PID, _HOLDER_HOST and _RETRY_AFTER_MS (empty: it has no TTL). LOCK_KEEPER_SOCKET
# names the socket, LOCK_KEEPER_TIMEOUT_MS how long the sidecar may take to answer (10000).
#
# Status: 0 done; 64 wrong usage; 69 no sidecar, or no Redis; 75 the key is held; 123 lost; 1 other.
#
# One shell holds one lease at a time; a subshell may hold another. Neither the commands that the
# script runs nor its subshells inherit the connection, so the lease ends with the script.
#
# The model. A coprocess, the manager, owns the lease. Its standard input is a pipe that only the
# script writes to; socat, which the manager starts, reads from that same pipe, so the script speaks
# to the sidecar without anybody in between, and its death, even by SIGKILL, half-closes the
# connection. What the sidecar says comes to the manager alone. It answers the script in lines of
# fields, keeps the newest valid_until in the cell (an unlinked file of which any subshell can read
# the first line), tells a loss by a signal, and after the sidecar's death starts another socat and
# adopts the lease. The script adds a second line to the cell before it releases: then a revoked that
# crosses the release is no loss to tell.

_lock_keeper_held=     # the lease's digits, while this shell holds or has lost it
_lock_keeper_cell=     # descriptor
_lock_keeper_sep=$'\x1f'

# ---- For the script ----

lock_keeper_acquire() {
    local wait_ms=0 ttl_ms='' deadline_ms='' label='' bind='' signal=USR1 key='' request kind member
    unset LOCK_KEEPER_ERROR LOCK_KEEPER_MESSAGE LOCK_KEEPER_HOLDER LOCK_KEEPER_HOLDER_PID \
        LOCK_KEEPER_HOLDER_HOST LOCK_KEEPER_RETRY_AFTER_MS LOCK_KEEPER_REASON LOCK_KEEPER_SAFE_MS
    while (($# > 1)); do
        case $1 in
        --wait)
            if [[ $2 == forever ]]; then wait_ms=-1; else _lock_keeper_ms wait_ms "$2" || return 64; fi
            ;;
        --ttl) _lock_keeper_ms ttl_ms "$2" || return 64 ;;
        --deadline) _lock_keeper_ms deadline_ms "$2" || return 64 ;;
        --label) _lock_keeper_quote label "$2" || return 64 ;;
        --bind) bind=$2 ;;
        --signal) signal=$2 ;;
        *) break ;;
        esac
        shift 2
    done
    if (($# != 1)) || [[ $1 == --* ]]; then
        echo "usage: lock_keeper_acquire [--wait DURATION] [--ttl DURATION] [--deadline DURATION]" \
            "[--label TEXT] [--bind connection|pid|none] [--signal NAME] KEY" >&2
        return 64
    fi
    if [[ $_lock_keeper_held ]]; then
        echo "lock_keeper_acquire: this shell holds $LOCK_KEEPER_KEY; release it first" >&2
        return 64
    fi
    _lock_keeper_quote key "$1" || return 64
    request="\"key\":\"$key\",\"wait_ms\":$wait_ms"
    for member in ttl_ms deadline_ms; do
        [[ -z ${!member} ]] || request+=",\"$member\":${!member}"
    done
    [[ -z $label ]] || request+=",\"label\":\"$label\""
    case $bind in
    '') ;;
    pid) bind=",\"bind\":\"pid\",\"pid\":$$" ;;
    *) bind=",\"bind\":\"$bind\"" ;;
    esac
    _lock_keeper_start "$request" "\"key\":\"$key\"" "$bind" "$wait_ms" "$signal" || return 69
    LOCK_KEEPER_KEY=$1
    while IFS=$_lock_keeper_sep read -r -u "${LOCK_KEEPER_MANAGER[0]}" kind "${_lock_keeper_fields[@]}"; do
        case $kind in
        granted)
            _lock_keeper_held=$LOCK_KEEPER_LEASE
            return 0
            ;;
        refused) break ;;
        esac
    done
    _lock_keeper_end
    unset LOCK_KEEPER_KEY LOCK_KEEPER_LEASE LOCK_KEEPER_FENCE LOCK_KEEPER_TTL_MS LOCK_KEEPER_DEADLINE_MS
    case ${LOCK_KEEPER_ERROR:=errSidecarUnavailable} in
    errLockHeld) return 75 ;;
    errBadRequest | errLineTooLong) return 64 ;;
    errSidecarUnavailable | errRedis* | errShuttingDown) return 69 ;;
    esac
    return 1
}

lock_keeper_release() {
    local IFS=' ' kind freed='' reason='' patience=5
    [[ $_lock_keeper_held ]] || return 0
    echo release >>"/proc/self/fd/$_lock_keeper_cell"
    _lock_keeper_say "{\"id\":\"release\",\"op\":\"release\",\"lease\":\"$_lock_keeper_held\"}"
    if lock_keeper_lost; then patience=1; else LOCK_KEEPER_REASON=; fi
    while IFS=$_lock_keeper_sep read -r -t $patience -u "${LOCK_KEEPER_MANAGER[0]:-0}" kind freed reason; do
        [[ $kind != over ]] || break
    done
    _lock_keeper_end
    LOCK_KEEPER_FREED=${freed:-false}
    LOCK_KEEPER_REASON=${LOCK_KEEPER_REASON:-$reason}
    unset LOCK_KEEPER_KEY LOCK_KEEPER_LEASE LOCK_KEEPER_FENCE LOCK_KEEPER_TTL_MS LOCK_KEEPER_DEADLINE_MS
    [[ -z $LOCK_KEEPER_REASON ]] || return 123
}

lock_keeper_valid() {
    local IFS=' ' state until now
    [[ $_lock_keeper_held ]] || return 1
    read -r state until _ <"/proc/self/fd/$_lock_keeper_cell"
    _lock_keeper_clock
    [[ $state == held ]] && ((now < until))
}

lock_keeper_lost() {
    local IFS=' ' state until reason safe now
    [[ $_lock_keeper_held ]] || return 1
    read -r state until reason safe _ <"/proc/self/fd/$_lock_keeper_cell"
    if [[ $state == held ]]; then
        _lock_keeper_clock
        ((now >= until)) || return 1
        reason=silent safe=0 # nobody is there to say so
    fi
    [[ $state != over ]] || return 1
    LOCK_KEEPER_REASON=$reason
    LOCK_KEEPER_SAFE_MS=$safe
}

lock_keeper_cancel() {
    _lock_keeper_say '{"id":"cancel","op":"cancel","target":"acquire"}'
}

# ---- Inside ----

_lock_keeper_fields=(LOCK_KEEPER_LEASE LOCK_KEEPER_FENCE LOCK_KEEPER_TTL_MS LOCK_KEEPER_DEADLINE_MS
    LOCK_KEEPER_ERROR LOCK_KEEPER_RETRY_AFTER_MS LOCK_KEEPER_HOLDER LOCK_KEEPER_HOLDER_PID
    LOCK_KEEPER_HOLDER_HOST LOCK_KEEPER_MESSAGE)

# _lock_keeper_ms VARIABLE DURATION
_lock_keeper_ms() {
    local factor
    if [[ ! $2 =~ ^([0-9]+)(ms|s|m|h)$ ]]; then
        echo "lock_keeper: a duration is a number with ms, s, m or h, not '$2'" >&2
        return 64
    fi
    case ${BASH_REMATCH[2]} in ms) factor=1 ;; s) factor=1000 ;; m) factor=60000 ;; h) factor=3600000 ;; esac
    printf -v "$1" %d $((10#${BASH_REMATCH[1]} * factor))
}

# _lock_keeper_quote VARIABLE TEXT: as the inside of a JSON string.
_lock_keeper_quote() {
    local text=${2//\\/\\\\}
    if [[ $2 == *[[:cntrl:]]* ]]; then
        echo "lock_keeper: control characters are not allowed in keys and labels" >&2
        return 64
    fi
    printf -v "$1" %s "${text//\"/\\\"}"
}

# CLOCK_BOOTTIME in ms, never behind the real one, into `now`. No process is started for it.
_lock_keeper_clock() {
    local IFS=' ' up
    read -r up _ </proc/uptime
    now=$((10#${up/./} * 10 + 10))
}

# One line to the sidecar (to the manager, where there is none). A dead manager is no reason to die.
_lock_keeper_say() {
    local trap
    trap=$(trap -p PIPE)
    trap '' PIPE
    [[ -z ${LOCK_KEEPER_MANAGER[1]-} ]] || printf '%s\n' "$1" 2>/dev/null 1>&"${LOCK_KEEPER_MANAGER[1]}"
    eval "${trap:-trap - PIPE}"
}

_lock_keeper_start() {
    local cell script=$BASHPID
    if ! type socat >/dev/null 2>&1; then
        LOCK_KEEPER_ERROR=errSidecarUnavailable LOCK_KEEPER_MESSAGE='socat is not installed'
        return 69
    fi
    cell=$(mktemp) || return 69
    exec {_lock_keeper_cell}<>"$cell"
    rm -f -- "$cell"
    { coproc LOCK_KEEPER_MANAGER { _lock_keeper_manage "$@" "$script" 2>/dev/null; }; } 2>/dev/null
    # The script's own `wait` is not to wait for it. Its pid is kept by nobody: it ends with the pipe.
    disown "$!"
    _lock_keeper_say "${LOCK_KEEPER_MANAGER[1]}"
}

_lock_keeper_end() {
    local fd
    for fd in "${LOCK_KEEPER_MANAGER[@]}" "$_lock_keeper_cell"; do
        eval "exec $fd>&-"
    done
    _lock_keeper_held=
}

# ---- The manager. What is local to _lock_keeper_manage is shared by all below ----

# _lock_keeper_manage REQUEST KEY BIND WAIT_MS SIGNAL SCRIPT
_lock_keeper_manage() {
    local request=$1 key=$2 bind=$3 wait_ms=$4 signal=$5 script=$6 writer
    local path=${LOCK_KEEPER_SOCKET:-/run/lock-keeper/lock-keeper.sock}
    local timeout=${LOCK_KEEPER_TIMEOUT_MS:-10000}
    local phase=asking  # held, lost, over
    local link=down     # hello (asked for), up
    local confirmed=0   # on the connection of now
    local give_back=    # released while there was no connection
    local lease='' reason='' until=0 margin=0 ratio=0 offset=0 notify='' asked=0 expires=0 adopt_at=0
    local pause=20 why='' now=0 from='' socat='' line='' rest='' own
    local -A m=() # the members of the newest line
    local IFS=$' \t\n'

    set +eu # the script's own choices
    trap '' PIPE # the script may have read enough
    read -r writer # which descriptor of the script's our input comes from
    [[ $writer == [0-9]* ]] || return
    while [[ $phase != over ]]; do
        if [[ $link != down ]]; then
            _lock_keeper_listen
        elif [[ $phase == asking && $why ]]; then
            _lock_keeper_refuse errSidecarUnavailable "$path: $why"
        elif [[ $phase == asking ]]; then
            _lock_keeper_connect
        else
            _lock_keeper_away
        fi
    done
    _lock_keeper_hang_up
    # The script closes the pipe when it has read the last line; ended before, bash could lose it.
    [[ $give_back ]] || while read -r line; do :; done
}

_lock_keeper_connect() {
    local address=$path char
    for char in \\ ',' : ! \' \" \( \[ \{; do # what socat would take for its own
        address=${address//"$char"/\\"$char"}
    done
    exec {from}< <(exec socat -t 0 - "UNIX-CONNECT:$address" <&0 2>/dev/null)
    socat=$!
    link=hello rest=''
    _lock_keeper_put '{"id":"hello","op":"hello"}'
    _lock_keeper_clock
    asked=$now expires=$((now + timeout))
}

_lock_keeper_hang_up() {
    [[ $from ]] || return
    kill "$socat"
    exec {from}<&-
    from='' link=down confirmed=0 adopt_at=0
}

# By the way that the script's requests go.
_lock_keeper_put() {
    printf '%s\n' "$1" >/proc/self/fd/0
}

# To the script.
_lock_keeper_tell() {
    local IFS=$_lock_keeper_sep
    printf '%s\n' "$*"
}

_lock_keeper_note() {
    printf '%-120s\n' "$*" 1<>"/proc/self/fd/$_lock_keeper_cell"
}

_lock_keeper_is_releasing() {
    local words=()
    mapfile -t words <"/proc/self/fd/$_lock_keeper_cell"
    [[ $give_back || ${words[1]-} == release ]]
}

# A sidecar that is there revokes at the margin itself, so that is waited for. Without one, the script
# is told when it would have been.
_lock_keeper_give_up_at() {
    at=$((confirmed ? until - margin / 2 : until - margin))
    ! _lock_keeper_is_releasing || at=$until
}

# Waits for the next line, or the next instant, of the connection.
_lock_keeper_listen() {
    local at=$expires span status
    if [[ $phase == held ]]; then
        _lock_keeper_give_up_at
        ((adopt_at == 0 || adopt_at > at)) || at=$adopt_at
        [[ $link == up ]] || ((expires > at)) || at=$expires
    elif [[ $phase == lost && $link == up ]]; then
        at=0
    fi
    _lock_keeper_clock
    span=$((at - now > 1 ? at - now : 1))
    printf -v span %d.%03d $((span / 1000)) $((span % 1000))
    if ((at)); then read -r -t "$span" -u "$from" line; else read -r -u "$from" line; fi
    status=$?
    rest+=$line
    if ((status == 0)); then
        line=$rest rest=''
        _lock_keeper_on_line
    elif ((status > 128)); then
        _lock_keeper_on_time
    else
        _lock_keeper_hang_up
        why=${why:-no sidecar listens there, or it closed the connection}
        # socat may have taken a release with it.
        [[ $phase == asking || $give_back ]] || ! _lock_keeper_is_releasing || _lock_keeper_unheard
    fi
}

_lock_keeper_on_time() {
    _lock_keeper_clock
    if [[ $link == hello ]] && ((now >= expires)); then
        why='no answer in time'
        _lock_keeper_hang_up
    elif [[ $phase == asking ]] && ((expires && now >= expires)); then
        _lock_keeper_refuse errSidecarUnavailable "$path: no answer in time"
    elif [[ $phase == held ]]; then
        ((adopt_at == 0 || now < adopt_at)) || _lock_keeper_adopt
        _lock_keeper_look
    fi
}

# Whether anybody has confirmed the lease in time.
_lock_keeper_look() {
    local at
    _lock_keeper_give_up_at
    ((now < at)) || if ((confirmed)); then _lock_keeper_lose silent; else _lock_keeper_lose disconnected; fi
}

# There is no connection: the script's requests come here.
_lock_keeper_away() {
    local span at=0 status
    if [[ $phase == held ]]; then
        _lock_keeper_clock
        _lock_keeper_look
        [[ $phase == held ]] || return
    fi
    if [[ $phase == lost ]]; then
        read -r line
        status=$?
    elif [[ ! -S $path ]] || ((pause > 20)); then
        printf -v span 0.%03d "$pause"
        read -r -t "$span" line
        status=$?
    else
        status=142
    fi
    if ((status == 0)); then
        [[ $line != *'"op":"release"'* || $give_back ]] || _lock_keeper_unheard
    elif ((status > 128)); then
        pause=$((pause < 125 ? pause * 2 : 250))
        _lock_keeper_connect
    else
        phase=over give_back=yes # the script has gone
    fi
}

# ---- What the sidecar says ----

# The top-level members of a JSON object, into m: strings without their quotes, else as it stands.
_lock_keeper_parse() {
    local json=$1 name depth
    local string='"([^"\\]*(\\.[^"\\]*)*)"'
    local member="^[{,]$string:" scalar='^[^][{},"]+' skip='^[^][{}"]*'
    m=()
    while [[ $json =~ $member ]]; do
        name=${BASH_REMATCH[1]}
        json=${json:${#BASH_REMATCH[0]}}
        if [[ $json =~ ^$string ]]; then
            m[$name]=${BASH_REMATCH[1]}
            json=${json:${#BASH_REMATCH[0]}}
        elif [[ $json =~ $scalar ]]; then
            m[$name]=${BASH_REMATCH[0]}
            json=${json:${#BASH_REMATCH[0]}}
        else
            m[$name]=
            depth=0
            while :; do
                if [[ $json =~ ^$string ]]; then :; else [[ $json =~ ^. ]] || return 1; fi
                case $json in
                [\{\[]*) depth=$((depth + 1)) ;;
                [\}\]]*) depth=$((depth - 1)) ;;
                esac
                m[$name]+=${BASH_REMATCH[0]}
                json=${json:${#BASH_REMATCH[0]}}
                ((depth)) || break
                [[ $json =~ $skip ]]
                m[$name]+=${BASH_REMATCH[0]}
                json=${json:${#BASH_REMATCH[0]}}
            done
        fi
    done
    [[ $json == '}' ]]
}

# _lock_keeper_text VARIABLE JSON-STRING: for people; on one line.
_lock_keeper_text() {
    local text=${2//\\\\/$'\x01'} pair='\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})'
    while [[ $text =~ $pair ]]; do
        printf -v line '\\U%08x' $((0x10000 + ((0x${BASH_REMATCH[1]} & 0x3ff) << 10) + (0x${BASH_REMATCH[2]} & 0x3ff)))
        text=${text/"${BASH_REMATCH[0]}"/$line}
    done
    text=${text//\\\"/\"} text=${text//\\\//\/}
    printf -v text %b "$text"
    text=${text//$'\x01'/\\}
    printf -v "$1" %s "${text//[[:cntrl:]]/ }"
}

_lock_keeper_on_line() {
    if ! _lock_keeper_parse "$line"; then
        why='it is no lock-keeper'
        _lock_keeper_hang_up
        return
    fi
    case ${m[event]-}/${m[id]-} in
    renewed/*)
        [[ ${m[lease]} != "$lease" || $phase != held ]] || _lock_keeper_confirm
        ;;
    revoked/*)
        [[ ${m[lease]} != "$lease" || $phase != held ]] || _lock_keeper_revoked
        ;;
    */hello) _lock_keeper_on_hello ;;
    */acquire) _lock_keeper_on_acquire ;;
    */adopt) _lock_keeper_on_adopt ;;
    */release) _lock_keeper_on_release ;;
    /) # a connection that is refused
        [[ $link == up || $phase != asking ]] || _lock_keeper_on_acquire
        ;;
    esac
}

_lock_keeper_on_hello() {
    [[ $link == hello ]] || return
    if [[ ${m[ok]} != true || ${m[protocol]} != 1 ]]; then
        why='it does not speak protocol 1'
        _lock_keeper_hang_up
        return
    fi
    _lock_keeper_clock
    # Where their clock reads what ours cannot have read meanwhile, ours began elsewhere; then nothing
    # is taken for later than it is.
    offset=0
    ((asked - 20 <= m[now_ms] && m[now_ms] <= now)) || offset=$((asked - 20 - m[now_ms]))
    ratio=$((m[revoke_margin_ms] * 1000 / m[lock_ttl_ms]))
    notify=''
    [[ ${m[caps]} != *'"notify"'* ]] || notify=',"notify":["renewed"]'
    link=up
    if [[ $phase == held ]]; then
        _lock_keeper_adopt
    elif [[ $phase == asking ]]; then
        expires=$((wait_ms < 0 ? 0 : now + wait_ms + timeout))
        _lock_keeper_put "{\"id\":\"acquire\",\"op\":\"acquire\",$request$bind$notify}"
    fi
}

_lock_keeper_on_acquire() {
    [[ $phase == asking ]] || return
    if [[ ${m[ok]} == true ]]; then
        lease=${m[lease]} phase=held
        _lock_keeper_confirm
        _lock_keeper_tell granted "$lease" "${m[fence]}" "${m[ttl_ms]}" "${m[deadline_ms]}"
    else
        _lock_keeper_refuse "${m[error]}" "${m[message]-}"
    fi
}

_lock_keeper_refuse() {
    local message label='' pid='' host='' retry=${m[retry_after_ms]-}
    _lock_keeper_text message "$2"
    if _lock_keeper_parse "${m[holder]-}"; then
        _lock_keeper_text label "${m[label]-}"
        _lock_keeper_text host "${m[host]-}"
        pid=${m[pid]-}
    fi
    _lock_keeper_tell refused '' '' '' '' "$1" "${retry/null/}" "$label" "$pid" "$host" "$message"
    phase=over
}

_lock_keeper_confirm() {
    until=$((m[valid_until_ms] + offset))
    [[ -z ${m[ttl_ms]-} ]] || margin=$((m[ttl_ms] * ratio / 1000)) confirmed=1
    _lock_keeper_note held "$until"
}

_lock_keeper_adopt() {
    adopt_at=0
    _lock_keeper_put "{\"id\":\"adopt\",\"op\":\"adopt\",$key,\"lease\":\"$lease\"$bind$notify}"
}

_lock_keeper_on_adopt() {
    if [[ $phase != held ]]; then
        [[ ${m[ok]} != true ]] || _lock_keeper_put "{\"op\":\"release\",\"lease\":\"$lease\"}"
    elif [[ ${m[ok]} == true ]]; then
        pause=20
        adopt_at=0
        _lock_keeper_confirm
        [[ ! $give_back ]] || _lock_keeper_put "{\"id\":\"release\",\"op\":\"release\",\"lease\":\"$lease\"}"
    else
        case ${m[error]} in
        errLostActorLock) _lock_keeper_lose lost ;;
        errNotPermitted | errBadRequest | errUnknownOp) _lock_keeper_lose disconnected ;;
        *) _lock_keeper_clock && adopt_at=$((now + 100)) ;;
        esac
    fi
}

_lock_keeper_on_release() {
    if [[ $phase == lost ]]; then
        _lock_keeper_over "${m[freed]-true}" "$reason"
    elif [[ $phase == held && $confirmed == 0 && ${m[error]-} == errUnknownLease ]]; then
        _lock_keeper_unheard # it came before the adopt
    elif [[ ${m[ok]} == true ]]; then
        _lock_keeper_over true
    elif [[ ${m[error]} == errLostActorLock ]]; then
        _lock_keeper_over "${m[freed]-false}" "${reason:-lost}"
    else
        _lock_keeper_over false # over all the same: deleted later, or it runs out
    fi
}

_lock_keeper_over() {
    _lock_keeper_tell over "$1" "${2-}"
    phase=over
}

# A release that no sidecar has heard of. The script has its answer; the lease is to be adopted and
# given back, and until then this pipe does not end with the script.
_lock_keeper_unheard() {
    if [[ $phase == lost ]]; then
        _lock_keeper_over false "$reason"
    else
        _lock_keeper_tell over false
        give_back=yes
        exec {own}>/proc/self/fd/0
    fi
}

_lock_keeper_revoked() {
    reason=${m[reason]}
    if _lock_keeper_is_releasing; then return; fi
    _lock_keeper_lose "$reason" "${m[safe_ms]}"
}

_lock_keeper_lose() {
    local safe=${2-}
    phase=lost
    if _lock_keeper_is_releasing; then # its holder has stopped
        [[ ! $give_back ]] || phase=over
        reason=$1
        return
    fi
    _lock_keeper_clock
    [[ $safe ]] || safe=$((until - now))
    ((safe > 0)) && [[ $1 != lost ]] || safe=${2:-0}
    reason=$1
    _lock_keeper_note lost 0 "$reason" "$safe"
    # Only to the script itself, not to what it may have been replaced by.
    if [[ $signal != none && /proc/$script/fd/$writer -ef /proc/self/fd/0 ]]; then
        kill -s "$signal" "$script"
    fi
}
