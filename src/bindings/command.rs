//! The arguments of a Redis command: read from JavaScript, checked, and encoded in one go.

use super::Call;
use super::args::{self, MAX_COMMAND_ARGUMENTS};
use super::environment::State;
use super::raw::Frame;
use super::values::{Js, Kind, Value};
use crate::client::methods::{Method, Takes};
use crate::client::rules::Rule;
use crate::error::{Error, Result};
use crate::redis_request::{encode_argument, encode_head};
use bytes::{Bytes, BytesMut};
use std::mem::MaybeUninit;

/// Most strings fit; longer ones are measured first and then copied once more.
const SHORT: usize = 1024;

/// Longest argument: `proto-max-bulk-len` at its default. For a longer one Redis ends the connection, which is everybody's.
const MAX_ARGUMENT: usize = 512 * 1024 * 1024;

/// Arguments, encoded as they are read.
pub struct Arguments<'scope> {
    js: Js<'scope>,
    state: &'scope State,
    bytes: BytesMut,
    count: usize,
}

/// A buffer larger than this is not kept for the next command.
const MAX_SCRATCH: usize = 64 * 1024;

impl Drop for Arguments<'_> {
    fn drop(&mut self) {
        if self.bytes.capacity() <= MAX_SCRATCH {
            self.bytes.clear();
            self.state.scratch.set(std::mem::take(&mut self.bytes));
        }
    }
}

impl<'scope> Arguments<'scope> {
    pub fn new(Call { js, state }: Call<'scope>) -> Self {
        Self { js, state, bytes: state.scratch.take(), count: 0 }
    }

    /// Adds an argument of our own.
    pub fn word(&mut self, word: &[u8]) {
        encode_argument(&mut self.bytes, word);
        self.count += 1;
    }

    /// Adds what the caller passed: a string, a number as JavaScript writes it, or bytes. `name` is for messages.
    pub fn add(&mut self, value: Value<'_>, name: &dyn Fn() -> String) -> Result<()> {
        if !self.add_short(value)? {
            let argument = args::redis_argument(self.js, value, name)?;
            if argument.len() > MAX_ARGUMENT {
                let (name, length) = (name(), argument.len());
                return Err(Error::range_error(format!(
                    "{name} must have {MAX_ARGUMENT} bytes at most, got {length}."
                )));
            }
            self.word(&argument);
        }
        if self.count > MAX_COMMAND_ARGUMENTS as usize {
            return Err(Error::range_error(format!("A command has {MAX_COMMAND_ARGUMENTS} arguments at most.")));
        }
        Ok(())
    }

    /// The usual case, without looking at the value twice: a short string.
    fn add_short(&mut self, value: Value<'_>) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); SHORT];
        let Some(text) = self.js.try_read_short(value, &mut buffer)? else { return Ok(false) };
        encode_argument(&mut self.bytes, text);
        self.count += 1;
        Ok(true)
    }

    fn named(&mut self, value: Value<'_>, name: &str) -> Result<()> {
        self.add(value, &|| name.to_owned())
    }

    /// Adds everything that a method takes.
    pub fn of_method(&mut self, method: &Method, frame: &Frame<'_>) -> Result<()> {
        self.word(method.command.as_bytes());
        let mut at = 0;
        for takes in method.takes {
            at += self.of_parameter(*takes, frame, at)?;
        }
        Ok(())
    }

    /// Adds one parameter and says how many arguments it was.
    fn of_parameter(&mut self, takes: Takes, frame: &Frame<'_>, at: usize) -> Result<usize> {
        let (js, value) = (self.js, frame.argument(at));
        match takes {
            Takes::One(name) => self.named(value, name)?,
            Takes::Text(name) => {
                args::text(js, value, name)?;
                self.named(value, name)?;
            }
            Takes::OptionalText(name) if js.kind(value)? != Kind::Undefined => {
                args::text(js, value, name)?;
                self.named(value, name)?;
            }
            Takes::OptionalText(_) => {}
            Takes::Whole(name) => {
                args::whole_or_text(js, value, name)?;
                self.named(value, name)?;
            }
            Takes::Cursor(name) => {
                args::whole_or_text(js, value, name)?;
                if js.kind(value)? == Kind::Number && js.read_number(value)? < 0.0 {
                    return Err(Error::range_error(format!("{name} must be a whole number from 0.")));
                }
                self.named(value, name)?;
            }
            Takes::Score(name) => self.score(value, name)?,
            Takes::Seconds(name) => {
                args::seconds(js, value, name)?;
                self.named(value, name)?;
            }
            Takes::Expiry(name) => {
                if let Some(seconds) = args::optional_whole(js, value, name, u32::MAX)?.filter(|seconds| *seconds > 0) {
                    self.word(b"EX");
                    self.word(seconds.to_string().as_bytes());
                }
            }
            Takes::Option(word, name) if js.kind(value)? != Kind::Undefined => {
                self.word(word.as_bytes());
                if name == "count" {
                    let count = args::optional_whole(js, value, name, u32::MAX)?.unwrap_or_default();
                    if count == 0 {
                        return Err(Error::range_error("count must be a whole number from 1, got 0."));
                    }
                } else {
                    args::text(js, value, name)?;
                }
                self.named(value, name)?;
            }
            Takes::Option(..) => {}
            Takes::WithScores(name) => {
                if args::with_scores(js, value, name)? {
                    self.word(b"WITHSCORES");
                }
            }
            Takes::Many(name) => return self.many(frame, at, name),
            Takes::ScoresAndMembers(name) => {
                let count = frame.count().saturating_sub(at);
                if count < 2 {
                    return Err(Error::type_error(format!("{name} must be a score and a member at least.")));
                }
                for index in at..frame.count() {
                    self.score(frame.argument(index), name)?;
                }
                return Ok(count);
            }
            Takes::Record(name) => self.record(value, name)?,
            Takes::FieldsOrRecord if frame.count() <= at + 1 && js.kind(value)? == Kind::Object => {
                self.record(value, "record")?;
            }
            Takes::FieldsOrRecord => {
                self.named(value, "field")?;
                self.named(frame.argument(at + 1), "value")?;
                return Ok(2);
            }
            Takes::Config => {
                let setting = args::config_action(js, value)?;
                self.word(if setting { b"SET" } else { b"GET" });
                args::text(js, frame.argument(at + 1), "parameter")?;
                self.named(frame.argument(at + 1), "parameter")?;
                if setting {
                    self.named(frame.argument(at + 2), "value")?;
                }
                return Ok(3);
            }
        }
        Ok(1)
    }

    fn many(&mut self, frame: &Frame<'_>, at: usize, name: &str) -> Result<usize> {
        let count = frame.count().saturating_sub(at);
        if count == 0 {
            return Err(Error::type_error(format!("{name} must be one or more, got none.")));
        }
        for index in at..frame.count() {
            self.named(frame.argument(index), name)?;
        }
        Ok(count)
    }

    /// A number, infinity included, or a string for Redis to judge.
    fn score(&mut self, value: Value<'_>, name: &str) -> Result<()> {
        if self.js.kind(value)? == Kind::Number {
            let number = self.js.read_number(value)?;
            if number.is_infinite() {
                self.word(if number > 0.0 { b"+inf" } else { b"-inf" });
                return Ok(());
            }
        }
        self.named(value, name)
    }

    /// Keys and values of an object by turns.
    fn record(&mut self, record: Value<'_>, name: &str) -> Result<()> {
        let js = self.js;
        if !is_record(js, record)? {
            return Err(args::wrong_type(js, record, name, "an object"));
        }
        let names = js.own_names(record).map_err(|_| Error::type_error(format!("{name} could not be read.")))?;
        let length = js.array_length(names)?.unwrap_or(0);
        if length == 0 {
            return Err(Error::range_error(format!("{name} must have an entry at least, got none.")));
        }
        for index in 0..length {
            js.scope(|js| {
                let key = js.get_index(names, index)?;
                let unreadable = |_| Error::type_error(format!("An entry of {name} could not be read."));
                let value = js.get_key(record, key).map_err(unreadable)?;
                self.named(key, name)?;
                self.add(value, &|| format!("An entry of {name}"))
            })??;
        }
        Ok(())
    }

    /// Adds what follows the name of a command that is called by name.
    pub fn rest(&mut self, frame: &Frame<'_>, command: &str) -> Result<()> {
        for index in 1..frame.count() {
            self.add(frame.argument(index), &|| format!("Argument {index} of {command}"))?;
        }
        Ok(())
    }

    /// Adds the number of keys, the keys, and what else a script is given.
    pub fn keys_and_args(&mut self, keys: Value<'_>, args: Value<'_>) -> Result<()> {
        let length = |name, value| {
            self.js.array_length(value)?.ok_or_else(|| args::wrong_type(self.js, value, name, "an array"))
        };
        let (keys_length, args_length) = (length("keys", keys)?, length("args", args)?);
        self.word(keys_length.to_string().as_bytes());
        for (name, array, length) in [("keys", keys, keys_length), ("args", args, args_length)] {
            for index in 0..length {
                let unreadable = |_| Error::type_error(format!("{name}[{index}] could not be read."));
                self.js.scope(|js| {
                    let value = js.get_index(array, index).map_err(unreadable)?;
                    self.add(value, &|| format!("{name}[{index}]"))
                })??;
            }
        }
        Ok(())
    }

    /// Adds the arguments of another.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
    }

    /// Appends the whole command.
    pub fn encode_into(&self, out: &mut BytesMut) {
        encode_head(out, self.count);
        out.extend_from_slice(&self.bytes);
    }

    /// The whole command, encoded.
    pub fn encoded(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes.len() + 16);
        self.encode_into(&mut out);
        out.freeze()
    }

    /// The arguments one by one.
    pub fn plain(&self) -> Vec<Bytes> {
        let mut rest = Bytes::copy_from_slice(&self.bytes);
        let mut plain = Vec::with_capacity(self.count);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\r') {
            let length = std::str::from_utf8(&rest[1..end]).ok().and_then(|length| length.parse().ok()).unwrap_or(0);
            plain.push(rest.slice(end + 2..end + 2 + length));
            rest = rest.slice(end + 2 + length + 2..);
        }
        plain
    }
}

/// A command that is called by its name: the name in upper case, and what may become of it.
pub fn by_name(js: Js<'_>, frame: &Frame<'_>) -> Result<String> {
    let name = args::text(js, frame.argument(0), "command")?;
    if name.is_empty() || name.len() > 64 {
        return Err(Error::range_error(format!("command must have 1 to 64 characters, got {}.", name.len())));
    }
    Ok(name.to_uppercase())
}

/// The error for a command that is not to be sent.
pub fn refused(name: &str, advice: &str) -> Error {
    Error::range_error(format!("{name} would change the state of a connection that others share: {advice}."))
}

/// Whether a command may be sent again, if it may be sent in a batch at all.
pub fn in_batch(name: &str, rule: Rule, transaction: bool) -> Result<bool> {
    match rule {
        Rule::Shared { repeatable } => Ok(repeatable),
        // In a transaction Redis answers at once.
        Rule::Blocks if transaction => Ok(false),
        Rule::Blocks => {
            Err(Error::range_error(format!("{name} may wait, and would hold up the batch: call it alone.")))
        }
        Rule::Refused(advice) => Err(refused(name, advice)),
    }
}

fn is_record(js: Js<'_>, value: Value<'_>) -> Result<bool> {
    Ok(js.kind(value)? == Kind::Object && !js.is_bytes(value)? && js.array_length(value)?.is_none())
}
