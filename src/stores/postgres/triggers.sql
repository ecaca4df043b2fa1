-- Whether the triggers of sql/session_events.sql are there, what is wrong with them, and a mark that changes whenever
-- one of them is touched. Asked with every sign of life of a listener, so that it reads few rows of catalogues only.
SELECT
  count(t.oid) > 0 AS installed,
  coalesce(string_agg(
    e.name || ' of platform.' || e.relation || CASE
      WHEN t.oid IS NULL THEN ' is missing'
      WHEN t.tgenabled <> 'A' THEN ' is not always enabled'
      WHEN f.prosrc NOT LIKE '%-- studio\_session\_events version 1' || chr(10) || '%' THEN ' is of another version'
    END, ', ' ORDER BY e.relation, e.name
  ), '') AS faults,
  coalesce(string_agg(t.oid::text || ':' || t.xmin::text || ':' || f.xmin::text, ' ' ORDER BY t.oid), '') AS mark
FROM (
  SELECT r.relation, 'studio_session_events_' || k.kind AS name
  FROM (VALUES ('users'), ('user_sessions')) AS r (relation)
  CROSS JOIN (VALUES ('delete'), ('update'), ('truncate')) AS k (kind)
) AS e
LEFT JOIN (
  pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND n.nspname = 'platform'
  JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal
  JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
) ON c.relname = e.relation AND t.tgname = e.name
