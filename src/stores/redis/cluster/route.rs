//! Which servers a request is for, and what each of them is to be sent.

use super::command::Command;
use super::join::{Answers, Join, Piece, read_cursor};
use super::keys::{PerSlot, Way};
use super::slots::slot;
use crate::error::{Error, Result};
use crate::redis_request::{Replies, encode_argument, encode_head};
use bytes::{Bytes, BytesMut};

/// Who is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Who has this slot.
    Slot(u16),
    AnyPrimary,
    EveryPrimary,
    /// The primary at this place of their order. Nobody, if there are fewer.
    Nth(usize),
}

/// What is sent to one server, or to every primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub to: To,
    pub bytes: Bytes,
    pub replies: Replies,
}

/// A request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Split {
    /// It goes as it is to one server, whose answer is the answer.
    One(Part),
    /// Parts that concern the same key are in their order, and are to be executed in it.
    Many { parts: Vec<Part>, join: Join },
}

/// Takes a request apart: one command, or with [`Replies::Array`] several, or all of a transaction from `MULTI` to `EXEC`.
///
/// # Errors
/// A script or a transaction with keys of different slots, which no server could execute.
pub fn split(bytes: Bytes, replies: Replies) -> Result<Split> {
    match replies {
        Replies::One => split_command(bytes),
        Replies::Array(count) if &*read(&bytes)?.name() == b"MULTI" => transaction(bytes, count),
        Replies::Array(count) => pipeline(bytes, count),
    }
}

fn read(bytes: &[u8]) -> Result<Command<'_>> {
    Command::read(bytes).ok_or_else(unreadable)
}

fn unreadable() -> Error {
    Error::Internal("a command that was to be sent cannot be read".to_owned())
}

fn one(to: To, bytes: Bytes) -> Split {
    Split::One(Part { to, bytes, replies: Replies::One })
}

fn split_command(bytes: Bytes) -> Result<Split> {
    let command = read(&bytes)?;
    let way = Way::of(&command.name(), &command);
    match way {
        Way::EveryPrimary(join) => {
            let part = Part { to: To::EveryPrimary, bytes, replies: Replies::One };
            return Ok(Split::Many { parts: vec![part], join });
        }
        Way::Scan => {
            if let Some((index, part)) = scan(&command) {
                return Ok(Split::Many { parts: vec![part], join: Join::Scan { index } });
            }
        }
        Way::PerSlot { values, join } => {
            if let Some(split) = per_slot(&command, &way, values, join) {
                return Ok(split);
            }
        }
        Way::Script(_) if !are_together(way.keys(&command)) => return Err(apart("this script", "a script")),
        _ => {}
    }
    let to = way.keys(&command).next().map_or(To::AnyPrimary, |key| To::Slot(slot(key)));
    Ok(one(to, bytes))
}

fn are_together<'a>(keys: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut slots = keys.map(slot);
    slots.next().is_none_or(|first| slots.all(|slot| slot == first))
}

fn apart(these: &str, one: &str) -> Error {
    Error::range_error(format!(
        "The keys of {these} belong to different slots of the cluster, and {one} runs on one server; give the keys a common \
         {{tag}}, as in user:{{17}}:name."
    ))
}

/// One command a slot, with its keys in their order; `None` if there is but one slot, or arguments that the server will not
/// like.
fn per_slot(command: &Command<'_>, way: &Way, values: bool, join: PerSlot) -> Option<Split> {
    let whole = !values || command.count() % 2 == 1;
    if !whole || are_together(way.keys(command)) {
        return None;
    }
    let arguments: Vec<&[u8]> = command.arguments().collect();
    let (name, arguments) = arguments.split_first()?;
    let groups: Vec<&[&[u8]]> = arguments.chunks(1 + usize::from(values)).collect();
    let mut by_slot: Vec<(u16, usize)> =
        groups.iter().enumerate().map(|(place, group)| (slot(group[0]), place)).collect();
    by_slot.sort_unstable();
    let mut order = vec![0; groups.len()];
    let mut parts = Vec::new();
    for part in by_slot.chunk_by(|(one, _), (other, _)| one == other) {
        let mut bytes = BytesMut::new();
        encode_head(&mut bytes, 1 + part.len() * (1 + usize::from(values)));
        encode_argument(&mut bytes, name);
        for (_, place) in part {
            order[*place] = parts.len();
            groups[*place].iter().for_each(|argument| encode_argument(&mut bytes, argument));
        }
        parts.push(Part { to: To::Slot(part[0].0), bytes: bytes.freeze(), replies: Replies::One });
    }
    let join = match join {
        PerSlot::Same => Join::First,
        PerSlot::Sum => Join::Sum,
        PerSlot::Items => Join::MgetOrder(order),
    };
    Some(Split::Many { parts, join })
}

/// The primary that the cursor is about, and the command with the cursor that it knows.
fn scan(command: &Command<'_>) -> Option<(usize, Part)> {
    let (index, cursor) = read_cursor(command.argument(1)?)?;
    let mut bytes = BytesMut::new();
    encode_head(&mut bytes, command.count());
    for (place, argument) in command.arguments().enumerate() {
        match place {
            1 => encode_argument(&mut bytes, itoa::Buffer::new().format(cursor).as_bytes()),
            _ => encode_argument(&mut bytes, argument),
        }
    }
    Some((index, Part { to: To::Nth(index), bytes: bytes.freeze(), replies: Replies::One }))
}

fn transaction(bytes: Bytes, count: usize) -> Result<Split> {
    let mut common = None;
    for command in commands(&bytes, count)? {
        let command = read(&command)?;
        let name = command.name();
        let way = Way::of(&name, &command);
        if matches!(way, Way::EveryPrimary(_) | Way::Scan) {
            return Err(Error::range_error(format!(
                "{} asks every primary of the cluster, and a multi() runs on one server; call it outside.",
                String::from_utf8_lossy(&name)
            )));
        }
        for key in way.keys(&command) {
            if *common.get_or_insert(slot(key)) != slot(key) {
                return Err(apart("this multi()", "a transaction"));
            }
        }
    }
    let to = common.map_or(To::AnyPrimary, To::Slot);
    Ok(Split::One(Part { to, bytes, replies: Replies::Array(count) }))
}

fn pipeline(bytes: Bytes, count: usize) -> Result<Split> {
    let (mut all, mut pieces) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for command in commands(&bytes, count)? {
        let (answers, join) = match split_command(command)? {
            Split::One(part) => {
                all.push(part);
                (Answers::Parts(1), Join::First)
            }
            Split::Many { parts, join } => {
                let every = parts.iter().any(|part| part.to == To::EveryPrimary);
                let answers = if every { Answers::EveryPrimary } else { Answers::Parts(parts.len()) };
                all.extend(parts);
                (answers, join)
            }
        };
        pieces.push(Piece { answers, join });
    }
    Ok(Split::Many { parts: all, join: Join::Each(pieces) })
}

/// The bytes of each of so many commands.
fn commands(bytes: &Bytes, count: usize) -> Result<Vec<Bytes>> {
    let mut rest = bytes.clone();
    let mut commands = Vec::with_capacity(count);
    while !rest.is_empty() {
        let length = read(&rest)?.length().ok_or_else(unreadable)?;
        commands.push(rest.split_to(length));
    }
    if commands.len() == count { Ok(commands) } else { Err(unreadable()) }
}
