-- The same rows, counted by span and by day.
SELECT true, format('%s rows written by span, %s by day', spans.written, days.written)
  FROM (SELECT coalesce(sum(written), 0) AS written FROM usage_ledger) AS spans,
       (SELECT coalesce(sum(written), 0) AS written FROM usage_ledger_days WHERE source = 'kafka') AS days
 WHERE spans.written <> days.written
