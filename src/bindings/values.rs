//! JavaScript values during one callback: a checked layer over the few Node-API functions that this package needs.
//!
//! A [`Value`] cannot outlive its callback or its handle scope, and no function here leaves an exception pending.

use crate::error::{Error, Result};
use napi::bindgen_prelude::Unknown;
use napi::{JsValue, sys};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

/// A JavaScript value that lives as long as its handle scope.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Value<'scope> {
    raw: sys::napi_value,
    scope: PhantomData<&'scope ()>,
}

impl Value<'_> {
    /// # Safety
    /// The value is live for as long as the lifetime says.
    pub unsafe fn from_raw(raw: sys::napi_value) -> Self {
        Self { raw, scope: PhantomData }
    }

    /// The value for Node-API functions that are not wrapped here.
    pub fn raw(self) -> sys::napi_value {
        self.raw
    }
}

impl<'scope> From<Unknown<'scope>> for Value<'scope> {
    fn from(argument: Unknown<'scope>) -> Self {
        Self { raw: argument.raw(), scope: PhantomData }
    }
}

/// A value kept beyond its callback. Only `Js::release` gives it back.
pub struct Reference(sys::napi_ref);

/// The right to settle one promise, once. It may travel between threads; only its own one may use it.
pub struct Deferred(sys::napi_deferred);

// SAFETY: the pointer is only carried elsewhere; `Js::resolve` and `Js::reject` need a `Js`, which never leaves its thread.
unsafe impl Send for Deferred {}

/// What `typeof` says, with `null` told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Undefined,
    Null,
    Boolean,
    Number,
    String,
    Symbol,
    Object,
    Function,
    Bigint,
}

impl Kind {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::String => "string",
            Self::Symbol => "symbol",
            Self::Object => "object",
            Self::Function => "function",
            Self::Bigint => "bigint",
        }
    }
}

/// JavaScript during one callback, on its thread.
#[derive(Clone, Copy)]
pub struct Js<'scope> {
    env: sys::napi_env,
    scope: PhantomData<&'scope ()>,
}

impl<'scope> Js<'scope> {
    /// # Safety
    /// `env` belongs to a callback that runs on this thread, inside a handle scope, and both outlive `'scope`.
    pub unsafe fn new(env: sys::napi_env) -> Self {
        Self { env, scope: PhantomData }
    }

    /// The environment for Node-API functions that are not wrapped here.
    pub fn env(self) -> sys::napi_env {
        self.env
    }

    /// Turns a failed status into an error, and takes away the exception that may come with it.
    pub fn check(self, status: sys::napi_status, what: &'static str) -> Result<()> {
        if status == sys::Status::napi_ok {
            return Ok(());
        }
        let mut pending = false;
        let mut exception = null_mut();
        // SAFETY: the environment is live, and both results are local; outside of an exception nothing is cleared.
        unsafe {
            sys::napi_is_exception_pending(self.env, &raw mut pending);
            if pending {
                sys::napi_get_and_clear_last_exception(self.env, &raw mut exception);
            }
        }
        Err(Error::Internal(format!("{what} failed in Node-API with status {status}")))
    }

    /// Runs a Node-API function that makes one value.
    pub fn make(
        self,
        what: &'static str,
        function: impl FnOnce(sys::napi_env, *mut sys::napi_value) -> sys::napi_status,
    ) -> Result<Value<'scope>> {
        let mut raw = null_mut();
        self.check(function(self.env, &raw mut raw), what)?;
        Ok(Value { raw, scope: PhantomData })
    }

    pub fn undefined(self) -> Result<Value<'scope>> {
        // SAFETY: `make` passes a live environment and a place for the result.
        self.make("undefined", |env, result| unsafe { sys::napi_get_undefined(env, result) })
    }

    pub fn null(self) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("null", |env, result| unsafe { sys::napi_get_null(env, result) })
    }

    pub fn boolean(self, value: bool) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("a boolean", |env, result| unsafe { sys::napi_get_boolean(env, value, result) })
    }

    pub fn number(self, value: f64) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("a number", |env, result| unsafe { sys::napi_create_double(env, value, result) })
    }

    pub fn integer(self, value: i64) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("an integer", |env, result| unsafe { sys::napi_create_int64(env, value, result) })
    }

    /// A string; bytes that are no UTF-8 become U+FFFD. ASCII is copied as it is, which is several times faster.
    pub fn string(self, bytes: &[u8]) -> Result<Value<'scope>> {
        let (start, length) = (bytes.as_ptr().cast(), bytes.len().cast_signed());
        // SAFETY: as above; `start` and `length` are those of a slice, from which the string is copied.
        self.make("a string", |env, result| unsafe {
            if bytes.is_ascii() {
                sys::napi_create_string_latin1(env, start, length, result)
            } else {
                sys::napi_create_string_utf8(env, start, length, result)
            }
        })
    }

    /// A `Buffer` with a copy of the bytes.
    pub fn buffer(self, bytes: &[u8]) -> Result<Value<'scope>> {
        // SAFETY: as above; the bytes are copied.
        self.make("a Buffer", |env, result| unsafe {
            sys::napi_create_buffer_copy(env, bytes.len(), bytes.as_ptr().cast(), null_mut(), result)
        })
    }

    pub fn object(self) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("an object", |env, result| unsafe { sys::napi_create_object(env, result) })
    }

    pub fn array(self, length: usize) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("an array", |env, result| unsafe { sys::napi_create_array_with_length(env, length, result) })
    }

    pub fn set(self, object: Value<'_>, name: &CStr, value: Value<'_>) -> Result<()> {
        // SAFETY: environment, object and value are live; the name ends with a zero.
        let status = unsafe { sys::napi_set_named_property(self.env, object.raw, name.as_ptr(), value.raw) };
        self.check(status, "setting a property")
    }

    pub fn set_index(self, array: Value<'_>, index: u32, value: Value<'_>) -> Result<()> {
        // SAFETY: environment, array and value are live.
        self.check(unsafe { sys::napi_set_element(self.env, array.raw, index, value.raw) }, "setting an element")
    }

    /// Gives an object a property of its own, also one that is called `__proto__`.
    pub fn define(self, object: Value<'_>, key: Value<'_>, value: Value<'_>) -> Result<()> {
        let property = sys::napi_property_descriptor {
            utf8name: null(),
            name: key.raw,
            method: None,
            getter: None,
            setter: None,
            value: value.raw,
            attributes: sys::PropertyAttributes::writable
                | sys::PropertyAttributes::enumerable
                | sys::PropertyAttributes::configurable,
            data: null_mut(),
        };
        // SAFETY: environment, object, key and value are live; one descriptor is passed.
        let status = unsafe { sys::napi_define_properties(self.env, object.raw, 1, &raw const property) };
        self.check(status, "defining a property")
    }

    pub fn freeze(self, object: Value<'_>) -> Result<()> {
        // SAFETY: environment and object are live.
        self.check(unsafe { sys::napi_object_freeze(self.env, object.raw) }, "freezing an object")
    }

    pub fn call(self, function: Value<'_>, arguments: &[Value<'_>]) -> Result<Value<'scope>> {
        let receiver = self.undefined()?;
        // SAFETY: all values are live, and `Value` is transparent: an array of them is an array of `napi_value`.
        self.make("calling a function", |env, result| unsafe {
            let start = arguments.as_ptr().cast();
            sys::napi_call_function(env, receiver.raw, function.raw, arguments.len(), start, result)
        })
    }

    /// Calls a function of somebody else's; the error is what it threw, as text.
    pub fn try_call(self, function: Value<'_>, arguments: &[Value<'_>]) -> std::result::Result<(), String> {
        let receiver = self.undefined().map_err(|fault| fault.to_string())?;
        self.try_call_on(receiver, function, arguments)
    }

    /// The same with a `this`.
    pub fn try_call_on(
        self,
        receiver: Value<'_>,
        function: Value<'_>,
        arguments: &[Value<'_>],
    ) -> std::result::Result<(), String> {
        let (mut result, mut pending, mut thrown) = (null_mut(), false, null_mut());
        // SAFETY: all values are live, and `Value` is transparent: an array of them is an array of `napi_value`. The
        // exception is taken only if there is one.
        let status = unsafe {
            let start = arguments.as_ptr().cast();
            let status =
                sys::napi_call_function(self.env, receiver.raw, function.raw, arguments.len(), start, &raw mut result);
            sys::napi_is_exception_pending(self.env, &raw mut pending);
            if pending {
                sys::napi_get_and_clear_last_exception(self.env, &raw mut thrown);
            }
            status
        };
        // Without an exception it is the environment that is going away.
        if status == sys::Status::napi_ok || !pending {
            return Ok(());
        }
        let thrown = (!thrown.is_null()).then_some(Value { raw: thrown, scope: PhantomData });
        let text = thrown.and_then(|thrown| self.to_string(thrown).and_then(|text| self.read_string(text)).ok());
        Err(text.unwrap_or_else(|| "something that has no text".to_owned()))
    }

    pub fn construct(self, class: Value<'_>, arguments: &[Value<'_>]) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("constructing an object", |env, result| unsafe {
            sys::napi_new_instance(env, class.raw, arguments.len(), arguments.as_ptr().cast(), result)
        })
    }

    pub fn throw(self, error: Value<'_>) {
        // SAFETY: environment and error are live. Where nothing can be thrown any more, nobody would catch it.
        unsafe { sys::napi_throw(self.env, error.raw) };
    }

    pub fn promise(self) -> Result<(Deferred, Value<'scope>)> {
        let mut deferred = null_mut();
        // SAFETY: `make` passes a live environment and a place for the promise; `deferred` is local.
        let promise = self.make("making a promise", |env, result| unsafe {
            sys::napi_create_promise(env, &raw mut deferred, result)
        })?;
        Ok((Deferred(deferred), promise))
    }

    /// Resolves a promise of this environment. A failure is not reported: `deferred` is spent, and only an environment
    /// that is going away refuses.
    pub fn resolve(self, Deferred(deferred): Deferred, value: Value<'_>) {
        // SAFETY: environment and value are live; `deferred` is of this environment and is used here for the only time.
        let _ = self.check(unsafe { sys::napi_resolve_deferred(self.env, deferred, value.raw) }, "resolving");
    }

    /// Rejects a promise of this environment; otherwise like [`Js::resolve`].
    pub fn reject(self, Deferred(deferred): Deferred, error: Value<'_>) {
        // SAFETY: environment and error are live; `deferred` is of this environment and is used here for the only time.
        let _ = self.check(unsafe { sys::napi_reject_deferred(self.env, deferred, error.raw) }, "rejecting");
    }

    /// Keeps a value beyond this callback.
    pub fn keep(self, value: Value<'_>) -> Result<Reference> {
        let mut reference = null_mut();
        // SAFETY: environment and value are live, the result is local.
        let status = unsafe { sys::napi_create_reference(self.env, value.raw, 1, &raw mut reference) };
        self.check(status, "keeping a value")?;
        Ok(Reference(reference))
    }

    /// The value of a reference of this environment.
    pub fn kept(self, reference: &Reference) -> Result<Value<'scope>> {
        // SAFETY: `make` passes a live environment and a place for the result; only `release` ends a reference.
        self.make("reading a reference", |env, result| unsafe {
            sys::napi_get_reference_value(env, reference.0, result)
        })
    }

    /// Gives back a reference of this environment.
    pub fn release(self, Reference(reference): Reference) {
        // SAFETY: the environment is live, and the reference is given back for the only time, as it is consumed.
        unsafe { sys::napi_delete_reference(self.env, reference) };
    }

    /// Runs `work` in a handle scope of its own: what it makes can be collected afterwards.
    pub fn scope<R>(self, work: impl for<'inner> FnOnce(Js<'inner>) -> R) -> Result<R> {
        struct Scope(sys::napi_env, sys::napi_handle_scope);
        impl Drop for Scope {
            fn drop(&mut self) {
                // SAFETY: opened below in this environment, and scopes close in the reverse order of opening.
                unsafe { sys::napi_close_handle_scope(self.0, self.1) };
            }
        }
        let mut scope = null_mut();
        // SAFETY: the environment is live, the result is local.
        self.check(unsafe { sys::napi_open_handle_scope(self.env, &raw mut scope) }, "opening a scope")?;
        let _scope = Scope(self.env, scope);
        // SAFETY: the scope is open until `_scope` is dropped, after `work`; no value of `'inner` can leave it.
        Ok(work(unsafe { Js::new(self.env) }))
    }
}
