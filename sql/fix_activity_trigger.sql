-- Drops the triggers that make every update of a session fail: they set a column, such as updated_at, that
-- platform.user_sessions does not have. Until then no activity is written, and no session can be rotated.
--
-- Run it with psql, as the role that owns platform.user_sessions. It may be run again. The functions of the triggers
-- stay, because other tables use them; so does every trigger that sets only columns which are there.
BEGIN;

-- Whoever waits for a lock on a table keeps all others waiting: better to fail soon, and to be repeated.
SET LOCAL lock_timeout = '500ms';

DO $$
DECLARE
  broken record;
BEGIN
  -- Row triggers (bit 1) before (2) an update (16), not disabled. A function that looks at its table or catches errors
  -- may know what it does: it is left alone.
  FOR broken IN
    SELECT t.tgname AS name, min(lower(assigned.match[1])) AS attribute
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
    CROSS JOIN LATERAL regexp_replace(f.prosrc, '--[^\n]*', '', 'g') AS source (code)
    CROSS JOIN LATERAL regexp_matches(source.code, '\mnew\s*\.\s*"?(\w+)"?\s*:?=', 'gi') AS assigned (match)
    WHERE n.nspname = 'platform' AND c.relname = 'user_sessions'
      AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 19 = 19
      AND source.code !~* '\m(tg_table_name|tg_relname|tg_relid|exception\s+when)\M'
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND lower(a.attname) = lower(assigned.match[1]) AND a.attnum > 0 AND NOT a.attisdropped
      )
    GROUP BY t.tgname
  LOOP
    EXECUTE format('DROP TRIGGER %I ON platform.user_sessions', broken.name);
    RAISE NOTICE 'The trigger % is gone: it set the column %, which does not exist.', broken.name, broken.attribute;
  END LOOP;
END
$$;

COMMIT;
