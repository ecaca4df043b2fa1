//! `RedisClientWrapper`: a class whose methods are all one function, told apart by the table in [`METHODS`].

use super::command::{Arguments, by_name, refused};
use super::environment::State;
use super::raw::{Frame, Function, Member, NOTHING, Tagged};
use super::reply::{Encoding, Reply, Sessions};
use super::subscriptions::{self, Subscribe};
use super::values::{Js, Value};
use super::{Call, completions, promise_of};
use super::{args, batch, blocking, options};
use crate::client::methods::{METHODS, Method};
use crate::client::rules::{Rule, rule};
use crate::client::shape::Shape;
use crate::engine::redis::{Departure, ENDED, Entered, Lasting, Membership, PoolStats, Redis, Sizes};
use crate::error::{Error, Result};
use crate::process;
use crate::redis_request::{Answered, Batch, Replies};
use crate::redis_url::RedisUrl;
use crate::redis_value::Value as RedisValue;
use crate::resilience::breaker::State as Breaker;
use bytes::BytesMut;
use napi::sys::napi_type_tag;
use sha1::{Digest, Sha1};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Which server a client is for.
pub enum Target {
    /// Where `REDIS_URL` points, as the engine read it.
    Own,
    At(RedisUrl),
}

/// What a client object is tied to. It belongs to one environment.
pub struct Client {
    target: Target,
    sizes: Sizes,
    from_replicas: bool,
    closed: Cell<bool>,
    membership: RefCell<Option<Arc<Membership>>>,
    /// Ends what waits on a connection of its own.
    pub ending: CancellationToken,
}

impl Client {
    pub fn new(state: &State, target: Target, sizes: Sizes, from_replicas: bool) -> Self {
        let (closed, membership) = (Cell::new(false), RefCell::default());
        Self { target, sizes, from_replicas, closed, membership, ending: state.ending.child_token() }
    }

    /// Lets a call in, on the pool of this client; opens what is not open.
    pub fn enter(&self, call: Call<'_>) -> Result<Entered> {
        // A pool may be retired between finding it and using it, but hardly thrice.
        for _ in 0..3 {
            let membership = self.membership.borrow();
            if let Some(membership) = &*membership
                && !self.closed.get()
                && let Some(entered) = membership.redis().enter()?
            {
                return Ok(entered);
            }
            drop(membership);
            self.redis(call)?;
        }
        Err(Error::Internal("the pool was closed again and again".into()))
    }

    /// The pool of this client, for something that lasts.
    pub fn lasting(&self, call: Call<'_>) -> Result<Lasting> {
        for _ in 0..3 {
            if let Some(lasting) = self.membership(call)?.last()? {
                return Ok(lasting);
            }
        }
        Err(Error::Internal("the pool was closed again and again".into()))
    }

    /// The pool of this client.
    pub fn redis(&self, call: Call<'_>) -> Result<Arc<Redis>> {
        Ok(self.membership(call)?.redis().clone())
    }

    fn membership(&self, call: Call<'_>) -> Result<Arc<Membership>> {
        if self.closed.get() {
            return Err(ENDED);
        }
        if let Some(membership) = &*self.membership.borrow()
            && !membership.redis().is_retired()
        {
            return Ok(membership.clone());
        }
        // An engine may be shut down by another thread between finding it and using it; then there is a new one.
        for _ in 0..3 {
            let engine = call.engine()?;
            let url = match &self.target {
                Target::Own => engine.redis_url().ok_or(Error::NotConfigured("REDIS_URL"))?,
                Target::At(url) => url,
            };
            if let Some(membership) = engine.servers().join(url, self.sizes, &process::runtime()?) {
                let membership = Arc::new(membership);
                self.membership.replace(Some(membership.clone()));
                return Ok(membership);
            }
        }
        Err(ENDED)
    }

    /// The pool, if it is open.
    fn opened(&self) -> Option<Arc<Redis>> {
        let membership = self.membership.borrow();
        let redis = membership.as_ref()?.redis();
        (!redis.is_retired()).then(|| redis.clone())
    }

    /// The breaker of its server, also where another client has opened it.
    fn breaker(&self) -> Breaker {
        let Some(engine) = process::opened() else { return Breaker::Closed };
        match &self.target {
            Target::Own => engine.breakers().redis,
            Target::At(url) => engine.servers().breaker(url),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Ends the client for good.
    pub fn close(&self) {
        self.closed.set(true);
        self.ending.cancel();
        if let Some(membership) = self.membership.take()
            && let Some(engine) = process::opened()
        {
            engine.servers().leave(&membership);
        }
    }
}

/// A client as objects refer to it: the client itself, and its batches.
pub struct Tied(pub Rc<Client>);

impl Tagged for Tied {
    const TAG: napi_type_tag = napi_type_tag { lower: 0x7c1f_63e2_90b8_4d15, upper: 0xa4d0_5b37_1e6c_92f8 };
}

/// The client of a method's receiver.
pub fn tied<'scope>(frame: &Frame<'scope>) -> Result<&'scope Rc<Client>> {
    // SAFETY: every function here that asks is a method of the class whose constructor wraps a `Tied`.
    unsafe { frame.call.js.unwrap::<Tied>(frame.this()) }.map(|Tied(client)| client)
}

/// The class, for this environment.
pub fn class<'scope>(js: Js<'scope>) -> Result<Value<'scope>> {
    let mut members: Vec<_> = METHODS.iter().map(|method| Member::method::<Typed, _>(method.name, method)).collect();
    members.extend([
        Member::method::<Named, _>("call", &Encoding::Text),
        Member::method::<Named, _>("callBuffer", &Encoding::Buffers),
        Member::method::<Eval, _>("eval", NOTHING),
        Member::method::<batch::New, _>("pipeline", batch::PIPELINE),
        Member::method::<batch::New, _>("multi", batch::TRANSACTION),
        Member::method::<Subscribe, _>("subscribe", subscriptions::CHANNEL),
        Member::method::<Subscribe, _>("psubscribe", subscriptions::PATTERN),
        Member::method::<Close, _>("close", NOTHING),
        Member::method::<Health, _>("healthCheck", NOTHING),
        Member::method::<Stats, _>("getPoolStats", NOTHING),
        Member::method::<BreakerState, _>("getBreakerState", NOTHING),
    ]);
    js.define_class::<Construct>("RedisClientWrapper", &members)
}

struct Construct;

impl Function for Construct {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        if !frame.constructing() {
            return Err(Error::type_error("RedisClientWrapper is a class: call it with new."));
        }
        let client = if state.making_own_client.take() {
            Client::new(state, Target::Own, options::OWN_SIZES, false)
        } else {
            let connection = options::connection(js, frame.argument(0), frame.argument(1))?;
            let options::Connection { url, sizes, from_replicas } = connection;
            Client::new(state, Target::At(url), sizes, from_replicas)
        };
        js.wrap(frame.this(), Tied(Rc::new(client)))?;
        Ok(frame.this())
    }
}

/// What to send, and what its answer is for JavaScript.
pub struct Prepared<E, A> {
    /// Appends the bytes.
    pub encode: E,
    pub replies: Replies,
    pub repeatable: bool,
    pub answer: A,
}

/// Something that is done before the answer goes on.
pub type Around = Box<dyn FnOnce(Answered) -> Answered>;

/// Sends what `prepare` gives, with what else this tick sends.
pub fn submit<'scope, E, A>(
    call: Call<'scope>,
    client: &Client,
    prepare: impl FnOnce() -> Result<Prepared<E, A>>,
    around: impl FnOnce(&Arc<Redis>) -> Option<Around>,
) -> Result<Value<'scope>>
where
    E: FnOnce(&mut BytesMut),
    A: FnOnce(Result<RedisValue>, &Arc<str>) -> Result<Reply> + Send + 'static,
{
    let Call { js, state } = call;
    let (deferred, promise) = js.promise()?;
    let ready = prepare().and_then(|prepared| Ok((prepared, client.enter(call)?, state.completions(js)?)));
    match ready {
        Ok((Prepared { encode, replies, repeatable, answer }, entered, completions)) => {
            let ticket = completions.ticket(js, deferred);
            state.tick.push(js, state, entered, encode, |entered, length| {
                let around = around(entered.redis());
                let answered = move |result, server: &Arc<str>| ticket.settle(answer(result, server));
                let mut request = entered.request(length, replies, repeatable, answered);
                request.by_replica = repeatable && client.from_replicas;
                if let Some(around) = around {
                    request.answered = around(request.answered);
                }
                request
            });
        }
        Err(failure) => completions::settle(js, state, deferred, Err(failure), &mut Sessions::default()),
    }
    Ok(promise)
}

/// One command whose reply is given in this form.
fn send<'scope>(
    call: Call<'scope>,
    client: &Client,
    encoding: Encoding,
    prepare: impl FnOnce() -> Result<(Arguments<'scope>, bool, Shape)>,
) -> Result<Value<'scope>> {
    let prepare = || {
        let (arguments, repeatable, shape) = prepare()?;
        let encode = move |bytes: &mut BytesMut| arguments.encode_into(bytes);
        let answer = move |result: Result<RedisValue>, server: &Arc<str>| {
            Reply::redis(shape.of_reply(result?), encoding, server)
        };
        Ok(Prepared { encode, replies: Replies::One, repeatable, answer })
    };
    submit(call, client, prepare, |_| None)
}

/// A method of the table.
struct Typed;

impl Function for Typed {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let client = tied(&frame)?;
        // SAFETY: `class` made every `Typed` with a method of the table.
        let method: &'static Method = unsafe { frame.data() };
        let arguments = || {
            let mut arguments = Arguments::new(frame.call);
            arguments.of_method(method, &frame).map(|()| arguments)
        };
        match method.rule {
            Rule::Shared { repeatable } => send(frame.call, client, Encoding::Text, || {
                arguments().map(|arguments| (arguments, repeatable, method.shape))
            }),
            Rule::Blocks => blocking::wait(frame.call, client, Encoding::Text, arguments),
            Rule::Refused(advice) => Err(refused(method.command, advice)),
        }
    }
}

/// Any command, by its name.
struct Named;

impl Function for Named {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let client = tied(&frame)?;
        // SAFETY: `class` made every `Named` with an encoding.
        let encoding = *unsafe { frame.data::<Encoding>() };
        let js = frame.call.js;
        let arguments = || {
            let name = by_name(js, &frame)?;
            let mut arguments = Arguments::new(frame.call);
            arguments.word(name.as_bytes());
            arguments.rest(&frame, &name)?;
            let rule = rule(name.as_bytes(), &arguments.plain()[1..]);
            Ok((name, arguments, rule))
        };
        match arguments() {
            Ok((_, arguments, Rule::Blocks)) => blocking::wait(frame.call, client, encoding, || Ok(arguments)),
            read => send(frame.call, client, encoding, || match read? {
                (name, arguments, Rule::Shared { repeatable }) => {
                    Ok((arguments, repeatable, Shape::of(name.as_bytes())))
                }
                (name, _, Rule::Refused(advice)) => Err(refused(&name, advice)),
                (name, _, Rule::Blocks) => Err(Error::Internal(format!("{name} was not told from others"))),
            }),
        }
    }
}

/// A script: by its SHA-1, and whole where the server does not know it, which means that it did not run.
struct Eval;

impl Function for Eval {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let client = tied(&frame)?;
        let js = frame.call.js;
        let read = || {
            let script = args::text(js, frame.argument(0), "script")?;
            let mut arguments = Arguments::new(frame.call);
            arguments.keys_and_args(frame.argument(1), frame.argument(2))?;
            Ok((script, arguments))
        };
        let read = read();
        let whole = read.as_ref().ok().map(|(script, arguments)| {
            let mut whole = Arguments::new(frame.call);
            whole.word(b"EVAL");
            whole.word(script.as_bytes());
            whole.append(arguments);
            whole.encoded()
        });
        let prepare = || {
            let (script, rest) = read?;
            let mut arguments = Arguments::new(frame.call);
            arguments.word(b"EVALSHA");
            arguments.word(hex::encode(Sha1::digest(script)).as_bytes());
            arguments.append(&rest);
            let encode = move |bytes: &mut BytesMut| arguments.encode_into(bytes);
            let answer = move |result: Result<RedisValue>, server: &Arc<str>| {
                Reply::redis(Shape::Plain.of_reply(result?), Encoding::Text, server)
            };
            Ok(Prepared { encode, replies: Replies::One, repeatable: false, answer })
        };
        let around = |redis: &Arc<Redis>| -> Option<Around> {
            let redis = redis.clone();
            let whole = whole?;
            Some(Box::new(move |answered| {
                Box::new(move |result| match result {
                    Err(error) if error.is_unknown_script() => {
                        // With a deadline of its own: it is another command.
                        let batch = Batch::of(BytesMut::from(&whole[..]), None, answered);
                        redis.send(batch, Departure::Soon);
                    }
                    result => answered(result),
                })
            }))
        };
        submit(frame.call, client, prepare, around)
    }
}

struct Close;

impl Function for Close {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        tied(&frame)?.close();
        completions::resolved(js, state, Reply::Undefined)
    }
}

struct Health;

impl Function for Health {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let client = tied(&frame)?;
        promise_of(frame.call, |call| {
            let redis = client.redis(call);
            Ok(async move {
                Ok(Reply::Boolean(match redis {
                    Ok(redis) => redis.health().await,
                    Err(_) => false,
                }))
            })
        })
    }
}

struct Stats;

impl Function for Stats {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let Call { js, state } = frame.call;
        let stats = tied(&frame)?.opened().map_or_else(PoolStats::default, |redis| redis.stats());
        Reply::object(&stats)?.into_value(js, state, &mut Sessions::default())
    }
}

struct BreakerState;

impl Function for BreakerState {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        let state = tied(&frame)?.breaker();
        frame.call.js.string(state.as_str().as_bytes())
    }
}
