#!/usr/bin/env bash
# PostgreSQL on this machine as a peer of `make bench`: a primary and two standbys on loopback, fsync on, synchronous
# replication to any one of them. Prints lines in the form of rdb-bench. Argument: seconds per measurement.
#
# pgbench sends prepared statements; rows are those of our own scenarios. Percentiles come from its log of transactions.
set -euo pipefail

seconds=${1:-5}
skip() { echo "postgres: $1" >&2; exit 75; }

bin=
for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) /usr/local/pgsql/bin; do
    [ -x "$folder/initdb" ] && bin=$folder && break
done
[ -n "$bin" ] || skip "the server is not installed"
pgbench=$(command -v pgbench || echo "$bin/pgbench")
[ -x "$pgbench" ] || skip "pgbench is not installed"

# The server refuses to run as root.
as=()
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || skip "run by root, and there is no user postgres"
    as=(runuser -u postgres --)
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/rdb-peer-XXXXXX")
chmod 755 "$folder"
[ ${#as[@]} -eq 0 ] || chown postgres "$folder"
run() { (cd "$folder" && "${as[@]}" "$@"); }
stop() {
    for node in standby2 standby1 primary; do
        [ ! -d "$folder/$node" ] || run "$bin/pg_ctl" -D "$folder/$node" -m immediate -w stop >/dev/null 2>&1 || true
    done
    rm -rf "$folder"
}
trap stop EXIT

port=$((20000 + $$ % 5000 * 3))
start() { # name port
    run "$bin/pg_ctl" -D "$folder/$1" -w -t 60 -l "$folder/$1.log" \
        -o "-p $2 -k $folder -c listen_addresses=127.0.0.1" start >/dev/null || { tail -n 20 "$folder/$1.log" >&2; exit 1; }
}
sql() { run "$bin/psql" -h 127.0.0.1 -p "$port" -U postgres -d postgres -qAtX -c "$1"; }

run "$bin/initdb" -D "$folder/primary" -U postgres -A trust >/dev/null
run tee -a "$folder/primary/postgresql.conf" >/dev/null <<CONF
fsync = on
synchronous_commit = on
wal_level = replica
max_connections = 300
max_wal_senders = 10
shared_buffers = 256MB
max_wal_size = 4GB
CONF
start primary "$port"
for number in 1 2; do
    run "$bin/pg_basebackup" -h 127.0.0.1 -p "$port" -U postgres -D "$folder/standby$number" -R -c fast
    echo "primary_conninfo = 'host=127.0.0.1 port=$port user=postgres application_name=standby$number'" |
        run tee -a "$folder/standby$number/postgresql.auto.conf" >/dev/null
    start "standby$number" $((port + number))
done
sql "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby1, standby2)'"
sql "SELECT pg_reload_conf()" >/dev/null
for _ in $(seq 100); do
    [ "$(sql "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'")" = 2 ] && break
    sleep 0.1
done
[ "$(sql "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'")" = 2 ] || { echo "postgres: the standbys did not connect" >&2; exit 1; }

sql "CREATE TABLE rows (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, client INT, value TEXT)"
sql "CREATE TABLE points (id BIGINT PRIMARY KEY, value TEXT)"
sql "INSERT INTO points SELECT n, repeat('v', 100) FROM generate_series(1, 100000) n"
sql "VACUUM ANALYZE points"

payload=$(printf 'v%.0s' $(seq 100))
rows=$(for _ in $(seq 100); do printf "(:client_id, '%s')," "$payload"; done)
echo "INSERT INTO rows (client, value) VALUES (:client_id, '$payload');" > "$folder/insert.sql"
echo "INSERT INTO rows (client, value) VALUES ${rows%,};" > "$folder/transaction.sql"
printf '\\set id random(1, 100000)\nSELECT value FROM points WHERE id = :id;\n' > "$folder/read.sql"

measure() { # scenario script clients port
    rm -f "$folder"/log.*
    local out
    out=$(run "$pgbench" -h 127.0.0.1 -p "$4" -U postgres -n -M prepared -f "$folder/$2" -c "$3" -j 1 -T "$seconds" \
        -l --log-prefix="$folder/log" --sampling-rate=0.2 postgres 2>&1) || { echo "$out" >&2; exit 1; }
    local rate mean
    rate=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$out" | head -n 1)
    mean=$(sed -n 's/^latency average = \([0-9.]*\) ms.*/\1/p' <<<"$out" | awk '{printf "%d", $1 * 1000}')
    sort -n -k 3,3 "$folder"/log.* | awk -v name="$1" -v clients="$3" -v rate="$rate" -v mean="$mean" '
        { us[NR] = $3 }
        END { printf "bench: %s clients=%d rate=%.0f p50_us=%d p99_us=%d mean_us=%d\n",
              name, clients, rate, us[int((NR + 1) / 2)], us[int(NR * 0.99 + 0.5)], mean }'
}

for clients in 1 16 64 256; do measure postgres-insert insert.sql "$clients" "$port"; done
measure postgres-transaction-100-rows transaction.sql 16 "$port"
measure postgres-read-primary read.sql 64 "$port"
measure postgres-read-standby read.sql 64 $((port + 1))
