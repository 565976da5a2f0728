# shellcheck shell=bash
# Events as SQL can make them, for scripts that measure the database alone. Sourced.

# ratio HEAP INDEXES PACKED
ratio() { awk -v heap="$1" -v indexes="$2" -v packed="$3" 'BEGIN { printf "%.1f", (heap + indexes) / packed }'; }

# make_synthetic_events ROWS BATCH DAYS: the table `arrivals`, events of the days from 2026-03-02 on, in batches as they come in: 200
# organizations, the k-th 1/k times as busy as the first, with 3 keys each; 32 endpoints; uneven status codes and times.
make_synthetic_events() {
    psql "$DATABASE_URL" -XAtq -v ON_ERROR_STOP=1 -v rows="$1" -v batch="$2" -v days="$3" <<-'SQL'
		CREATE FUNCTION zipf(n integer) RETURNS float8[] LANGUAGE sql IMMUTABLE AS $$
		    SELECT array_agg(part / total ORDER BY i) FILTER (WHERE i < n)
		      FROM (SELECT i, sum(1.0 / i) OVER (ORDER BY i) AS part, sum(1.0 / i) OVER () AS total FROM generate_series(1, n) AS i) AS sums
		$$;
		CREATE TABLE arrivals AS
		WITH shares AS MATERIALIZED (
		    SELECT zipf(200) AS organizations, zipf(3) AS keys, zipf(32) AS endpoints
		), drawn AS MATERIALIZED (
		    SELECT i, timestamptz '2026-03-02 00:00:01+00' + i * ((:days * INTERVAL '1 day' - INTERVAL '2 s') / :rows) AS at, random() AS a, random() AS b,
		           random() AS c, random() AS d, random() AS e, random() AS f, random() AS g, random() AS h
		      FROM generate_series(0, :rows - 1) AS i
		), picked AS (
		    SELECT *, width_bucket(a, organizations) AS organization, width_bucket(b, keys) AS key, width_bucket(c, endpoints) AS route
		      FROM drawn, shares
		), dressed AS (
		    SELECT i / :batch AS batch, at, -- Two in five clocks write milliseconds.
		           CASE WHEN d < 0.6 THEN at ELSE date_trunc('milliseconds', at) END - e * e * INTERVAL '200 ms' AS time,
		           gen_random_uuid()::text AS request_id, md5('organization ' || organization)::uuid AS organization_id,
		           md5('key ' || organization || ' ' || key)::uuid AS api_key_id,
		           '/v1/' || (ARRAY['orders', 'orders/{id}', 'customers/{id}', 'search', 'products', 'products/{id}', 'payments',
		               'payments/{id}', 'inventory', 'inventory/{sku}', 'completions', 'embeddings', 'invoices', 'invoices/{id}',
		               'invoices/{id}/lines', 'webhooks', 'webhooks/{id}', 'users/{id}', 'users', 'shipments/{id}/events', 'refunds',
		               'reports/daily', 'files/{id}', 'files/{id}/content', 'categories/{id}'])[1 + route % 25] AS endpoint,
		           (ARRAY['GET', 'GET', 'POST', 'GET', 'POST', 'GET', 'PATCH', 'PUT', 'DELETE'])[1 + route % 9] AS method,
		           (ARRAY[200, 201, 204, 304, 400, 401, 404, 429, 500, 502, 503])[1 + width_bucket(f,
		               ARRAY[0.82, 0.89, 0.91, 0.92, 0.935, 0.95, 0.97, 0.983, 0.99, 0.995]::float8[])] AS status_code,
		           least(45 * exp(0.9 * sqrt(-2 * ln(1 - g)) * cos(2 * pi() * h)), 60000)::integer AS response_time_ms,
		           f < 0.983 AND e < 0.865 AS billable,
		           CASE WHEN d < 0.95 THEN 1 WHEN d < 0.953 THEN 0 ELSE (ARRAY[2, 3, 5, 10, 25])[1 + width_bucket(e, ARRAY[0.2, 0.4, 0.6, 0.8]::float8[])] END AS weight
		      FROM picked
		)
		SELECT *, max(at) OVER (PARTITION BY batch) + INTERVAL '20 ms' AS written_at FROM dressed;
		CREATE INDEX ON arrivals (batch);
		ANALYZE arrivals;
	SQL
}

# copy_as_writers FILES TABLE COLUMNS ROWS BATCH: copies the files FILES-0, FILES-1 ... of the server's, BATCH rows in each, over
# three connections, a transaction each. Prints rows/s, and the sessions' CPU time in µs a row.
copy_as_writers() {
    local connections=3 first batch started_at cpu_ns
    started_at="$(date +%s%N)"
    cpu_ns="$(for ((first = 0; first < connections; first++)); do
        {
            for ((batch = first; batch * $5 < $4; batch += connections)); do echo "COPY $2 ($3) FROM '$1-$batch' (FORMAT binary);"; done
            echo "SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1);"
        } | PGOPTIONS='-c client_min_messages=error' psql "$DATABASE_URL" -XAtq -v ON_ERROR_STOP=1 &
    done; wait)"
    awk -v n="$4" -v ns="$(($(date +%s%N) - started_at))" '{ cpu += $1 } END { printf "%d %.1f\n", n / ns * 1e9, cpu / n / 1e3 }' <<<"$cpu_ns"
}
