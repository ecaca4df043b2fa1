//! What is sent to Redis: encoded commands, and who waits for their replies.

use crate::config::REDIS_DEADLINE;
use crate::error::Result;
use crate::redis_url::Address;
use crate::redis_value::Value;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Gets the reply to a request, or what became of it. Called once, on any thread; it must not block.
///
/// One command has its reply, or an error where that is one; an array may have errors among its items.
pub type Answered = Box<dyn FnOnce(Result<Value>) + Send>;

/// How many replies a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// That of one command.
    One,
    /// An array of so many, which is at least one.
    Array(usize),
}

impl Replies {
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Array(count) => count,
        }
    }
}

/// Which server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Any primary.
    Any,
    /// The primary that serves this slot at the time.
    Slot(u16),
    Node(Arc<Address>),
}

/// One command, or several that stay together. Its bytes are in the [`Batch`].
pub struct Request {
    pub length: usize,
    pub replies: Replies,
    /// Nothing is different after it was executed twice.
    pub repeatable: bool,
    /// `None` if the one who waits gives up by himself.
    pub deadline: Option<Instant>,
    /// It may take so long, and no longer, from when it leaves; where nothing is said, what every command may.
    pub patience: Option<Duration>,
    /// Whom it is for, where there are several.
    pub target: Target,
    /// A replica may answer it.
    pub by_replica: bool,
    /// It was on a connection that was lost, and may be sent again.
    pub again: bool,
    pub answered: Answered,
}

/// Requests that leave together, in this order.
#[derive(Default)]
pub struct Batch {
    /// Of all requests, one after the other.
    pub bytes: BytesMut,
    pub requests: Vec<Request>,
}

impl Batch {
    /// An empty batch with room for some usual requests.
    pub fn with_room() -> Self {
        Self { bytes: BytesMut::with_capacity(4096), requests: Vec::with_capacity(64) }
    }

    /// A batch of one command, which is sent once.
    pub fn of(bytes: BytesMut, deadline: Option<Instant>, answered: Answered) -> Self {
        let request = Request { deadline, ..Request::new(bytes.len(), Replies::One, false, answered) };
        Self { bytes, requests: vec![request] }
    }

    /// All of it was on a connection that was lost.
    pub fn is_again(&self) -> bool {
        self.requests.iter().all(|request| request.again)
    }

    pub fn replies(&self) -> usize {
        self.requests.iter().map(|request| request.replies.count()).sum()
    }

    /// Adds a request with its bytes.
    pub fn push(&mut self, bytes: &Bytes, request: Request) {
        debug_assert_eq!(bytes.len(), request.length);
        self.bytes.extend_from_slice(bytes);
        self.requests.push(request);
    }

    /// Answers every request in the same way.
    pub fn settle(self, result: &Result<Value>) {
        for request in self.requests {
            (request.answered)(result.clone());
        }
    }

    /// Takes out the requests whose deadline has come; `None` if that leaves nothing.
    pub fn split_late(mut self, now: Instant) -> (Vec<Request>, Option<Self>) {
        if !self.requests.iter().any(|request| request.is_late(now)) {
            return (Vec::new(), Some(self));
        }
        let (mut late, mut rest) = (Vec::new(), Self::default());
        for request in self.requests {
            let bytes = self.bytes.split_to(request.length).freeze();
            if request.is_late(now) { late.push(request) } else { rest.push(&bytes, request) }
        }
        (late, Some(rest).filter(|rest| !rest.requests.is_empty()))
    }

    /// Gives every request its deadline: it leaves now.
    pub fn set_deadlines(&mut self, now: Instant) {
        for request in &mut self.requests {
            request.deadline = Some(now + request.patience.unwrap_or(REDIS_DEADLINE));
        }
    }

    /// The deadline that comes first.
    pub fn deadline(&self) -> Option<Instant> {
        self.requests.iter().filter_map(|request| request.deadline).min()
    }
}

impl Request {
    /// A request of so many bytes without a deadline, for whichever server.
    pub fn new(length: usize, replies: Replies, repeatable: bool, answered: Answered) -> Self {
        let (deadline, patience, target) = (None, None, Target::Any);
        Self { length, replies, repeatable, deadline, patience, target, by_replica: false, again: false, answered }
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Appends one command to `buffer`: an array of bulk strings.
/// <https://redis.io/docs/latest/develop/reference/protocol-spec/>
pub fn encode<A: AsRef<[u8]>>(buffer: &mut BytesMut, arguments: &[A]) {
    encode_head(buffer, arguments.len());
    for argument in arguments {
        encode_argument(buffer, argument.as_ref());
    }
}

/// Appends the beginning of a command; its name and its arguments, of this number in all, are to follow.
pub fn encode_head(buffer: &mut BytesMut, arguments: usize) {
    line(buffer, b'*', arguments);
}

/// Appends one argument of a command.
pub fn encode_argument(buffer: &mut BytesMut, argument: &[u8]) {
    buffer.reserve(argument.len() + 24);
    line(buffer, b'$', argument.len());
    buffer.put_slice(argument);
    buffer.put_slice(b"\r\n");
}

fn line(buffer: &mut BytesMut, kind: u8, number: usize) {
    buffer.put_u8(kind);
    buffer.put_slice(itoa::Buffer::new().format(number).as_bytes());
    buffer.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut buffer = BytesMut::new();
        encode(&mut buffer, &[b"SET".as_slice(), b"k", b"\r\n\0"]);
        assert_eq!(&buffer[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\r\n\0\r\n");
    }

    #[tokio::test]
    async fn late_requests_are_taken_out_with_their_bytes() {
        let now = Instant::now();
        let mut batch = Batch::default();
        for (bytes, late) in [("a", true), ("bb", false), ("ccc", true), ("d", false)] {
            let deadline = Some(if late { now } else { now + Duration::from_secs(1) });
            let answered: Answered = Box::new(|_| {});
            let request = Request { deadline, ..Request::new(bytes.len(), Replies::One, true, answered) };
            batch.push(&Bytes::from(bytes), request);
        }
        let (late, rest) = batch.split_late(now);
        let rest = rest.unwrap();
        assert_eq!((late.len(), &rest.bytes[..], rest.replies()), (2, &b"bbd"[..], 2));
        assert_eq!(rest.deadline(), Some(now + Duration::from_secs(1)));
        let (late, rest) = rest.split_late(now + Duration::from_secs(1));
        assert!(late.len() == 2 && rest.is_none());
    }
}
