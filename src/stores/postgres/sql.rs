//! Pieces of SQL that several statements are made of.

/// Who may be let in: the session has not expired, and its user is neither deleted nor banned.
macro_rules! valid {
    () => {
        "s.expires_at > statement_timestamp() AND u.deleted_at IS NULL \
         AND (u.banned_until IS NULL OR u.banned_until <= statement_timestamp())"
    };
}

/// A time as ISO 8601 with milliseconds. `infinity` and what lies outside four-digit years becomes their last or
/// first moment.
macro_rules! iso {
    ($time:expr) => {
        concat!(
            "to_char(greatest(least(",
            $time,
            ", '9999-12-31T23:59:59.999Z'), '0001-01-01T00:00:00Z') AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        )
    };
}

/// When a session was made. Times that the row leaves open are told by each other, or are 1970: an answer must not
/// change with every read.
macro_rules! created_at {
    () => {
        "coalesce(s.created_at, s.last_activity_at, '1970-01-01T00:00:00Z')"
    };
}

/// When a session was last active, in the same way.
macro_rules! last_activity_at {
    () => {
        "coalesce(s.last_activity_at, s.created_at, '1970-01-01T00:00:00Z')"
    };
}

/// A session, as text.
macro_rules! session {
    () => {
        concat!(
            "s.id::text AS id, s.user_id::text AS user_id, s.token::text AS token, ",
            iso!("s.expires_at"),
            " AS expires_at, ",
            iso!(last_activity_at!()),
            " AS last_activity_at, ",
            iso!(created_at!()),
            " AS created_at, abbrev(s.ip_address) AS ip_address, s.user_agent::text AS user_agent"
        )
    };
}

/// The valid sessions for which the condition holds, with their users.
macro_rules! find {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            session!(),
            ", u.email::text AS email, u.first_name::text AS first_name, u.last_name::text AS last_name, \
             u.username::text AS username, (extract(epoch FROM least(s.expires_at, '9999-12-31T23:59:59.999Z') \
             - statement_timestamp()) * 1000000)::int8 AS remaining \
             FROM platform.user_sessions s JOIN platform.users u ON u.id = s.user_id WHERE ",
            $condition,
            " AND ",
            valid!()
        )
    };
}

/// Tells every listening process to forget the tokens of some rows, up to 100 at once, and answers with them.
///
/// What is stored and is no SHA-256 might be a token itself: it is not told to anybody, and no process can have a copy
/// under it. The order is that of `sql/session_events.sql`, so that Postgres drops what the triggers say again.
macro_rules! tell {
    ($rows:literal) => {
        concat!(
            "told AS MATERIALIZED (SELECT pg_notify('studio_sessions', string_agg(t.token, ' ' ORDER BY t.token))::text \
             AS told FROM (SELECT r.token, (row_number() OVER (ORDER BY r.token) - 1) / 100 AS part FROM \
             (SELECT token::text COLLATE \"C\" AS token FROM ",
            $rows,
            ") AS r WHERE r.token ~ '^[0-9a-f]{64}$') AS t GROUP BY t.part) \
             SELECT r.token::text AS token, (SELECT count(told) FROM told) AS told FROM ",
            $rows,
            " AS r"
        )
    };
}

/// Deletes the sessions of which a SELECT with this end gives the ids, and tells of them. The SELECT locks them.
macro_rules! delete_those {
    ($($end:expr),+) => {
        concat!(
            "WITH due AS MATERIALIZED (SELECT s.id FROM platform.user_sessions s WHERE ",
            $($end,)+
            "), gone AS (DELETE FROM platform.user_sessions s USING due WHERE s.id = due.id RETURNING s.token), ",
            tell!("gone")
        )
    };
}
