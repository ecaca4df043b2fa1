//! What is on its way on one connection: bytes that are not written yet, and who waits for which reply. No I/O.

use crate::error::{Backlog, Error, Result};
use crate::redis_request::{Answered, Batch, Replies, Request};
use crate::redis_value::Value;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes that may wait to be written. A server that stands still must not fill the memory; one batch may be larger.
const MAX_UNWRITTEN_MEGABYTES: usize = 256;

/// Somebody who waits for a reply, or for several.
struct Slot {
    /// Where its bytes begin in the stream of this connection.
    start: u64,
    length: usize,
    missing: usize,
    /// Of a request with an array of replies: those that have come.
    replies: Option<Vec<Value>>,
    repeatable: bool,
    deadline: Option<Instant>,
    /// `None` once it was told that its time is over. The replies still belong to it.
    answered: Option<Answered>,
}

/// An answer that has to be handed out, outside of any lock.
pub type Answer = (Answered, Result<Value>);

/// The order of everything that was asked and is not answered.
#[derive(Default)]
pub struct Outbox {
    unwritten: VecDeque<Bytes>,
    unwritten_bytes: usize,
    /// Everything from the oldest unanswered request on, to be sent again: pieces with their place in the stream.
    kept: VecDeque<(u64, Bytes)>,
    /// How long the stream is, with what is not written yet; and how much of it was written.
    taken: u64,
    written: u64,
    /// Oldest first: Redis answers in order.
    waiting: VecDeque<Slot>,
    missing: usize,
    /// Why nothing is taken any more.
    lost: Option<Error>,
}

impl Outbox {
    /// Replies that are still to come.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Queues a batch behind everything else; gives it back with the reason if that cannot be.
    pub fn push(&mut self, batch: Batch, server: &Arc<str>, limit: usize) -> std::result::Result<(), (Error, Batch)> {
        if let Some(lost) = &self.lost {
            return Err((lost.clone(), batch));
        }
        let overloaded = |limit| Error::Overloaded { server: server.clone(), limit };
        if self.waiting.len() + batch.requests.len() > limit {
            return Err((overloaded(Backlog::Calls(limit)), batch));
        }
        let bytes = self.unwritten_bytes + batch.bytes.len();
        if self.unwritten_bytes > 0 && bytes > MAX_UNWRITTEN_MEGABYTES << 20 {
            return Err((overloaded(Backlog::Megabytes(MAX_UNWRITTEN_MEGABYTES)), batch));
        }
        let batch_replies = batch.replies();
        let Batch { bytes, requests } = batch;
        let bytes = bytes.freeze();
        self.missing += batch_replies;
        self.unwritten_bytes += bytes.len();
        self.kept.push_back((self.taken, bytes.clone()));
        self.unwritten.push_back(bytes);
        for Request { length, replies, repeatable, deadline, answered } in requests {
            let (start, missing, answered) = (self.taken, replies.count(), Some(answered));
            let replies = (replies != Replies::One).then(Vec::new);
            self.taken += length as u64;
            self.waiting.push_back(Slot { start, length, missing, replies, repeatable, deadline, answered });
        }
        Ok(())
    }

    /// The next pieces to write, `most` at most.
    pub fn unwritten(&self, most: usize) -> Vec<Bytes> {
        self.unwritten.iter().take(most).cloned().collect()
    }

    /// Takes note of what was written.
    pub fn wrote(&mut self, mut bytes: usize) {
        // It may have ended while somebody wrote.
        if self.lost.is_some() {
            return;
        }
        self.written += bytes as u64;
        self.unwritten_bytes -= bytes;
        while let Some(first) = self.unwritten.front_mut() {
            if bytes < first.len() {
                first.advance(bytes);
                return;
            }
            bytes -= first.len();
            self.unwritten.pop_front();
        }
    }

    /// Gives a reply to whoever waits for it; `false` if nobody does.
    pub fn reply(&mut self, server: &Arc<str>, value: Value, answers: &mut Vec<Answer>) -> bool {
        let Some(slot) = self.waiting.front_mut() else { return false };
        self.missing -= 1;
        slot.missing -= 1;
        let result = match &mut slot.replies {
            Some(replies) => {
                replies.push(value);
                if slot.missing > 0 {
                    return true;
                }
                Ok(Value::Array(std::mem::take(replies)))
            }
            None => match value {
                Value::Error(text) => Err(Error::Reply { server: server.clone(), text }),
                value => Ok(value),
            },
        };
        // Where nobody waits any more, the reply was still of this request.
        answers.extend(slot.answered.take().map(|answered| (answered, result)));
        self.waiting.pop_front();
        self.drop_kept();
        true
    }

    /// Lets go of bytes whose replies have all come.
    fn drop_kept(&mut self) {
        let oldest = self.waiting.front().map_or(self.taken, |slot| slot.start);
        while self.kept.front().is_some_and(|(start, bytes)| start + bytes.len() as u64 <= oldest) {
            self.kept.pop_front();
        }
    }

    /// Takes out those whose deadline has come, and says when the next one will.
    pub fn late(&mut self, now: Instant, late: &mut Vec<Answered>) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.waiting {
            let Some(deadline) = slot.deadline.filter(|_| slot.answered.is_some()) else { continue };
            if deadline <= now {
                late.extend(slot.answered.take());
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        next
    }

    /// Takes nothing more, for this reason or an earlier one, and gives up all that is unanswered: first what may be sent
    /// on another connection, because it never left or changes nothing, then those who must be told.
    pub fn end(&mut self, reason: &Error) -> (Batch, Vec<Answered>) {
        self.lost.get_or_insert_with(|| reason.clone());
        let (mut again, mut told) = (Batch::default(), Vec::new());
        for slot in std::mem::take(&mut self.waiting) {
            let Some(answered) = slot.answered else { continue };
            let left = slot.start < self.written;
            if left && !slot.repeatable {
                told.push(answered);
                continue;
            }
            let count = |replies: Vec<Value>| Replies::Array(slot.missing + replies.len());
            let replies = slot.replies.map_or(Replies::One, count);
            let Some(bytes) = self.kept_bytes(slot.start, slot.length) else {
                told.push(answered);
                continue;
            };
            // What has left once is not sent a third time.
            let repeatable = slot.repeatable && !left;
            let request = Request { length: slot.length, replies, repeatable, deadline: slot.deadline, answered };
            again.push(&bytes, request);
        }
        self.missing = 0;
        self.unwritten.clear();
        self.unwritten_bytes = 0;
        self.kept.clear();
        (again, told)
    }

    /// The bytes of a request. It was pushed as part of one piece.
    fn kept_bytes(&mut self, start: u64, length: usize) -> Option<Bytes> {
        while let Some((place, bytes)) = self.kept.front() {
            let offset = usize::try_from(start - place).ok()?;
            if offset < bytes.len() {
                return bytes.get(offset..offset + length).map(|range| bytes.slice_ref(range));
            }
            self.kept.pop_front();
        }
        None
    }
}
