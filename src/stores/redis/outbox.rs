//! What is on its way on one connection: bytes that are not written yet, and who waits for which reply. No I/O.

use crate::error::{Backlog, Error, Result};
use crate::redis_request::{Answered, Batch, Replies, Request, Target};
use crate::redis_value::Value;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
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
    patience: Option<Duration>,
    target: Target,
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
    /// Up to here somebody writes at this moment, outside of the lock: it may have left.
    offered: u64,
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
        for Request { length, replies, repeatable, deadline, patience, target, answered, .. } in requests {
            let (start, missing, answered) = (self.taken, replies.count(), Some(answered));
            let replies = (replies != Replies::One).then(Vec::new);
            self.taken += length as u64;
            self.waiting.push_back(Slot {
                start,
                length,
                missing,
                replies,
                repeatable,
                deadline,
                patience,
                target,
                answered,
            });
        }
        Ok(())
    }

    /// The next pieces to write, `most` at most. From now on they may have left.
    pub fn offer(&mut self, most: usize) -> Vec<Bytes> {
        let pieces: Vec<Bytes> = self.unwritten.iter().take(most).cloned().collect();
        self.offered = self.written + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        pieces
    }

    /// Nothing of what was offered could be written.
    pub fn kept_back(&mut self) {
        if self.lost.is_none() {
            self.offered = self.written;
        }
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

    /// Takes out those whose deadline has come, with how long they were to wait, and says when the next one will.
    pub fn late(&mut self, now: Instant, late: &mut Vec<(Answered, Option<Duration>)>) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.waiting {
            let Some(deadline) = slot.deadline.filter(|_| slot.answered.is_some()) else { continue };
            if deadline <= now {
                late.extend(slot.answered.take().map(|answered| (answered, slot.patience)));
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
            let left = slot.start < self.written.max(self.offered);
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
            let Slot { length, deadline, patience, target, .. } = slot;
            let request = Request::new(length, replies, repeatable, answered);
            let request = Request { deadline, patience, target, again: true, ..request };
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use std::sync::Mutex;

    type Log = Arc<Mutex<Vec<(usize, Result<Value>)>>>;

    /// A batch of requests: how long each is, its replies, and whether it may be sent again.
    fn batch(log: &Log, requests: &[(usize, Replies, bool)]) -> Batch {
        let mut batch = Batch { bytes: BytesMut::new(), requests: Vec::new() };
        for (index, (length, replies, repeatable)) in requests.iter().copied().enumerate() {
            let log = log.clone();
            let answered = Box::new(move |result| log.lock().unwrap().push((index, result)));
            let bytes = Bytes::from(vec![b'a' + u8::try_from(index).unwrap(); length]);
            batch.push(&bytes, Request::new(length, replies, repeatable, answered));
        }
        batch
    }

    fn lost() -> Error {
        Error::Connection { server: "Redis".into(), reason: "gone".into() }
    }

    /// What a connection that ends gives up after so many bytes were written: what may be sent again, and who is told.
    fn ended(outbox: &mut Outbox, log: &Log) -> (Vec<u8>, Vec<usize>) {
        let (again, told) = outbox.end(&lost());
        told.into_iter().for_each(|answered| answered(Err(lost())));
        (again.bytes.to_vec(), log.lock().unwrap().iter().map(|(index, _)| *index).collect())
    }

    const ONE: Replies = Replies::One;

    #[test]
    fn what_never_left_or_only_reads_may_be_sent_again() {
        for (written, again, told) in
            [(0, "aabbbcccc", vec![]), (1, "bbbcccc", vec![0]), (3, "bbbcccc", vec![0]), (9, "bbb", vec![0, 2])]
        {
            let (log, mut outbox) = (Log::default(), Outbox::default());
            let requests = [(2, ONE, false), (3, ONE, true), (4, ONE, false)];
            outbox.push(batch(&log, &requests), &"Redis".into(), 10).map_err(|_| "full").unwrap();
            outbox.wrote(written);
            assert_eq!(ended(&mut outbox, &log), (again.into(), told), "{written}");
        }
    }

    #[test]
    fn what_somebody_is_writing_may_have_left() {
        let (log, mut outbox) = (Log::default(), Outbox::default());
        outbox.push(batch(&log, &[(2, ONE, false)]), &"Redis".into(), 10).map_err(|_| "full").unwrap();
        assert_eq!(outbox.offer(64).concat(), b"aa");
        assert_eq!(ended(&mut outbox, &log), (vec![], vec![0]));
        outbox.wrote(2);

        let (log, mut outbox) = (Log::default(), Outbox::default());
        outbox.push(batch(&log, &[(2, ONE, false)]), &"Redis".into(), 10).map_err(|_| "full").unwrap();
        outbox.offer(64);
        outbox.kept_back();
        assert_eq!(ended(&mut outbox, &log), (b"aa".to_vec(), vec![]), "the socket took nothing");
    }

    #[test]
    fn what_was_sent_again_is_not_sent_a_third_time() {
        let (log, mut outbox) = (Log::default(), Outbox::default());
        outbox.push(batch(&log, &[(2, ONE, true)]), &"Redis".into(), 10).map_err(|_| "full").unwrap();
        outbox.wrote(2);
        let (again, _) = outbox.end(&lost());
        let mut next = Outbox::default();
        next.push(again, &"Redis".into(), 10).map_err(|_| "full").unwrap();
        next.wrote(2);
        assert_eq!(ended(&mut next, &log), (vec![], vec![0]));
    }

    #[test]
    fn replies_go_to_requests_in_order_and_arrays_are_collected() {
        let (log, mut outbox) = (Log::default(), Outbox::default());
        let requests = [(1, ONE, true), (1, Replies::Array(2), true), (1, Replies::Array(1), true)];
        outbox.push(batch(&log, &requests), &"Redis".into(), 10).map_err(|_| "full").unwrap();
        assert_eq!(outbox.missing(), 4);
        let mut answers = Vec::new();
        let server: Arc<str> = "Redis".into();
        for reply in [Value::Error("ERR a".into()), Value::Int(1), Value::Error("ERR b".into()), Value::Int(2)] {
            assert!(outbox.reply(&server, reply, &mut answers));
        }
        assert!(!outbox.reply(&server, Value::Null, &mut answers), "nobody waits for a fifth");
        answers.into_iter().for_each(|(answered, result)| answered(result));
        let log = log.lock().unwrap();
        assert_eq!(log[0].1.as_ref().unwrap_err().reply_kind(), Some("ERR"));
        let both = Value::Array(vec![Value::Int(1), Value::Error("ERR b".into())]);
        assert_eq!(log[1].1.as_ref().unwrap(), &both);
        assert_eq!(log[2].1.as_ref().unwrap(), &Value::Array(vec![Value::Int(2)]));
    }

    #[test]
    fn who_gave_up_still_has_the_reply() {
        let (log, mut outbox) = (Log::default(), Outbox::default());
        let mut two = batch(&log, &[(1, ONE, true), (1, ONE, true)]);
        let now = Instant::now();
        two.requests[0].deadline = Some(now);
        outbox.push(two, &"Redis".into(), 10).map_err(|_| "full").unwrap();
        let mut late = Vec::new();
        assert_eq!(outbox.late(now, &mut late), None);
        assert_eq!(late.len(), 1);
        let (mut answers, server) = (Vec::new(), "Redis".into());
        assert!(outbox.reply(&server, Value::Int(1), &mut answers) && answers.is_empty());
        assert!(outbox.reply(&server, Value::Int(2), &mut answers) && answers.len() == 1);
    }
}
