-- Parameter: MAX_CLOCK_SKEW in seconds.
SELECT true, format('%s events lie in the future, up to %s', count(*), max(time))
  FROM usage_events
 WHERE time > now() + make_interval(secs => $1)
HAVING count(*) > 0
