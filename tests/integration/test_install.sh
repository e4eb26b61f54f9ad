#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What `meson install` installs of liblockkeeper is what a stranger can build with: the header alone
# (C and, where there is a compiler, C++), the shared library with its soname and nothing else in
# sight, the static one likewise, and the pkg-config file.
#
#     test_install.sh BUILD SOURCE [CFLAG...]    flags that a sanitized library needs
set -u

build=$1
source=$2
shift 2
cc=${CC:-cc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
count=0

# ok NAME COMMAND...
ok() {
    count=$((count + 1))
    name=$1
    shift
    if "$@" >"$folder/output" 2>&1; then
        echo "ok $count - $name"
    else
        sed 's/^/# /' "$folder/output"
        echo "not ok $count - $name"
    fi
}

# shows PATTERN COMMAND...: one line of its output fits; hides: none.
shows() { pattern=$1 && shift && "$@" >"$folder/shown" && grep -E -- "$pattern" "$folder/shown"; }
hides() { pattern=$1 && shift && "$@" >"$folder/shown" && ! grep -E -- "$pattern" "$folder/shown"; }

# Those that a library defines for others, one a line, but for its version's name.
symbols() { nm -g --defined-only "$@" | awk 'NF == 3 && $3 != "LOCK_KEEPER_0" { print $3 }'; }

ok 'meson install' meson install -C "$build" --no-rebuild --destdir "$folder/dest"
at=$(find "$folder/dest" -name liblockkeeper.pc)
lib=${at%/pkgconfig/*}
include=$(find "$folder/dest" -name lock_keeper.h)
include=${include%/*}
# The folders stand in the file as they will be; the destdir goes before them.
sed -e "s|^prefix=|prefix=$folder/dest|" "$at" >"$folder/liblockkeeper.pc"
flags() { PKG_CONFIG_PATH=$folder pkg-config "$@" liblockkeeper; }

ok 'the header stands alone' shows 'include <std' cat "$include/lock_keeper.h"
ok 'it shows no library of ours' hides 'jansson|ev\.h|protocol/' cat "$include/lock_keeper.h"
printf '#include <lock_keeper.h>\nint main(void) { return lock_keeper_version()[0] == 0; }\n' \
    >"$folder/program.c"
ok 'it is C99' "$cc" -std=c99 -pedantic-errors -Wall -Wextra -Werror -fsyntax-only \
    "-I$include" "$folder/program.c"
if command -v c++ >/dev/null; then
    ok 'it is C++' c++ -Wall -Wextra -Werror -fsyntax-only "-I$include" -x c++ "$folder/program.c"
fi

ok 'soname' shows 'SONAME +liblockkeeper\.so\.0$' objdump -p "$lib/liblockkeeper.so"
ok 'the shared library shows the calls' shows '^lock_keeper_acquire(@|$)' symbols -D "$lib/liblockkeeper.so"
ok 'the static one shows the calls' shows '^lock_keeper_acquire$' symbols "$lib/liblockkeeper.a"

every_symbol_is_ours() { ! symbols "$@" | grep -vE '^lock_keeper_|^__odr_asan'; }
ok 'the shared library shows nothing else' every_symbol_is_ours -D "$lib/liblockkeeper.so"
ok 'nor does the static one' every_symbol_is_ours "$lib/liblockkeeper.a"

declared=$(grep -v typedef "$include/lock_keeper.h" | grep -oE '\block_keeper_[a-z_]+\(' | tr -d '(' | sort -u)
every_call_is_there() {
    symbols -D "$lib/liblockkeeper.so" | sed 's/@.*//' | sort -u >"$folder/there"
    printf '%s\n' "$declared" | comm -3 - "$folder/there" | tee "$folder/differ"
    [ ! -s "$folder/differ" ]
}
ok 'what the header declares is what is there' every_call_is_there

# shellcheck disable=SC2046 # lists of flags
ok 'a program with the shared library' "$cc" "$@" "$source/examples/c/hold.c" $(flags --cflags --libs) \
    -o "$folder/shared"
# shellcheck disable=SC2046
ok 'a program with the static one' "$cc" "$@" "$source/examples/c/hold.c" $(flags --cflags) \
    "$lib/liblockkeeper.a" -ljansson -o "$folder/static"
# shellcheck disable=SC2016 # for the inner shell
ok 'the one runs' env LD_LIBRARY_PATH="$lib" LOCK_KEEPER_SOCKET="$folder/none" sh -c \
    '"$0" key; [ $? -eq 69 ]' "$folder/shared"
# shellcheck disable=SC2016
ok 'the other runs' env LOCK_KEEPER_SOCKET="$folder/none" sh -c '"$0" key; [ $? -eq 69 ]' \
    "$folder/static"
echo "1..$count"
