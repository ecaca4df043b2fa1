//! What can be wrong with an encrypted connection, as sentences with the cure.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::sync::Arc;

/// Names of a certificate that a message shows at most, and characters of each.
const NAMES: usize = 5;
const LONGEST_NAME: usize = 100;

const NEEDS_NEWER: &str = "the server speaks no TLS newer than 1.1; 1.2 or 1.3 is needed";

/// What is known of a handshake that failed, and what its settings are called.
pub struct Handshake {
    /// Where authorities are named, and whether any are: then those of the system do not count.
    pub authorities: &'static str,
    pub own_authorities: bool,
    /// Where our certificate is named, and its key.
    pub certificate: &'static str,
    pub key: &'static str,
    /// The server has asked for it.
    pub asked: bool,
    /// There is one.
    pub shown: bool,
    /// The server's certificate is its own authority.
    pub self_signed: bool,
}

impl Handshake {
    /// Why it failed.
    pub fn reason(&self, error: &Error) -> String {
        match error {
            Error::InvalidCertificate(fault) => self.certificate(fault),
            Error::AlertReceived(alert) => self.alert(*alert),
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => NEEDS_NEWER.to_owned(),
            Error::InvalidMessage(_) => "it sent what is not TLS".to_owned(),
            Error::NoCertificatesPresented => "the server shows no certificate".to_owned(),
            error => format!("TLS failed: {error}"),
        }
    }

    /// Why it ended before anything was said, if that can be known: a server need not say that it misses a certificate, and
    /// where it does, its word is often lost with the connection.
    pub fn silent_end(&self) -> Option<String> {
        let Self { certificate, key, .. } = self;
        match (self.asked, self.shown) {
            (false, _) => None,
            (true, false) => Some(format!(
                "the server asked for a client certificate and then closed it; set {certificate} and {key}"
            )),
            (true, true) => Some(format!(
                "the server closed it after it was shown the client certificate ({certificate}), which it does not seem to accept"
            )),
        }
    }

    fn certificate(&self, fault: &CertificateError) -> String {
        match fault {
            CertificateError::Expired => "the server's certificate has expired".to_owned(),
            CertificateError::ExpiredContext { time, not_after } => {
                let ago = span(time.as_secs().saturating_sub(not_after.as_secs()));
                format!("the server's certificate expired {ago} ago; renew it there")
            }
            CertificateError::NotValidYet => "the server's certificate is not valid yet; look at the clocks".to_owned(),
            CertificateError::NotValidYetContext { time, not_before } => {
                let ahead = span(not_before.as_secs().saturating_sub(time.as_secs()));
                format!("the server's certificate is not valid yet, but in {ahead}; look at the clocks of both")
            }
            CertificateError::NotValidForName => "the server's certificate is not for this host".to_owned(),
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "the server's certificate is for {} and not for {}; use a name that it has, or give it this one",
                names(presented),
                expected.to_str(),
            ),
            CertificateError::UnknownIssuer => self.unknown_issuer(),
            CertificateError::Other(other) if is_authority(&other.0) => {
                "the server's certificate is one of an authority (CA:TRUE), which cannot be a server's as well; have one signed \
                 by it"
                    .to_owned()
            }
            CertificateError::BadSignature => {
                "the server's certificate was not signed by the authority that it names".to_owned()
            }
            CertificateError::Revoked => "the server's certificate was revoked".to_owned(),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the server's certificate is not one for servers (its extended key usage lacks serverAuth)".to_owned()
            }
            CertificateError::BadEncoding => "the server's certificate cannot be read".to_owned(),
            fault => format!("the server's certificate cannot be used: {fault}"),
        }
    }

    fn unknown_issuer(&self) -> String {
        let Self { authorities, own_authorities, self_signed, .. } = self;
        if *self_signed {
            let but =
                if *own_authorities { format!("not in {authorities}") } else { format!("{authorities} is not set") };
            return format!(
                "the server's certificate is self-signed and {but}; put it there, or have it signed by an authority that is there"
            );
        }
        let unknown =
            if *own_authorities { format!("is not in {authorities}") } else { "this system does not know".to_owned() };
        format!(
            "the server's certificate is from an authority that {unknown}; set {authorities} to that authority's certificate"
        )
    }

    fn alert(&self, alert: AlertDescription) -> String {
        let Self { certificate, key, asked, shown, .. } = self;
        let doubted = *asked && is_about_certificates(alert);
        match alert {
            AlertDescription::ProtocolVersion => NEEDS_NEWER.to_owned(),
            AlertDescription::UnrecognisedName => {
                "the server has no certificate for the name that it was asked by".to_owned()
            }
            AlertDescription::UnknownCA if doubted && *shown => {
                format!("the server does not know the authority of the client certificate ({certificate})")
            }
            AlertDescription::CertificateExpired if doubted && *shown => {
                format!("the server says that the client certificate ({certificate}) has expired")
            }
            alert if doubted && *shown => {
                format!("the server does not accept the client certificate ({certificate}): {alert:?}")
            }
            alert if doubted || alert == AlertDescription::CertificateRequired => {
                format!("the server wants a client certificate; set {certificate} and {key}")
            }
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                "the server has no cipher or key in common with TLS 1.2 and 1.3 as they are used here".to_owned()
            }
            alert => format!("the server ended it with the TLS alert {alert:?}"),
        }
    }
}

fn is_authority(error: &Arc<dyn std::error::Error + Send + Sync>) -> bool {
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What servers say when they miss a certificate or do not like it. Those of TLS 1.2 know no better word than the first.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

/// The names of a certificate, which come as `DnsName("a")` and `IpAddress(192.0.2.1)`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no host at all (it has no subjectAltName)".to_owned();
    }
    let bare = |name: &String| {
        let name = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')')).trim_matches('"');
        name.chars().take(LONGEST_NAME).collect::<String>()
    };
    let mut shown: Vec<_> = presented.iter().take(NAMES).map(bare).collect();
    if let Some(others @ 1..) = presented.len().checked_sub(NAMES) {
        shown.push(format!("{others} more"));
    }
    shown.join(", ")
}

/// Seconds as people say them.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    const PLAIN: Handshake = Handshake {
        authorities: "CA",
        own_authorities: false,
        certificate: "CERT",
        key: "KEY",
        asked: false,
        shown: false,
        self_signed: false,
    };

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        for (seconds, said) in [(1, "1 s"), (119, "119 s"), (120, "2 minutes"), (7300, "2 hours"), (200_000, "2 days")]
        {
            let expired = CertificateError::ExpiredContext { time: at(1_000_000 + seconds), not_after: at(1_000_000) };
            let reason = PLAIN.reason(&expired.into());
            assert!(reason.contains(&format!("expired {said} ago")), "{reason}");
            let early =
                CertificateError::NotValidYetContext { time: at(1_000_000), not_before: at(1_000_000 + seconds) };
            let reason = PLAIN.reason(&early.into());
            assert!(reason.contains(&format!("but in {said};")), "{reason}");
        }
    }

    #[test]
    fn names_of_a_certificate_are_shown_as_they_are_and_not_without_end() {
        let reason = |presented: &[String]| {
            let expected = ServerName::try_from("redis.test").unwrap();
            PLAIN.reason(&CertificateError::NotValidForNameContext { expected, presented: presented.to_vec() }.into())
        };
        let named = reason(&["DnsName(\"a.test\")".to_owned(), "IpAddress(192.0.2.1)".to_owned()]);
        assert!(named.contains("is for a.test, 192.0.2.1 and not for redis.test"), "{named}");
        assert!(reason(&[]).contains("no host at all"));
        let many: Vec<_> = (0..1000).map(|index| format!("DnsName(\"{index}{}\")", "x".repeat(5000))).collect();
        let bounded = reason(&many);
        assert!(bounded.len() < 1000 && bounded.contains("995 more"), "{bounded}");
    }

    #[test]
    fn an_alert_is_about_our_certificate_only_if_the_server_asked_for_one() {
        let told = |asked, shown, alert| Handshake { asked, shown, ..PLAIN }.reason(&Error::AlertReceived(alert));
        use AlertDescription::{CertificateRequired, HandshakeFailure, InternalError, ProtocolVersion, UnknownCA};
        for (asked, shown, alert, expected) in [
            (true, false, CertificateRequired, "wants a client certificate; set CERT and KEY"),
            (false, false, CertificateRequired, "wants a client certificate; set CERT and KEY"),
            (true, false, HandshakeFailure, "wants a client certificate; set CERT and KEY"),
            (false, false, HandshakeFailure, "no cipher"),
            (true, true, UnknownCA, "does not know the authority of the client certificate (CERT)"),
            (false, true, UnknownCA, "UnknownCA"),
            (true, true, HandshakeFailure, "does not accept the client certificate (CERT)"),
            (true, true, ProtocolVersion, "no TLS newer than 1.1"),
            (true, true, InternalError, "InternalError"),
        ] {
            let reason = told(asked, shown, alert);
            assert!(reason.contains(expected), "{reason} instead of {expected}");
        }
        assert_eq!(PLAIN.silent_end(), None);
        for (shown, expected) in [(false, "set CERT and KEY"), (true, "(CERT), which")] {
            let reason = Handshake { asked: true, shown, ..PLAIN }.silent_end().unwrap();
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn an_unknown_authority_is_told_with_where_to_name_it() {
        for (own_authorities, self_signed, expected) in [
            (false, false, "this system does not know; set CA to"),
            (true, false, "is not in CA; set CA to"),
            (false, true, "self-signed and CA is not set; put it there"),
            (true, true, "self-signed and not in CA; put it there"),
        ] {
            let reason =
                Handshake { own_authorities, self_signed, ..PLAIN }.reason(&CertificateError::UnknownIssuer.into());
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
