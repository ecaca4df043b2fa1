//! Replies on their way in: RESP3, in whatever pieces they arrive.
//!
//! Written here, because what the server sends must never abort the process, and the codecs at hand recurse without a
//! bound (100,000 nested arrays overflow the stack), read an unfinished reply again from its start, and lose the order
//! of maps. This one first finds the end of a message, without recursion and going on where it stopped; then it builds
//! the value out of bytes that are known to be there. <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use crate::redis_value::Value;
use bytes::{Bytes, BytesMut};

/// Aggregates within aggregates, for a value that is built by recursion. Redis' own commands need about ten; only a script
/// can reply with more. Such a reply is read and given up; the connection, which is everybody's, goes on.
const DEEPEST: usize = 200;

/// More than a script can nest. What comes now is no reply.
const HOSTILE: usize = 20_000;

/// Longest string that Redis can send (`proto-max-bulk-len` at its default), and more elements than it can.
const LONGEST: i64 = 512 * 1024 * 1024;

/// Longest line: a simple string, an error or a number.
const LONGEST_LINE: usize = 1024 * 1024;

/// More than any message that is meant. A server that sends on and on must not fill the memory.
const LARGEST: usize = 1024 * 1024 * 1024;

/// The byte that each element begins with: strings and scalars, then aggregates.
const TYPES: &[u8] = b"$=!+-:,#_(*~>%|";

/// What the server sent: the answer to the oldest unanswered command, or news that nobody asked for.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    Reply(Value),
    Push(Vec<Value>),
}

/// The bytes are not RESP3. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it sent what is not RESP3: {0}")]
pub struct Malformed(&'static str);

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    unread: BytesMut,
    /// Up to here the message at the front of `unread` was looked at.
    seen: usize,
    /// Of each aggregate that is open at `seen`, outermost first, how many elements are still to come. The outermost is
    /// the stream itself, of which one message is wanted.
    open: Vec<usize>,
    /// How deep the message at the front is.
    depth: usize,
}

impl Decoder {
    /// Where arriving bytes are to be appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.unread
    }

    /// The next whole message; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`]: nothing that follows can be understood.
    pub fn next(&mut self) -> Result<Option<Incoming>, Malformed> {
        if self.open.is_empty() {
            self.open.push(1);
        }
        if !self.find_end()? {
            return if self.unread.len() > LARGEST { Err(Malformed("a message of over 1 GB")) } else { Ok(None) };
        }
        let message = self.unread.split_to(self.seen).freeze();
        self.seen = 0;
        if std::mem::take(&mut self.depth) > DEEPEST {
            let text = format!("ERR the reply is nested more than {DEEPEST} deep, and was not read");
            let push = message.starts_with(b">");
            return Ok(Some(if push { Incoming::Push(Vec::new()) } else { Incoming::Reply(Value::Error(text)) }));
        }
        Builder { message, at: 0 }.incoming().map(Some)
    }

    /// Moves `seen` to the end of the first message. `false` if that has not arrived.
    fn find_end(&mut self) -> Result<bool, Malformed> {
        while let Some(awaited) = self.open.last_mut() {
            let Some((kind, line, after)) = line_at(&self.unread, self.seen)? else { return Ok(false) };
            let mut end = after;
            let elements = match kind {
                b'$' | b'=' | b'!' => {
                    if let Some(bytes) = length(line)? {
                        end = after + bytes + 2;
                        match self.unread.get(after + bytes..end) {
                            None => return Ok(false),
                            Some(b"\r\n") => {}
                            Some(_) => return Err(Malformed("a string that is longer than it says")),
                        }
                    }
                    0
                }
                b'*' | b'~' | b'>' => length(line)?.unwrap_or(0),
                b'%' => 2 * length(line)?.unwrap_or(0),
                b'|' => {
                    // An attribute belongs to the element that follows it, and is none itself.
                    *awaited += 1;
                    2 * length(line)?.unwrap_or(0)
                }
                _ => 0,
            };
            self.seen = end;
            self.open.push(elements);
            self.depth = self.depth.max(self.open.len());
            if self.depth > HOSTILE {
                return Err(Malformed("aggregates nested too deeply"));
            }
            while self.open.last() == Some(&0) {
                self.open.pop();
                if let Some(awaited) = self.open.last_mut() {
                    *awaited -= 1;
                }
            }
        }
        Ok(true)
    }
}

/// The type of an element, the rest of its first line, and where the next line begins.
type Line<'a> = (u8, &'a [u8], usize);

/// The line that begins at `start`; `None` if its end has not arrived.
fn line_at(bytes: &[u8], start: usize) -> Result<Option<Line<'_>>, Malformed> {
    let Some((kind, rest)) = bytes[start..].split_first() else { return Ok(None) };
    if !TYPES.contains(kind) {
        return Err(Malformed("an unknown type of reply"));
    }
    match rest.iter().take(LONGEST_LINE).position(|byte| *byte == b'\r') {
        Some(end) => match rest.get(end + 1) {
            Some(b'\n') => Ok(Some((*kind, &rest[..end], start + 1 + end + 2))),
            Some(_) => Err(Malformed("a line that ends in half a line break")),
            None => Ok(None),
        },
        None if rest.len() >= LONGEST_LINE => Err(Malformed("a line of over 1 MB")),
        None => Ok(None),
    }
}

/// Bytes of a string or elements of an aggregate; `None` for the null of older servers.
fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    match number(line) {
        Some(-1) => Ok(None),
        Some(length) if (0..=LONGEST).contains(&length) => Ok(usize::try_from(length).ok()),
        _ => Err(Malformed("a length that is none, or over 512 MB")),
    }
}

fn number<N: std::str::FromStr>(line: &[u8]) -> Option<N> {
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// Builds a value out of a message whose end was found.
struct Builder {
    message: Bytes,
    at: usize,
}

impl Builder {
    fn incoming(&mut self) -> Result<Incoming, Malformed> {
        match self.element()? {
            (b'>', Value::Array(items)) => Ok(Incoming::Push(items)),
            (_, value) => Ok(Incoming::Reply(value)),
        }
    }

    /// The next element and its type, without the attributes before it. As deep as [`DEEPEST`] at most, which was checked.
    fn element(&mut self) -> Result<(u8, Value), Malformed> {
        loop {
            if let Some(element) = self.element_or_attribute()? {
                return Ok(element);
            }
        }
    }

    /// The next element, or `None` for an attribute, of which there may be any number in a row.
    fn element_or_attribute(&mut self) -> Result<Option<(u8, Value)>, Malformed> {
        let start = self.at + 1;
        let Some((kind, line, after)) = line_at(&self.message, self.at)? else {
            return Err(Malformed("a message that ends early"));
        };
        let text = start..start + line.len();
        let wrong = Malformed("a number that is none");
        let length = match kind {
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => length(line)?,
            _ => None,
        };
        let scalar = match kind {
            b':' => Value::Int(number(line).ok_or(wrong)?),
            b',' if number::<f64>(line).is_none() => return Err(wrong),
            b'#' => Value::Bool(line == b"t"),
            _ => Value::Null,
        };
        self.at = after;
        let value = match (kind, length) {
            (b'+' | b'(' | b',', _) => Value::Text(self.message.slice(text)),
            (b'-', _) => Value::Error(String::from_utf8_lossy(&self.message[text]).into_owned()),
            (b'$', Some(length)) => Value::Text(self.string(length)),
            // The first four bytes tell the format, as in `txt:`.
            (b'=', Some(length)) => Value::Text(self.string(length).slice(4.min(length)..)),
            (b'!', Some(length)) => Value::Error(String::from_utf8_lossy(&self.string(length)).into_owned()),
            (b'*' | b'~' | b'>', Some(length)) => {
                Value::Array((0..length).map(|_| Ok(self.element()?.1)).collect::<Result<_, _>>()?)
            }
            (b'%', Some(length)) => Value::Map(self.pairs(length)?),
            (b'|', length) => {
                self.pairs(length.unwrap_or(0))?;
                return Ok(None);
            }
            _ => scalar,
        };
        Ok(Some((kind, value)))
    }

    fn pairs(&mut self, length: usize) -> Result<Vec<(Value, Value)>, Malformed> {
        (0..length).map(|_| Ok((self.element()?.1, self.element()?.1))).collect()
    }

    fn string(&mut self, length: usize) -> Bytes {
        let text = self.message.slice(self.at..self.at + length);
        self.at += length + 2;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// Everything that comes out of `bytes`, arriving `step` bytes at a time.
    fn decoded(bytes: &[u8], step: usize) -> Result<Vec<Incoming>, Malformed> {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(step) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(incoming) = decoder.next()? {
                found.push(incoming);
            }
        }
        Ok(found)
    }

    fn reply(bytes: &[u8]) -> Value {
        match decoded(bytes, bytes.len()).unwrap().pop() {
            Some(Incoming::Reply(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    fn text(text: &'static str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn every_type_of_the_protocol() {
        for (bytes, value) in [
            ("+OK\r\n", text("OK")),
            ("-ERR no\r\n", Value::Error("ERR no".into())),
            (":-7\r\n", Value::Int(-7)),
            ("$3\r\na\r\n\r\n", text("a\r\n")),
            ("$0\r\n\r\n", text("")),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("*0\r\n", Value::Array(vec![])),
            ("_\r\n", Value::Null),
            ("#t\r\n", Value::Bool(true)),
            ("#f\r\n", Value::Bool(false)),
            (",1.50\r\n", text("1.50")),
            (",-inf\r\n", text("-inf")),
            ("(3492890328409238509324850943850943825024385\r\n", text("3492890328409238509324850943850943825024385")),
            ("!5\r\nERR x\r\n", Value::Error("ERR x".into())),
            ("=6\r\ntxt:hi\r\n", text("hi")),
            ("~1\r\n:1\r\n", Value::Array(vec![Value::Int(1)])),
            ("%1\r\n+b\r\n:1\r\n", Value::Map(vec![(text("b"), Value::Int(1))])),
            ("|1\r\n+ttl\r\n:9\r\n:1\r\n", Value::Int(1)),
            ("*2\r\n|1\r\n+ttl\r\n:9\r\n:1\r\n:2\r\n", Value::Array(vec![Value::Int(1), Value::Int(2)])),
        ] {
            assert_eq!(reply(bytes.as_bytes()), value, "{bytes:?}");
        }
    }

    #[test]
    fn pushes_are_told_from_replies() {
        let found = decoded(b"+OK\r\n>2\r\n+invalidate\r\n_\r\n:1\r\n", 1).unwrap();
        assert_eq!(found[1], Incoming::Push(vec![text("invalidate"), Value::Null]));
        assert_eq!((found.len(), &found[2]), (3, &Incoming::Reply(Value::Int(1))));
    }

    #[test]
    fn what_is_hostile_is_refused_or_waited_for() {
        for hostile in ["*1\r\n", "%1\r\n", "|1\r\n", ">1\r\n", "~1\r\n"] {
            let nested = hostile.repeat(1_000_000);
            assert_eq!(decoded(nested.as_bytes(), 65_536), Err(Malformed("aggregates nested too deeply")));
        }
        let wrong = [
            "$18446744073709551615\r\nx",
            "$536870913\r\n",
            "*-5\r\n",
            "*1e3\r\n",
            "*\r\n",
            "$1\r\nab\r\n",
            "HTTP/1.1 400\r\n",
            "+a\rb\r\n",
            ":1x\r\n",
            ",\r\n",
            "$?\r\n",
            "\r\n",
            "\0\r\n",
        ];
        for wrong in wrong {
            assert!(decoded(wrong.as_bytes(), 3).is_err(), "{wrong:?}");
        }
        let nested = "*1\r\n".repeat(DEEPEST) + ":1\r\n:2\r\n";
        let found = decoded(nested.as_bytes(), 7).unwrap();
        assert!(
            matches!(&found[..], [Incoming::Reply(Value::Error(text)), Incoming::Reply(Value::Int(2))] if text.contains("nested"))
        );
        let attributes = "|0\r\n".repeat(1_000_000) + ":1\r\n";
        assert_eq!(decoded(attributes.as_bytes(), 65_536), Ok(vec![Incoming::Reply(Value::Int(1))]));
        assert!(decoded(&vec![b'+'; LONGEST_LINE + 1], 4096).is_err());
        assert_eq!(decoded(b"*536870912\r\n:1\r\n", 4096), Ok(vec![]), "nothing is set aside for what may never come");
    }

    fn values() -> impl Strategy<Value = Value> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Text(bytes.into()));
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            bytes,
            "[ -~]{0,20}".prop_map(Value::Error),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    fn encoded(value: &Value, out: &mut Vec<u8>) {
        let mut head = String::new();
        let _ = match value {
            Value::Null => write!(head, "_"),
            Value::Int(number) => write!(head, ":{number}"),
            Value::Bool(truth) => write!(head, "#{}", if *truth { 't' } else { 'f' }),
            Value::Error(text) => write!(head, "-{text}"),
            Value::Text(bytes) => write!(head, "${}", bytes.len()),
            Value::Array(items) => write!(head, "*{}", items.len()),
            Value::Map(pairs) => write!(head, "%{}", pairs.len()),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(b"\r\n");
        match value {
            Value::Text(bytes) => {
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(items) => items.iter().for_each(|item| encoded(item, out)),
            Value::Map(pairs) => pairs.iter().for_each(|(key, item)| {
                encoded(key, out);
                encoded(item, out);
            }),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn whatever_was_sent_arrives_in_whatever_pieces(sent in prop::collection::vec(values(), 1..5), step in 1..50usize) {
            let mut bytes = Vec::new();
            sent.iter().for_each(|value| encoded(value, &mut bytes));
            let arrived = decoded(&bytes, step).unwrap();
            prop_assert_eq!(arrived, sent.into_iter().map(Incoming::Reply).collect::<Vec<_>>());
        }

        #[test]
        fn a_reply_cut_at_any_byte_is_waited_for(sent in values()) {
            let mut bytes = Vec::new();
            encoded(&sent, &mut bytes);
            for cut in 0..bytes.len() {
                prop_assert_eq!(decoded(&bytes[..cut], 7), Ok(vec![]));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$%|>~=!:+-_#,\r\n0123456789".to_vec())], 0..300), step in 1..30usize) {
            let _ = decoded(&bytes, step);
        }
    }
}
