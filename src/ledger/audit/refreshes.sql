SELECT aggregate.view_name::text, stats.last_successful_finish::text
  FROM timescaledb_information.continuous_aggregates AS aggregate
  LEFT JOIN timescaledb_information.jobs AS job
    ON job.proc_name = 'policy_refresh_continuous_aggregate'
   AND job.hypertable_name IN (aggregate.view_name, aggregate.materialization_hypertable_name)
  LEFT JOIN timescaledb_information.job_stats AS stats ON stats.job_id = job.job_id AND isfinite(stats.last_successful_finish)
 WHERE aggregate.view_schema = current_schema()
 ORDER BY 1
