-- Lets every process of @studio/redis-native hear of writes to Studio's tables, whoever makes them.
--
-- Run it as the role that owns platform.users and platform.user_sessions, with CREATE on the schema platform: by
-- installTriggers(), or with psql. It needs Postgres 14 or later, may be run again, and replaces an older version.
-- sql/drop_session_events.sql removes what it makes.
--
-- What is announced, on the channel studio_sessions and when the transaction commits:
-- - sessions that were deleted, or whose token (the old one and the new one), user, end or id changed;
-- - the sessions of users whose email, names, username, ban or deletion changed;
-- - after TRUNCATE, for more than 10,000 sessions at once, or when it is not certain which ones are meant: all of them.
-- Activity, times of sign-in and all other columns are not announced. A payload is up to 100 tokens (their SHA-256, as
-- stored) with a space between, or * for all sessions.
--
-- What it costs: one trigger a statement, not one a row. A change of a user holds off new and rotated sessions of this
-- user until its transaction ends. Transactions that announce something cannot be prepared for a two-phase commit.
-- Statements that logical replication applies to these tables fire no triggers of this kind.
BEGIN;

-- Whoever waits for a lock on a table keeps all later writers waiting: better to fail soon, and to be repeated. This is
-- also less than deadlock_timeout, so that no deadlock ends another's transaction for ours.
SET LOCAL lock_timeout = '500ms';
LOCK TABLE platform.user_sessions, platform.users IN SHARE ROW EXCLUSIVE MODE;

-- It has the rights of its owner, because who writes to the tables need not be able to read sessions. Where the owner
-- cannot see all sessions, row_security = off makes reading them fail instead of leaving some out.
CREATE OR REPLACE FUNCTION platform.studio_session_events() RETURNS trigger
  LANGUAGE plpgsql
  SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET row_security = off
AS $$
-- studio_session_events version 1
DECLARE
  touched uuid[];
  tokens text[];
  locked bigint;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    PERFORM pg_notify('studio_sessions', '*');
    RETURN NULL;
  END IF;

  IF TG_TABLE_NAME = 'user_sessions' AND TG_OP = 'DELETE' THEN
    tokens := ARRAY(SELECT o.token FROM old_rows o LIMIT 10001);
  ELSIF TG_TABLE_NAME = 'user_sessions' THEN
    tokens := ARRAY(
      SELECT DISTINCT t.token
      FROM old_rows o
      FULL JOIN new_rows n ON n.id = o.id
      CROSS JOIN LATERAL (VALUES (o.token), (n.token)) AS t (token)
      WHERE (o.token, o.user_id, o.expires_at) IS DISTINCT FROM (n.token, n.user_id, n.expires_at)
      LIMIT 10001
    );
  ELSIF TG_OP = 'DELETE' THEN
    -- Deleting a user deletes the sessions, which announces them. What is left here is left by a role that does not
    -- keep to foreign keys (session_replication_role).
    tokens := ARRAY(
      SELECT s.token FROM platform.user_sessions s WHERE s.user_id IN (SELECT o.id FROM old_rows o) LIMIT 10001
    );
  ELSE
    touched := ARRAY(
      SELECT o.id
      FROM old_rows o
      LEFT JOIN new_rows n ON n.id = o.id
      WHERE (o.email, o.first_name, o.last_name, o.username, o.banned_until, o.deleted_at)
        IS DISTINCT FROM (n.email, n.first_name, n.last_name, n.username, n.banned_until, n.deleted_at)
      LIMIT 10001
    );
    IF cardinality(touched) = 0 THEN
      RETURN NULL;
    END IF;
    -- A session that begins, or gets a new token, in another transaction could be read with the old user after this
    -- moment and before our commit. So these rows are held until then; nobody is waited for. Where another transaction
    -- was first, or sessions that are newer than our transaction cannot be seen, it is not certain which are meant.
    IF cardinality(touched) > 10000 OR current_setting('transaction_isolation') <> 'read committed' THEN
      RAISE EXCEPTION 'all sessions';
    END IF;
    PERFORM 1 FROM platform.users u WHERE u.id = ANY (touched) FOR UPDATE SKIP LOCKED;
    GET DIAGNOSTICS locked = ROW_COUNT;
    IF locked <> cardinality(touched) THEN
      RAISE EXCEPTION 'all sessions';
    END IF;
    tokens := ARRAY(
      SELECT s.token FROM platform.user_sessions s WHERE s.user_id = ANY (touched) LIMIT 10001 FOR KEY SHARE SKIP LOCKED
    );
    IF cardinality(tokens) <> (SELECT count(*) FROM platform.user_sessions s WHERE s.user_id = ANY (touched)) THEN
      RAISE EXCEPTION 'all sessions';
    END IF;
  END IF;

  IF cardinality(tokens) > 10000 THEN
    RAISE EXCEPTION 'all sessions';
  END IF;
  -- What is stored and is no SHA-256 might be a token itself: it is told to nobody, and nobody has a copy under it.
  PERFORM pg_notify('studio_sessions', string_agg(t.token, ' ' ORDER BY t.token))
  FROM (
    SELECT r.token, (row_number() OVER (ORDER BY r.token) - 1) / 100 AS part
    FROM (SELECT u.token COLLATE "C" FROM unnest(tokens) AS u (token)) AS r (token)
    WHERE r.token ~ '^[0-9a-f]{64}$'
  ) AS t
  GROUP BY t.part;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  -- Also what goes wrong here, such as a column that is gone, must not make the application's statement fail.
  PERFORM pg_notify('studio_sessions', '*');
  RETURN NULL;
END
$$;

-- Who could put it on a table of their own would make it announce sessions of their choice.
REVOKE ALL ON FUNCTION platform.studio_session_events() FROM PUBLIC;

CREATE OR REPLACE TRIGGER studio_session_events_delete AFTER DELETE ON platform.user_sessions
  REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();
CREATE OR REPLACE TRIGGER studio_session_events_update AFTER UPDATE ON platform.user_sessions
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();
CREATE OR REPLACE TRIGGER studio_session_events_truncate AFTER TRUNCATE ON platform.user_sessions
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();

CREATE OR REPLACE TRIGGER studio_session_events_delete AFTER DELETE ON platform.users
  REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();
CREATE OR REPLACE TRIGGER studio_session_events_update AFTER UPDATE ON platform.users
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();
CREATE OR REPLACE TRIGGER studio_session_events_truncate AFTER TRUNCATE ON platform.users
  FOR EACH STATEMENT EXECUTE FUNCTION platform.studio_session_events();

-- ALWAYS: a session with session_replication_role = replica writes like any other.
ALTER TABLE platform.user_sessions
  ENABLE ALWAYS TRIGGER studio_session_events_delete,
  ENABLE ALWAYS TRIGGER studio_session_events_update,
  ENABLE ALWAYS TRIGGER studio_session_events_truncate;
ALTER TABLE platform.users
  ENABLE ALWAYS TRIGGER studio_session_events_delete,
  ENABLE ALWAYS TRIGGER studio_session_events_update,
  ENABLE ALWAYS TRIGGER studio_session_events_truncate;

COMMIT;
