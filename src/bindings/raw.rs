//! Functions and classes that are made by hand: `#[napi]` can express neither rest parameters nor methods that share one
//! implementation, and its conversions cost more than a whole command may.

use super::environment::State;
use super::values::{Js, Value};
use super::{Call, error, guarded};
use crate::error::{Error, Result};
use napi::sys;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;

/// Arguments of most calls, and one `undefined`; more are read in a second step.
const FEW: usize = 8;

/// What a call by JavaScript consists of.
pub struct Frame<'scope> {
    pub call: Call<'scope>,
    this: Value<'scope>,
    few: [sys::napi_value; FEW],
    many: Vec<sys::napi_value>,
    count: usize,
    data: *const c_void,
    info: sys::napi_callback_info,
}

impl<'scope> Frame<'scope> {
    /// # Safety
    /// Node calls the function at this moment with these two.
    unsafe fn new(env: sys::napi_env, info: sys::napi_callback_info) -> std::result::Result<Self, ()> {
        // SAFETY: the environment is that of a callback that runs on this thread, in a handle scope that ends after it.
        let js = unsafe { Js::new(env) };
        let state = State::of(js).map_err(|failure| drop(error::throw_plain(js, &failure)))?;
        let call = Call { js, state };
        let (mut count, mut few) = (FEW, [null_mut(); FEW]);
        let (mut this, mut data) = (null_mut(), null_mut());
        // SAFETY: environment and info are live; Node writes at most `count` arguments, and all other results are local.
        let status =
            unsafe { sys::napi_get_cb_info(env, info, &raw mut count, few.as_mut_ptr(), &raw mut this, &raw mut data) };
        let fault = |failure: Error| drop(error::throw_plain(js, &failure));
        js.check(status, "reading the arguments").map_err(fault)?;
        let mut many = Vec::new();
        if count >= FEW {
            many.resize(count + 1, null_mut());
            let mut all = count + 1;
            // SAFETY: as above; `many` has room for all of them.
            let status =
                unsafe { sys::napi_get_cb_info(env, info, &raw mut all, many.as_mut_ptr(), null_mut(), null_mut()) };
            js.check(status, "reading the arguments").map_err(fault)?;
        }
        // SAFETY: `this` is live until the callback returns.
        let this = unsafe { Value::from_raw(this) };
        Ok(Self { call, this, few, many, count, data, info })
    }

    pub fn this(&self) -> Value<'scope> {
        self.this
    }

    /// How many arguments were passed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// An argument; `undefined` if it was left out.
    pub fn argument(&self, index: usize) -> Value<'scope> {
        let all = if self.many.is_empty() { &self.few[..] } else { &self.many };
        // There is room for one more than there are, which Node has filled with `undefined`.
        let raw = all[index.min(all.len() - 1)];
        // SAFETY: Node keeps the arguments alive until the callback returns.
        unsafe { Value::from_raw(raw) }
    }

    /// What the class was defined with for this method.
    ///
    /// # Safety
    /// It was a `&'static T`.
    pub unsafe fn data<T>(&self) -> &'static T {
        // SAFETY: says the caller.
        unsafe { &*self.data.cast::<T>() }
    }

    /// What [`Js::function_with`] gave the function.
    ///
    /// # Safety
    /// It was a `T`.
    pub unsafe fn own<T>(&self) -> &'scope T {
        // SAFETY: says the caller; a function lives as long as a call of it, and so does what it owns.
        unsafe { &*self.data.cast::<T>() }
    }

    /// Whether it was called by `new`.
    pub fn constructing(&self) -> bool {
        let mut target = null_mut();
        // SAFETY: environment and info are those of the callback that runs; the result is local.
        let status = unsafe { sys::napi_get_new_target(self.call.js.env(), self.info, &raw mut target) };
        status == sys::Status::napi_ok && !target.is_null()
    }
}

/// The body of a function: the frame of the call in, a value or an exception out. A type of its own for each, so that each
/// has its own entry from C.
pub trait Function {
    fn run(frame: Frame<'_>) -> Result<Value<'_>>;
}

/// What Node calls.
unsafe extern "C" fn entry<F: Function>(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: Node calls with its own environment and info, on its thread.
    let Ok(frame) = (unsafe { Frame::new(env, info) }) else { return null_mut() };
    let Call { js, state } = frame.call;
    match guarded(|| F::run(frame)) {
        Ok(value) => value.raw(),
        Err(failure) => {
            drop(error::throw(js, state, &failure));
            null_mut()
        }
    }
}

/// One member of a class.
pub struct Member {
    name: CString,
    method: sys::napi_callback,
    getter: sys::napi_callback,
    data: *mut c_void,
}

impl Member {
    /// A method that finds `data` in its frame.
    pub fn method<F: Function, T>(name: &str, data: &'static T) -> Self {
        Self { name: c_name(name), method: Some(entry::<F>), getter: None, data: (&raw const *data).cast_mut().cast() }
    }

    /// A property that is computed.
    pub fn getter<F: Function>(name: &str) -> Self {
        Self { name: c_name(name), method: None, getter: Some(entry::<F>), data: null_mut() }
    }
}

fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

impl<'scope> Js<'scope> {
    /// A function of its own.
    pub fn function<F: Function>(self, name: &str) -> Result<Value<'scope>> {
        let name = c_name(name);
        // SAFETY: `make` passes a live environment and a place for the result; `entry` has the right signature.
        self.make("a function", |env, result| unsafe {
            sys::napi_create_function(env, name.as_ptr(), -1, Some(entry::<F>), null_mut(), result)
        })
    }

    /// A function that owns `data`, for as long as it can be called: see [`Frame::own`].
    pub fn function_with<F: Function, T: 'static>(self, name: &str, data: T) -> Result<Value<'scope>> {
        let name = c_name(name);
        let data = Box::into_raw(Box::new(data)).cast::<c_void>();
        // SAFETY: `make` passes a live environment and a place for the result; `entry` has the right signature.
        let function = self.make("a function", |env, result| unsafe {
            sys::napi_create_function(env, name.as_ptr(), -1, Some(entry::<F>), data, result)
        });
        let owned = function.and_then(|function| {
            // SAFETY: environment and function are live; `free` takes over the box, and is called once, when nobody can
            // reach the function.
            let status = unsafe {
                sys::napi_add_finalizer(self.env(), function.raw(), data, Some(free::<T>), null_mut(), null_mut())
            };
            self.check(status, "tying data to a function").map(|()| function)
        });
        owned.inspect_err(|_| {
            // SAFETY: Node did not take the box, so it is still ours; the function is given to nobody.
            drop(unsafe { Box::from_raw(data.cast::<T>()) });
        })
    }

    /// A class. Node lets its methods be called on its own instances only; for getters see [`Js::unwrap_tagged`].
    pub fn define_class<C: Function>(self, name: &str, members: &[Member]) -> Result<Value<'scope>> {
        let name = c_name(name);
        let descriptors: Vec<_> = members
            .iter()
            .map(|member| sys::napi_property_descriptor {
                utf8name: member.name.as_ptr(),
                name: null_mut(),
                method: member.method,
                getter: member.getter,
                setter: None,
                value: null_mut(),
                attributes: sys::PropertyAttributes::writable | sys::PropertyAttributes::configurable,
                data: member.data,
            })
            .collect();
        // SAFETY: `make` passes a live environment and a place for the result; names and descriptors live until it
        // returns, and Node copies them.
        self.make("a class", |env, result| unsafe {
            let constructor = Some(entry::<C> as _);
            let (length, start) = (descriptors.len(), descriptors.as_ptr());
            sys::napi_define_class(env, name.as_ptr(), -1, constructor, null_mut(), length, start, result)
        })
    }

    /// Ties something native to an object, for as long as that lives.
    pub fn wrap<T: Tagged>(self, object: Value<'_>, native: T) -> Result<()> {
        let native = Box::into_raw(Box::new(native));
        // SAFETY: environment and object are live; `free` takes over the box, and is called once.
        let status =
            unsafe { sys::napi_wrap(self.env(), object.raw(), native.cast(), Some(free::<T>), null_mut(), null_mut()) };
        self.check(status, "wrapping an object").inspect_err(|_| {
            // SAFETY: Node did not take the box, so it is still ours.
            drop(unsafe { Box::from_raw(native) });
        })?;
        // SAFETY: environment and object are live; the tag is copied.
        self.check(unsafe { sys::napi_type_tag_object(self.env(), object.raw(), &T::TAG) }, "tagging an object")
    }

    /// What [`Js::wrap`] tied to the receiver of a method.
    ///
    /// # Safety
    /// The object is the receiver of a method of the one class whose constructor wraps a `T`. (Methods of a class have a
    /// signature in V8, which refuses every other receiver before it calls.)
    pub unsafe fn unwrap<T: Tagged>(self, object: Value<'scope>) -> Result<&'scope T> {
        let mut native = null_mut();
        // SAFETY: environment and object are live, the result is local.
        let status = unsafe { sys::napi_unwrap(self.env(), object.raw(), &raw mut native) };
        if status != sys::Status::napi_ok || native.is_null() {
            return Err(Error::type_error("This object was not made by its constructor."));
        }
        // SAFETY: says the caller; the object is alive in this scope, and with it what is tied to it.
        Ok(unsafe { &*native.cast::<T>() })
    }

    /// The same for any object.
    pub fn unwrap_tagged<T: Tagged>(self, object: Value<'scope>) -> Result<&'scope T> {
        let mut tagged = false;
        // SAFETY: environment and object are live, the result is local.
        let status = unsafe { sys::napi_check_object_type_tag(self.env(), object.raw(), &T::TAG, &raw mut tagged) };
        if status != sys::Status::napi_ok || !tagged {
            return Err(Error::type_error("This property belongs to another kind of object."));
        }
        // SAFETY: only `wrap::<T>` sets this tag, after it has tied a `T`.
        unsafe { self.unwrap(object) }
    }
}

/// Something native that can be tied to an object. The tag is a random number that no other type has.
pub trait Tagged: 'static {
    const TAG: sys::napi_type_tag;
}

unsafe extern "C" fn free<T>(_: sys::napi_env, native: *mut c_void, _: *mut c_void) {
    // SAFETY: `native` is the box that was given to Node, which calls this once, when nobody can reach the object.
    drop(unsafe { Box::from_raw(native.cast::<T>()) });
}

/// Nothing: for methods without data.
pub const NOTHING: &() = &();
