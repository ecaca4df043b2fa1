//! What a failure of the driver means to the caller. Only here are its errors and the SQLSTATEs of Postgres read.

use super::pool::STATEMENT_LIMIT;
use crate::error::Error;
use crate::tls::faults::Handshake;
use sqlx::error::DatabaseError;
use std::io::ErrorKind;
use std::sync::Arc;

/// Why a connection of a pool that was closed is none.
pub(super) const CLOSED: &str = "it was closed by shutdown()";

/// Turns an error of the driver into one of this crate. What it says holds neither password nor contents of rows.
pub(super) fn translate(server: &Arc<str>, error: sqlx::Error) -> Error {
    let lost = |reason: String| Error::Connection { server: Arc::clone(server), reason };
    match error {
        sqlx::Error::Database(answer) => from_answer(server, &*answer),
        sqlx::Error::Io(cause) if cause.kind() == ErrorKind::UnexpectedEof => lost("the server closed it".into()),
        sqlx::Error::Io(cause) => lost(of_socket(&cause)),
        sqlx::Error::Tls(cause) => lost(of_tls(&*cause)),
        sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => {
            lost("the server did not keep to the protocol of Postgres".into())
        }
        sqlx::Error::PoolTimedOut => lost("none could be opened in time".into()),
        sqlx::Error::PoolClosed => lost(CLOSED.into()),
        sqlx::Error::Configuration(_) => {
            Error::InvalidConfig("DATABASE_URL names TLS files that cannot be read.".into())
        }
        sqlx::Error::ColumnDecode { index, .. } => {
            Error::Internal(format!("the column {index} of an answer of Postgres cannot be read"))
        }
        sqlx::Error::ColumnNotFound(name) => Error::Internal(format!("an answer of Postgres has no column {name}")),
        _ => Error::Internal("a statement for Postgres could not be made".into()),
    }
}

/// What TLS finds wrong comes as an error of the socket, and so do files that TLS needs and that are not there.
fn of_socket(cause: &std::io::Error) -> String {
    if let Some(fault) = cause.get_ref().and_then(|fault| fault.downcast_ref()) {
        return HANDSHAKE.reason(fault);
    }
    match cause.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            format!("its socket, or a file that sslrootcert, sslcert or sslkey names, cannot be opened ({cause})")
        }
        _ => cause.to_string(),
    }
}

fn of_tls(cause: &(dyn std::error::Error + 'static)) -> String {
    if let Some(fault) = cause.downcast_ref() {
        return HANDSHAKE.reason(fault);
    }
    match cause.to_string() {
        // The driver's words for a server that was asked for TLS and answered "no".
        no if no == "server does not support TLS" => {
            "the server offers no TLS, and sslmode asks for it; switch it on there (ssl = on), or use sslmode=disable"
                .into()
        }
        // It goes on with the certificate itself.
        invalid if invalid.starts_with("Invalid certificate") => "sslrootcert holds what is no certificate".into(),
        other => format!("TLS failed: {other}"),
    }
}

/// The names of the settings in DATABASE_URL. Postgres asks for a certificate wherever it can verify one.
const HANDSHAKE: Handshake = Handshake {
    authorities: "sslrootcert",
    own_authorities: false,
    certificate: "sslcert",
    key: "sslkey",
    asked: true,
    shown: true,
    self_signed: false,
};

/// Appendix A of the manual of Postgres lists the codes; their first two characters are the class.
fn from_answer(server: &Arc<str>, answer: &dyn DatabaseError) -> Error {
    let code = answer.code().unwrap_or_default().into_owned();
    let text = match code.get(..2) {
        // "Data exception" quotes the value, and a function's own RAISE may quote anything.
        Some("22" | "P0") | None => format!("{code} (its message may quote data and is left out)"),
        _ => format!("{code} {}", answer.message()),
    };
    match code.as_str() {
        // Too many connections.
        "53300" => Error::Connection { server: Arc::clone(server), reason: text },
        // The limit of this module passed, or somebody cancelled the statement.
        "57014" => Error::Timeout { server: Arc::clone(server), after: STATEMENT_LIMIT },
        // 08: the connection; 28: the role may not come in; 3D: no such database; 57P: the server comes or goes.
        _ if ["08", "28", "3D", "57P"].iter().any(|class| code.starts_with(class)) => {
            Error::Connection { server: Arc::clone(server), reason: text }
        }
        _ => Error::Reply { server: Arc::clone(server), text },
    }
}

/// A trigger that the findings do not know made an update fail: it sets a column that the table does not have.
pub(super) fn updates_fail(error: Error) -> Error {
    Error::SessionStore {
        reason: "A trigger of platform.user_sessions uses a column that the table does not have, so every update of a \
                 session fails. Run sql/fix_activity_trigger.sql of this package, or drop the trigger, or add the column."
            .into(),
        source: Some(error.into()),
    }
}

/// True for answers that cannot come from the database that the findings describe: a table, column or schema is
/// missing, or rows are out of bounds for this role.
pub(super) fn contradicts_findings(error: &Error) -> bool {
    matches!(error.reply_kind(), Some("42501" | "42P01" | "42703" | "3F000"))
}
