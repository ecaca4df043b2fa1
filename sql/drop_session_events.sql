-- Removes what sql/session_events.sql made. Writes by others are then no longer heard; what this package itself writes is.
-- Run it as the role that owns the tables: by uninstallTriggers(), or with psql. It may be run again.
BEGIN;

-- As in sql/session_events.sql. This lock keeps readers waiting too.
SET LOCAL lock_timeout = '500ms';

DROP TRIGGER IF EXISTS studio_session_events_delete ON platform.user_sessions;
DROP TRIGGER IF EXISTS studio_session_events_update ON platform.user_sessions;
DROP TRIGGER IF EXISTS studio_session_events_truncate ON platform.user_sessions;
DROP TRIGGER IF EXISTS studio_session_events_delete ON platform.users;
DROP TRIGGER IF EXISTS studio_session_events_update ON platform.users;
DROP TRIGGER IF EXISTS studio_session_events_truncate ON platform.users;
DROP FUNCTION IF EXISTS platform.studio_session_events();

COMMIT;
