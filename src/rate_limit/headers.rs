//! What a response says of a limit: `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11, which are
//! structured fields (RFC 9651), and the older headers, in which `Reset` is the time of day in Unix seconds.

use super::answer::Answer;
use crate::limit::Limit;

const SECOND: u64 = 1_000_000;

/// What a header tells. Several tell the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Policy,
    Now,
    Limit,
    Remaining,
    Reset,
    /// Only when the request is denied.
    RetryAfter,
}

/// All headers.
pub const HEADERS: [(&str, Header); 9] = [
    ("RateLimit-Policy", Header::Policy),
    ("RateLimit", Header::Now),
    ("X-RateLimit-Limit", Header::Limit),
    ("X-RateLimit-Remaining", Header::Remaining),
    ("X-RateLimit-Reset", Header::Reset),
    ("RateLimit-Limit", Header::Limit),
    ("RateLimit-Remaining", Header::Remaining),
    ("RateLimit-Reset", Header::Reset),
    ("Retry-After", Header::RetryAfter),
];

/// A limit that has a name. What is the same in all of its responses is made once.
#[derive(Debug)]
pub struct Policy {
    /// `"name"`, as a string of structured fields.
    name: Box<str>,
    /// The value of `RateLimit-Policy`.
    policy: Box<str>,
}

impl Policy {
    /// `name` is one that [`super::arguments::name`] took: nothing in it has to be escaped.
    pub fn new(name: &str, limit: Limit) -> Self {
        // In whole seconds and never 0 (draft, 3.1.3); rounded up, so that nobody is told more than is allowed.
        let window = limit.window.div_ceil(SECOND).max(1);
        let name = format!("\"{name}\"");
        Self { policy: format!("{name};q={};w={window}", limit.quota).into(), name: name.into() }
    }

    /// The headers for an answer.
    ///
    /// `t` is for how long no more than `r` may be used (draft, 4.1.2). It does not say when anything comes back (8.4). Until all
    /// of the limit is there again, `r` is safe with each algorithm, so that is what is told. To whoever is denied it ends with
    /// `Retry-After`, which should not come before the end of `t` (6) and takes precedence over it (7): from then on the
    /// call that was denied is allowed, long before all of the limit is there.
    pub fn headers(&self, answer: &Answer) -> Headers<'_> {
        let wait = (!answer.allowed).then(|| u64::from(answer.retry_after.unwrap_or(1)));
        let (mut text, mut digits) = (String::with_capacity(192), itoa::Buffer::new());
        text.push_str(&self.name);
        text.push_str(";r=");
        text.push_str(digits.format(answer.remaining));
        text.push_str(";t=");
        text.push_str(digits.format(wait.unwrap_or(answer.clear.into())));
        let now = text.len();
        let ends = [answer.limit.into(), answer.remaining.into(), answer.reset, wait.unwrap_or(0)].map(|number| {
            text.push_str(digits.format(number));
            text.len()
        });
        Headers { policy: &self.policy, text, now, ends, denied: wait.is_some() }
    }
}

/// The headers of one response.
#[derive(Debug)]
pub struct Headers<'policy> {
    policy: &'policy str,
    /// All other values, one behind the other.
    text: String,
    /// Where the first of them ends, and each number after it.
    now: usize,
    ends: [usize; 4],
    denied: bool,
}

impl Headers<'_> {
    /// The values of those that are to be set, one a line.
    pub fn lines(&self) -> String {
        let headers = if self.denied { &HEADERS[..] } else { &HEADERS[..HEADERS.len() - 1] };
        let mut lines = String::with_capacity(self.policy.len() + 2 * self.text.len() + headers.len());
        for (_, header) in headers {
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(self.value(*header));
        }
        lines
    }

    /// The text of a value; that of [`Header::RetryAfter`] means nothing unless the request was denied.
    fn value(&self, value: Header) -> &str {
        let [limit, remaining, reset, retry_after] = self.ends;
        match value {
            Header::Policy => self.policy,
            Header::Now => &self.text[..self.now],
            Header::Limit => &self.text[self.now..limit],
            Header::Remaining => &self.text[limit..remaining],
            Header::Reset => &self.text[remaining..reset],
            Header::RetryAfter => &self.text[reset..retry_after],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sfv::{BareItem, Item, KeyRef, List, ListEntry, Parser};
    use std::collections::HashMap;

    const LIMIT: Limit = Limit { quota: 100, window: 60_000_000 };
    const ALLOWED: Answer =
        Answer { allowed: true, limit: 100, remaining: 99, reset: 1_700_000_060, retry_after: None, clear: 60 };
    const DENIED: Answer = Answer { allowed: false, remaining: 0, retry_after: Some(7), ..ALLOWED };

    fn all(name: &str, limit: Limit, answer: &Answer) -> Vec<(&'static str, String)> {
        let policy = Policy::new(name, limit);
        let headers = policy.headers(answer);
        let lines = headers.lines();
        HEADERS.iter().zip(lines.split('\n')).map(|((name, _), value)| (*name, value.to_owned())).collect()
    }

    /// The one item of a list: its string and its parameters, which must be integers.
    fn parsed(field: &str) -> (String, Vec<(String, i64)>) {
        let list: List = Parser::new(field).parse().unwrap();
        let [ListEntry::Item(Item { bare_item: BareItem::String(name), params })] = &list[..] else {
            panic!("not a list of one string: {field}");
        };
        let integer = |item: &BareItem| i64::from(item.as_integer().unwrap());
        let params = params.iter().map(|(key, item)| (AsRef::<KeyRef>::as_ref(key).as_str().to_owned(), integer(item)));
        (name.as_str().to_owned(), params.collect())
    }

    #[test]
    fn a_response_that_is_allowed() {
        let expected = [
            ("RateLimit-Policy", "\"api\";q=100;w=60"),
            ("RateLimit", "\"api\";r=99;t=60"),
            ("X-RateLimit-Limit", "100"),
            ("X-RateLimit-Remaining", "99"),
            ("X-RateLimit-Reset", "1700000060"),
            ("RateLimit-Limit", "100"),
            ("RateLimit-Remaining", "99"),
            ("RateLimit-Reset", "1700000060"),
        ];
        assert_eq!(all("api", LIMIT, &ALLOWED), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_response_that_is_denied_says_when_to_come_back() {
        let headers = all("api", LIMIT, &DENIED);
        assert_eq!(headers[1].1, "\"api\";r=0;t=7");
        assert_eq!(headers[4].1, "1700000060");
        assert_eq!(headers[8], ("Retry-After", "7".to_owned()));
    }

    #[test]
    fn only_who_is_denied_has_to_wait() {
        let shadow = Answer { allowed: true, ..DENIED };
        let headers = all("api", LIMIT, &shadow);
        assert_eq!((headers.len(), headers[1].1.as_str()), (8, "\"api\";r=0;t=60"));
        let outage = Answer { retry_after: None, ..DENIED };
        assert_eq!(all("api", LIMIT, &outage)[8], ("Retry-After", "1".to_owned()));
    }

    #[test]
    fn a_window_is_whole_seconds_and_never_none() {
        for (window, w) in [(1_000, 1), (1_000_000, 1), (1_000_001, 2), (2_678_400_000_000, 2_678_400)] {
            let policy = Policy::new("a", Limit { quota: 5, window });
            assert_eq!(policy.headers(&ALLOWED).value(Header::Policy), format!("\"a\";q=5;w={w}"));
        }
    }

    fn answers() -> impl Strategy<Value = Answer> {
        (any::<bool>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
            |(allowed, limit, remaining, reset, wait, clear)| Answer {
                allowed,
                limit,
                remaining,
                reset,
                retry_after: (!allowed).then_some(wait),
                clear,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_read_back_is_the_decision(
            name in "[A-Za-z0-9._/-]{1,64}",
            (quota, window) in (1..=1_000_000_000_u32, 1_000..=2_678_400_000_000_u64),
            answer in answers(),
        ) {
            let headers = all(&name, Limit { quota, window }, &answer);
            let read: HashMap<_, _> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            prop_assert_eq!(read.len(), headers.len(), "no name twice");

            let w = i64::try_from(window.div_ceil(SECOND)).unwrap();
            let expected = vec![("q".to_owned(), i64::from(quota)), ("w".to_owned(), w)];
            prop_assert!(w >= 1);
            prop_assert_eq!(parsed(read["RateLimit-Policy"]), (name.clone(), expected));

            let t = answer.retry_after.unwrap_or(answer.clear);
            let t = i64::from(t);
            let expected = vec![("r".to_owned(), i64::from(answer.remaining)), ("t".to_owned(), t)];
            prop_assert_eq!(parsed(read["RateLimit"]), (name, expected));

            for prefix in ["X-RateLimit", "RateLimit"] {
                let number = |what: &str| read[format!("{prefix}-{what}").as_str()].parse::<u64>().unwrap();
                prop_assert_eq!(number("Limit"), u64::from(answer.limit));
                prop_assert_eq!(number("Remaining"), u64::from(answer.remaining));
                prop_assert_eq!(number("Reset"), answer.reset);
            }
            let retry_after = read.get("Retry-After").map(|seconds| seconds.parse::<u32>().unwrap());
            prop_assert_eq!(retry_after, answer.retry_after);
            prop_assert!(retry_after.is_none_or(|seconds| i64::from(seconds) >= t), "not before the end of t");
        }
    }
}
