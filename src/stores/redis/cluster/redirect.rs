//! What a server of a cluster answers when somebody else is to be asked.

use super::slots::{SLOTS, at};
use crate::redis_url::Address;

/// Why a command was not executed, and where it would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// The slot belongs to somebody else, from now on.
    Moved { slot: u16, to: Address },
    /// This one time somebody else is to be asked, after `ASKING`: the slot is on its way, and the key has arrived.
    Ask { slot: u16, to: Address },
    /// The slot is on its way, and some of the keys have arrived: the same again, a little later.
    TryAgain,
    /// The server has become a replica since the map was read: whoever is the primary now.
    NotPrimary,
}

impl Redirect {
    /// Reads the text of an error from the server at `asked`; `None` if it is another error, or names nobody that could be
    /// asked.
    pub fn read(error_text: &str, asked: &Address) -> Option<Self> {
        let mut words = error_text.split_ascii_whitespace();
        match words.next()? {
            "MOVED" => target(words, asked).map(|(slot, to)| Self::Moved { slot, to }),
            "ASK" => target(words, asked).map(|(slot, to)| Self::Ask { slot, to }),
            "TRYAGAIN" => Some(Self::TryAgain),
            "READONLY" => Some(Self::NotPrimary),
            _ => None,
        }
    }
}

fn target<'a>(mut words: impl Iterator<Item = &'a str>, asked: &Address) -> Option<(u16, Address)> {
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    Some((slot, at(host, port.parse().ok()?, asked)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Redirect> {
        Redirect::read(text, &tcp("seed", 1))
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn says_where_to_ask() {
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(Redirect::Moved { slot: 3999, to: tcp("127.0.0.1", 6381) }));
        assert_eq!(read("ASK 0 Host.test:7"), Some(Redirect::Ask { slot: 0, to: tcp("host.test", 7) }));
        assert_eq!(read("MOVED 1 :7"), Some(Redirect::Moved { slot: 1, to: tcp("seed", 7) }));
        assert_eq!(read("MOVED 1 ::1:7"), Some(Redirect::Moved { slot: 1, to: tcp("::1", 7) }));
        assert_eq!(read("MOVED 1 [::1]:7"), Some(Redirect::Moved { slot: 1, to: tcp("::1", 7) }));
        assert_eq!(read("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Redirect::TryAgain));
        assert_eq!(read("READONLY You can't write against a read only replica."), Some(Redirect::NotPrimary));
    }

    #[test]
    fn other_errors_are_answers() {
        for text in [
            "",
            "MOVED",
            "MOVED 1",
            "MOVED x h:1",
            "MOVED 16384 h:1",
            "MOVED -1 h:1",
            "MOVED 1 h",
            "MOVED 1 h:65536",
            "MOVED 1 h:0",
            "MOVED 1 ?:7",
            "ASK 1 h:x",
            "MOVEDX 1 h:1",
            "CLUSTERDOWN The cluster is down",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "WRONGTYPE no",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
