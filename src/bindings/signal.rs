//! `AbortSignal`, or what behaves like one: by it JavaScript ends what takes a while.

use super::args;
use super::environment::State;
use super::raw::{Frame, Function};
use super::values::{Js, Kind, Value};
use crate::error::{Error, Result};
use tokio_util::sync::CancellationToken;

/// A signal, checked.
#[derive(Clone, Copy)]
pub struct Signal<'scope> {
    object: Value<'scope>,
    add_listener: Value<'scope>,
    pub aborted: bool,
}

/// A signal that is listened to, and the listener, among the handlers of the environment.
pub struct Heard {
    signal: u64,
    listener: u64,
}

impl<'scope> Signal<'scope> {
    /// Reads an option that may be left out.
    pub fn of(js: Js<'scope>, object: Value<'scope>, name: &str) -> Result<Option<Self>> {
        let wrong = || args::wrong_type(js, object, name, "an AbortSignal");
        match js.kind(object)? {
            Kind::Undefined => return Ok(None),
            Kind::Object => {}
            _ => return Err(wrong()),
        }
        let read = |key| js.get(object, key).map_err(|_| Error::type_error(format!("{name} could not be read.")));
        let (aborted, add_listener) = (read(c"aborted")?, read(c"addEventListener")?);
        if js.kind(aborted)? != Kind::Boolean || js.kind(add_listener)? != Kind::Function {
            return Err(wrong());
        }
        Ok(Some(Self { object, add_listener, aborted: js.read_boolean(aborted)? }))
    }

    /// Cancels `stop` when it is aborted, until [`Heard::leave`].
    pub fn hear(self, js: Js<'scope>, state: &State, name: &str, stop: CancellationToken) -> Result<Heard> {
        let listener = js.function_with::<Abort, _>("abort", stop)?;
        let signal = state.handlers.add(js, self.object)?;
        let heard = match state.handlers.add(js, listener) {
            Ok(listener) => Heard { signal, listener },
            Err(error) => {
                state.handlers.remove(js, signal);
                return Err(error);
            }
        };
        let added = js.try_call_on(self.object, self.add_listener, &[js.string(b"abort")?, listener]);
        added.map_err(|thrown| {
            heard.release(js, state);
            Error::type_error(format!("{name} could not be listened to: {thrown}"))
        })?;
        Ok(heard)
    }
}

impl Heard {
    /// Takes the listener away. What the signal's own code throws is logged.
    pub fn leave(&self, js: Js<'_>, state: &State) {
        if let (Some(signal), Some(listener)) =
            (state.handlers.get(js, self.signal), state.handlers.get(js, self.listener))
        {
            let removed =
                js.get(signal, c"removeEventListener").map_err(|fault| fault.to_string()).and_then(|remove| {
                    let abort = js.string(b"abort").map_err(|fault| fault.to_string())?;
                    js.try_call_on(signal, remove, &[abort, listener])
                });
            if let Err(thrown) = removed {
                tracing::error!("a listener could not be removed from a signal: {thrown}");
            }
        }
        self.release(js, state);
    }

    fn release(&self, js: Js<'_>, state: &State) {
        state.handlers.remove(js, self.signal);
        state.handlers.remove(js, self.listener);
    }
}

/// The listener.
struct Abort;

impl Function for Abort {
    fn run(frame: Frame<'_>) -> Result<Value<'_>> {
        // SAFETY: `Signal::hear` makes the only functions with this body, and gives each a token to own.
        unsafe { frame.own::<CancellationToken>() }.cancel();
        frame.call.js.undefined()
    }
}
