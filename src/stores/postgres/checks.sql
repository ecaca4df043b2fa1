-- What this role can see of Studio's tables. Reads only catalogues that every role may read: names are looked up by
-- joins, because ::regclass fails where the role may not use the schema.
WITH expected (relation, attribute) AS (
  VALUES
    ('user_sessions', 'id'), ('user_sessions', 'user_id'), ('user_sessions', 'token'), ('user_sessions', 'expires_at'),
    ('user_sessions', 'last_activity_at'), ('user_sessions', 'created_at'), ('user_sessions', 'ip_address'),
    ('user_sessions', 'user_agent'),
    ('users', 'id'), ('users', 'email'), ('users', 'first_name'), ('users', 'last_name'), ('users', 'username'),
    ('users', 'banned_until'), ('users', 'deleted_at')
),
-- What is done to the rows of each table, in the letters of pg_policy: read, write (update), delete.
needed (relation, command) AS (
  VALUES ('users', 'r'), ('user_sessions', 'r'), ('user_sessions', 'w'), ('user_sessions', 'd')
),
present AS (
  SELECT c.oid, c.relname::text AS relation, row_security_active(c.oid) AS policies_apply
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'platform' AND c.relname IN ('users', 'user_sessions') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
),
missing AS (
  SELECT DISTINCT
    'platform.' || e.relation || CASE WHEN p.oid IS NULL THEN '' ELSE '.' || e.attribute END AS name
  FROM expected e
  LEFT JOIN present p USING (relation)
  WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = p.oid AND a.attname = e.attribute AND a.attnum > 0 AND NOT a.attisdropped
  )
),
policy AS (
  SELECT
    y.polrelid, y.polcmd::text AS command, y.polpermissive AS permissive,
    -- Without USING a permissive policy shows nothing, and a restrictive one takes nothing away.
    coalesce(pg_get_expr(y.polqual, y.polrelid) = 'true', NOT y.polpermissive) AS shows_all
  FROM pg_catalog.pg_policy y
  WHERE EXISTS (
    SELECT FROM unnest(y.polroles) AS role (id)
    WHERE CASE role.id WHEN 0 THEN true ELSE pg_has_role(role.id, 'USAGE') END
  )
),
-- Rows are all there for a command if one permissive policy shows all of them and no restrictive one takes any away.
hidden AS (
  SELECT n.relation, n.command
  FROM needed n
  JOIN present p USING (relation)
  WHERE p.policies_apply AND (
    NOT EXISTS (
      SELECT FROM policy y
      WHERE y.polrelid = p.oid AND y.command IN ('*', n.command) AND y.permissive AND y.shows_all
    )
    OR EXISTS (
      SELECT FROM policy y
      WHERE y.polrelid = p.oid AND y.command IN ('*', n.command) AND NOT y.permissive AND NOT y.shows_all
    )
  )
),
-- Row triggers (bit 1) before (2) an update (16), not disabled, whose function sets a column that the table has not.
-- A function that looks at its table or catches errors may know what it does. sql/fix_activity_trigger.sql looks alike.
broken AS (
  SELECT t.tgname::text AS trigger, lower(assigned.match[1]) AS attribute
  FROM present p
  JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.oid
  JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
  CROSS JOIN LATERAL regexp_replace(f.prosrc, '--[^\n]*', '', 'g') AS source (code)
  CROSS JOIN LATERAL regexp_matches(source.code, '\mnew\s*\.\s*"?(\w+)"?\s*:?=', 'gi') AS assigned (match)
  WHERE p.relation = 'user_sessions' AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    AND t.tgtype & 19 = 19
    AND source.code !~* '\m(tg_table_name|tg_relname|tg_relid|exception\s+when)\M'
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = p.oid AND lower(a.attname) = lower(assigned.match[1]) AND a.attnum > 0 AND NOT a.attisdropped
    )
  ORDER BY 1, 2
  LIMIT 1
)
SELECT
  current_user::text AS role,
  (SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') FROM missing) AS missing,
  (SELECT coalesce(string_agg('platform.' || relation, ', ' ORDER BY relation), '') FROM hidden WHERE command = 'r')
    AS hidden,
  EXISTS (SELECT FROM hidden WHERE command <> 'r') AS hidden_from_writes,
  coalesce((SELECT bool_or(policies_apply) FROM present), false) AS policies_apply,
  (SELECT trigger FROM broken) AS broken_trigger,
  (SELECT attribute FROM broken) AS broken_column
