//! How the answers of several servers become that of one.

use super::slots::SLOTS;
use crate::error::{Error, Result};
use crate::redis_value::Value;
use bytes::Bytes;

/// What is done with the answers to the parts of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// All are the same.
    First,
    /// Numbers are added.
    Sum,
    /// Of arrays of numbers, at each place the least.
    Least,
    /// Arrays, one after the other.
    Concatenate,
    /// Arrays, whose items belong to keys: of each key, in their order, the part that has it.
    MgetOrder(Vec<usize>),
    /// Cursor and keys of the primary at this place of their order.
    Scan { index: usize },
    /// One item a command.
    Each(Vec<Piece>),
}

/// One of several commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub answers: Answers,
    pub join: Join,
}

/// How many answers there are to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Parts(usize),
    /// One of each primary.
    EveryPrimary,
}

impl Join {
    /// One answer, made of those to all parts in their order. A part for every primary has one of each, in the order of the
    /// primaries, whose number is `primaries`; a part for a primary that is not there has none.
    ///
    /// # Errors
    /// The first error, if there is one; some of the parts may have been executed. Of several commands each has its own
    /// reply, but one that is not known fails them all.
    pub fn apply(self, answers: Vec<Result<Value>>, primaries: usize) -> Result<Value> {
        if let Self::Each(pieces) = self {
            return each(pieces, answers, primaries);
        }
        let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
        match self {
            Self::First => answers.into_iter().next().ok_or_else(unexpected),
            Self::Sum => sum(&answers),
            Self::Least => least(answers),
            Self::Concatenate => {
                let arrays: Vec<_> = answers.into_iter().map(array).collect::<Result<_>>()?;
                Ok(Value::Array(arrays.into_iter().flatten().collect()))
            }
            Self::MgetOrder(order) => in_order(&order, answers),
            Self::Scan { index } => scanned(index, answers, primaries),
            Self::Each(_) => Err(unexpected()),
        }
    }
}

/// A server said something that the command does not lead to.
fn unexpected() -> Error {
    Error::Internal("the servers of the cluster answered something else".to_owned())
}

fn array(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(unexpected()),
    }
}

fn int(value: &Value) -> Result<i64> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(unexpected()),
    }
}

fn sum(answers: &[Value]) -> Result<Value> {
    let mut sum = 0i64;
    for answer in answers {
        sum = sum.saturating_add(int(answer)?);
    }
    Ok(Value::Int(sum))
}

fn least(answers: Vec<Value>) -> Result<Value> {
    let mut arrays = answers.into_iter().map(array);
    let mut least = arrays.next().ok_or_else(unexpected)??;
    for other in arrays {
        let other = other?;
        if other.len() != least.len() {
            return Err(unexpected());
        }
        for (least, other) in least.iter_mut().zip(&other) {
            *least = Value::Int(int(least)?.min(int(other)?));
        }
    }
    Ok(Value::Array(least))
}

fn in_order(order: &[usize], answers: Vec<Value>) -> Result<Value> {
    let mut parts: Vec<_> = answers.into_iter().map(|part| array(part).map(Vec::into_iter)).collect::<Result<_>>()?;
    let items = order.iter().map(|part| parts.get_mut(*part)?.next()).collect::<Option<Vec<_>>>();
    // A server that says too much is no more right than one that says too little.
    let items = items.filter(|_| parts.iter().all(|part| part.as_slice().is_empty())).ok_or_else(unexpected)?;
    Ok(Value::Array(items))
}

/// The cursor that JavaScript sees says which primary it is about; see [`cursor_of`].
fn scanned(index: usize, answers: Vec<Value>, primaries: usize) -> Result<Value> {
    // There are fewer primaries than there were.
    let Some(answer) = answers.into_iter().next() else {
        return Ok(Value::Array(vec![cursor_text(0), Value::Array(Vec::new())]));
    };
    let mut items = array(answer)?;
    let [cursor, Value::Array(_)] = items.as_mut_slice() else { return Err(unexpected()) };
    let at_node: u64 = cursor.as_str().and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
    *cursor = cursor_text(match at_node {
        0 if index + 1 >= primaries => 0,
        0 => cursor_of(index + 1, 0),
        at_node => cursor_of(index, at_node),
    });
    Ok(Value::Array(items))
}

/// A cursor of the whole cluster: that of a primary, and the primary's place in their order. There are never more primaries
/// than slots.
fn cursor_of(index: usize, at_node: u64) -> u128 {
    u128::from(at_node) * u128::from(SLOTS) + index as u128
}

fn cursor_text(cursor: u128) -> Value {
    Value::Text(Bytes::from(cursor.to_string()))
}

/// The primary that a cursor is about, by its place, and the cursor there; `None` if it is no cursor.
pub fn read_cursor(text: &[u8]) -> Option<(usize, u64)> {
    let cursor: u128 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let slots = u128::from(SLOTS);
    Some((usize::try_from(cursor % slots).ok()?, u64::try_from(cursor / slots).ok()?))
}

fn each(pieces: Vec<Piece>, answers: Vec<Result<Value>>, primaries: usize) -> Result<Value> {
    if let Some(Err(lost)) = answers.iter().find(|answer| matches!(answer, Err(error) if !is_reply(error))) {
        return Err(lost.clone());
    }
    let mut answers = answers.into_iter();
    let mut items = Vec::with_capacity(pieces.len());
    for Piece { answers: number, join } in pieces {
        let number = match (&join, number) {
            (Join::Scan { index }, _) => usize::from(*index < primaries),
            (_, Answers::Parts(parts)) => parts,
            (_, Answers::EveryPrimary) => primaries,
        };
        let own: Vec<_> = answers.by_ref().take(number).collect();
        if own.len() < number {
            return Err(unexpected());
        }
        items.push(match join.apply(own, primaries) {
            Err(Error::Reply { text, .. }) => Value::Error(text),
            item => item?,
        });
    }
    Ok(Value::Array(items))
}

fn is_reply(error: &Error) -> bool {
    matches!(error, Error::Reply { .. })
}
