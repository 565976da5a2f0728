# shellcheck shell=bash
# What the scripts beside this file share: speaking, finding programs, ports and processes.
# It is sourced, never run. Everything a person should read goes to standard error, because
# standard output belongs to the command that `with` runs.

# The exit code for "Kafka is not to be had here" (EX_UNAVAILABLE of sysexits.h).
# shellcheck disable=SC2034 # Used by those who source this.
readonly UNAVAILABLE=69
# Kafka 4 runs on Java 17 and newer.
readonly JAVA_MAJOR_MIN=17

say() { printf 'servers: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# show_log FILE: the end of a server's log, for a person who wants to know why it did not start.
show_log() {
    [ -s "$1" ] || return 0
    say "the last lines of $1:"
    tail -n 40 "$1" | sed 's/^/    /' >&2
}

# free_port: prints a port of 127.0.0.1 that nobody listens on. Below the range that the kernel
# hands out to clients, so that a server which is down for a moment gets its port back.
# Two runs may still draw the same number: whoever starts a server must be ready to draw again.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        if ! answers "$port"; then
            echo "$port"
            return
        fi
    done
    fail "no free port between 20000 and 32000"
}

# answers PORT: whether somebody accepts connections there.
answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# runs PID_FILE: whether the process in it is alive. In a container whose first process reaps
# nobody, the dead stay as zombies; they count as dead.
runs() { [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$(<"$1")/status"; }

# until_within SECONDS COMMAND...: tries the command ten times a second until it succeeds.
until_within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# has_timescaledb PG_BIN: whether that server can load the extension.
has_timescaledb() {
    local config="$1/pg_config"
    [ -x "$config" ] && [ -f "$("$config" --sharedir)/extension/timescaledb.control" ] &&
        [ -f "$("$config" --pkglibdir)/timescaledb.so" ]
}

# find_pg_bin: prints the directory of PostgreSQL's server programs: TEST_PG_BIN if set; else the
# newest version that has TimescaleDB, else the newest, of where Debian and others put them.
find_pg_bin() {
    if [ -n "${TEST_PG_BIN:-}" ]; then
        echo "$TEST_PG_BIN"
        return
    fi
    local bin newest=""
    while IFS= read -r bin; do
        [ -x "$bin/postgres" ] || continue
        newest="${newest:-$bin}"
        if has_timescaledb "$bin"; then
            echo "$bin"
            return
        fi
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV)
    if [ -z "$newest" ] && command -v initdb >/dev/null; then
        newest="$(dirname "$(command -v initdb)")"
    fi
    [ -n "$newest" ] && echo "$newest"
}

# java_major JAVA: prints the major version of that program, such as 17; nothing if it has none.
java_major() { "$1" -version 2>&1 | sed -n 's/.* version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1; }

# find_java: prints a Java that Kafka can run on, be it the machine's default or not.
find_java() {
    local java
    for java in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java)" /usr/lib/jvm/*/bin/java; do
        [ -x "$java" ] || continue
        if [ "$(java_major "$java" || true)" -ge "$JAVA_MAJOR_MIN" ] 2>/dev/null; then
            echo "$java"
            return
        fi
    done
    return 1
}
