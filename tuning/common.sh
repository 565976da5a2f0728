# shellcheck shell=bash
# What the tuning scripts share. Sourced, from the root of the repository, beside private servers:
# each script says how it is run in its first lines.

readonly BINARY=target/release/usage-processor
[ -x "$BINARY" ] || { echo "build it first: make build" >&2; exit 1; }

machine() {
    echo "$(date -u +%F), $(nproc) cores ($(sed -n 's/model name[^:]*: //p' /proc/cpuinfo | head -n 1))," \
        "$(psql "$DATABASE_URL" -Atc "SELECT 'PostgreSQL ' || current_setting('server_version')")," \
        "$("$BINARY" --version)"
}
