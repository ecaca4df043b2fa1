//! `pipeline()` and `multi()`: commands that are collected, and sent as one request.

use super::Call;
use super::client::{Client, Prepared, Tied, submit};
use super::command::{Arguments, by_name, in_batch};
use super::raw::{Frame, Function, Member, NOTHING, Tagged};
use super::reply::Reply;
use super::values::{Js, Value};
use crate::client::methods::{METHODS, Method};
use crate::client::rules::{Rule, rule};
use crate::client::shape::Shape;
use crate::config::MAX_BATCH;
use crate::error::{Error, Result};
use crate::redis_request::{Replies, encode};
use crate::redis_value::Value as RedisValue;
use bytes::BytesMut;
use napi::sys::napi_type_tag;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Whether a batch is a transaction.
pub const PIPELINE: &bool = &false;
pub const TRANSACTION: &bool = &true;

/// What an object of the class is tied to.
struct Commands {
    client: Rc<Client>,
    transaction: bool,
    bytes: RefCell<BytesMut>,
    /// Of each command, the shape of its reply.
    shapes: RefCell<Vec<Shape>>,
    /// None of the commands changes anything.
    repeatable: Cell<bool>,
    executed: Cell<bool>,
}

impl Tagged for Commands {
    const TAG: napi_type_tag = napi_type_tag { lower: 0x1f8e_a23c_74d6_5b09, upper: 0x3b92_c7e4_0d51_f86a };
}

fn commands<'scope>(frame: &Frame<'scope>) -> Result<&'scope Commands> {
    // SAFETY: every function here that asks is a method of the class whose constructor wraps `Commands`.
    unsafe { frame.call.js.unwrap(frame.this()) }
}

/// The class, for this environment. Only `New` makes objects of it.
pub fn class<'scope>(js: Js<'scope>) -> Result<Value<'scope>> {
    let fitting = METHODS.iter().filter(|method| method.rule != Rule::Blocks);
    let mut members: Vec<_> = fitting.map(|method| Member::method::<Typed, _>(method.name, method)).collect();
    members.extend([
        Member::method::<Named, _>("call", NOTHING),
        Member::method::<Eval, _>("eval", NOTHING),
        Member::method::<Exec, _>("exec", NOTHING),
        Member::getter::<Length>("length"),
    ]);
    js.define_class::<Construct>("RedisBatch", &members)
}

struct Construct;

impl Function for Construct {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        let Some((client, transaction)) = state.making_batch.take().filter(|_| frame.constructing()) else {
            return Err(Error::type_error("A batch is made by pipeline() or multi()."));
        };
        let commands = Commands {
            client,
            transaction,
            bytes: RefCell::default(),
            shapes: RefCell::default(),
            repeatable: Cell::new(!transaction),
            executed: Cell::new(false),
        };
        if transaction {
            encode(&mut commands.bytes.borrow_mut(), &["MULTI"]);
        }
        js.wrap(frame.this(), commands)?;
        Ok(frame.this())
    }
}

/// `pipeline` or `multi` of a client.
pub struct New;

impl Function for New {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        // SAFETY: it is a method of the class whose constructor wraps a `Tied`, and has one of the two constants above.
        let (Tied(client), transaction) = unsafe { (js.unwrap(frame.this())?, *frame.data::<bool>()) };
        state.making_batch.set(Some((client.clone(), transaction)));
        js.construct(state.batch_class(js)?, &[])
    }
}

impl Commands {
    fn add(&self, arguments: &Arguments<'_>, shape: Shape, repeatable: bool) -> Result<()> {
        if self.executed.get() {
            return Err(Error::type_error("exec() was called already; make another batch."));
        }
        let mut shapes = self.shapes.borrow_mut();
        if shapes.len() >= MAX_BATCH {
            return Err(Error::range_error(format!("A batch has at most {MAX_BATCH} commands; split it.")));
        }
        arguments.encode_into(&mut self.bytes.borrow_mut());
        shapes.push(shape);
        self.repeatable.set(self.repeatable.get() && repeatable);
        Ok(())
    }
}

/// A method of the table; gives the batch back.
struct Typed;

impl Function for Typed {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let commands = commands(&frame)?;
        // SAFETY: `class` made every `Typed` with a method of the table.
        let method: &'static Method = unsafe { frame.data() };
        let mut arguments = Arguments::new(frame.call);
        arguments.of_method(method, &frame)?;
        let repeatable = in_batch(method.command, method.rule, commands.transaction)?;
        commands.add(&arguments, method.shape, repeatable)?;
        Ok(frame.this())
    }
}

/// Any command, by its name; gives the batch back.
struct Named;

impl Function for Named {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let commands = commands(&frame)?;
        let name = by_name(frame.call.js, &frame)?;
        let mut arguments = Arguments::new(frame.call);
        arguments.word(name.as_bytes());
        arguments.rest(&frame, &name)?;
        let rule = rule(name.as_bytes(), &arguments.plain()[1..]);
        let repeatable = in_batch(&name, rule, commands.transaction)?;
        commands.add(&arguments, Shape::of(name.as_bytes()), repeatable)?;
        Ok(frame.this())
    }
}

/// A script, whole: a batch is sent once, and cannot wait for whether the server knows it.
struct Eval;

impl Function for Eval {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let commands = commands(&frame)?;
        let js = frame.call.js;
        let mut arguments = Arguments::new(frame.call);
        arguments.word(b"EVAL");
        arguments.word(super::args::text(js, frame.argument(0), "script")?.as_bytes());
        arguments.keys_and_args(frame.argument(1), frame.argument(2))?;
        commands.add(&arguments, Shape::Plain, false)?;
        Ok(frame.this())
    }
}

struct Length;

impl Function for Length {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let commands = frame.call.js.unwrap_tagged::<Commands>(frame.this())?;
        let length = commands.shapes.borrow().len();
        frame.call.js.integer(i64::try_from(length).unwrap_or(i64::MAX))
    }
}

struct Exec;

impl Function for Exec {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let commands = commands(&frame)?;
        let Call { js, state } = frame.call;
        if commands.shapes.borrow().is_empty() && !commands.executed.replace(true) {
            return super::completions::resolved(js, state, Reply::Json("[]".into()));
        }
        let prepare = || {
            if commands.executed.replace(true) {
                return Err(Error::type_error("exec() was called already; make another batch."));
            }
            let (mut bytes, shapes) = (commands.bytes.take(), commands.shapes.take());
            let transaction = commands.transaction;
            if transaction {
                encode(&mut bytes, &["EXEC"]);
            }
            let replies = Replies::Array(shapes.len() + if transaction { 2 } else { 0 });
            let answer = move |result: Result<RedisValue>, server: &Arc<str>| {
                let replies = if transaction { of_transaction(result, server)? } else { of_pipeline(result)? };
                let pairs = replies.into_iter().zip(shapes).map(|(reply, shape)| pair(reply, shape)).collect();
                Reply::redis(RedisValue::Array(pairs), super::reply::Encoding::Text, server)
            };
            let encode = move |out: &mut BytesMut| out.extend_from_slice(&bytes);
            Ok(Prepared { encode, replies, repeatable: commands.repeatable.get(), answer })
        };
        submit(frame.call, &commands.client, prepare, |_| None)
    }
}

fn of_pipeline(result: Result<RedisValue>) -> Result<Vec<RedisValue>> {
    let RedisValue::Array(replies) = result? else { return Err(unexpected()) };
    Ok(replies)
}

/// What `EXEC` gave; an error if the transaction was not executed.
fn of_transaction(result: Result<RedisValue>, server: &Arc<str>) -> Result<Vec<RedisValue>> {
    let RedisValue::Array(mut replies) = result? else { return Err(unexpected()) };
    let refused = |text| Error::Reply { server: server.clone(), text };
    let executed = replies.pop();
    let mut replies = replies.into_iter();
    match (replies.next(), executed) {
        // Where MULTI is refused (an ACL), what follows it is no transaction, but has left already.
        (Some(RedisValue::Error(text)), _) if replies.any(|reply| !matches!(reply, RedisValue::Error(_))) => {
            Err(refused(format!("{text} (the commands were executed, but not as a transaction)")))
        }
        (Some(RedisValue::Error(text)), _) | (_, Some(RedisValue::Error(text))) => Err(refused(text)),
        (_, Some(RedisValue::Array(replies))) => Ok(replies),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    Error::Internal("a batch has no array of replies".into())
}

/// The error or the reply, as a pair of which the other is `null`.
fn pair(reply: RedisValue, shape: Shape) -> RedisValue {
    RedisValue::Array(match reply {
        error @ RedisValue::Error(_) => vec![error],
        reply => vec![RedisValue::Null, shape.of_reply(reply)],
    })
}
