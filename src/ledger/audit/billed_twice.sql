-- A request is one row. A retry with another time that came after the window is found here.
SELECT true, format('organization %s, request %s: %s rows from %s to %s',
                    organization_id, to_json(request_id), count(*), min(time), max(time))
  FROM usage_events
 GROUP BY organization_id, request_id
HAVING count(*) > 1
