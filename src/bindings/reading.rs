//! Reading JavaScript values, checked; the other half of [`super::values`].

use super::values::{Js, Kind, Value};
use crate::error::{Error, Result};
use bytes::Bytes;
use napi::sys;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

impl<'scope> Js<'scope> {
    pub fn kind(self, value: Value<'_>) -> Result<Kind> {
        let mut kind = -1;
        // SAFETY: the environment and the value are live, the result is local.
        let status = unsafe { sys::napi_typeof(self.env(), value.raw(), &raw mut kind) };
        self.check(status, "typeof")?;
        Ok(match kind {
            sys::ValueType::napi_undefined => Kind::Undefined,
            sys::ValueType::napi_null => Kind::Null,
            sys::ValueType::napi_boolean => Kind::Boolean,
            sys::ValueType::napi_number => Kind::Number,
            sys::ValueType::napi_string => Kind::String,
            sys::ValueType::napi_symbol => Kind::Symbol,
            sys::ValueType::napi_function => Kind::Function,
            sys::ValueType::napi_bigint => Kind::Bigint,
            _ => Kind::Object,
        })
    }

    /// The value of a number.
    pub fn read_number(self, value: Value<'_>) -> Result<f64> {
        let mut number = f64::NAN;
        // SAFETY: the environment and the value are live, the result is local.
        let status = unsafe { sys::napi_get_value_double(self.env(), value.raw(), &raw mut number) };
        self.check(status, "reading a number")?;
        Ok(number)
    }

    /// The value of a number; `None` if it is something else. Asks Node once, where looking at its type first asks twice.
    pub fn try_read_number(self, value: Value<'_>) -> Result<Option<f64>> {
        let mut number = f64::NAN;
        // SAFETY: the environment and the value are live, the result is local.
        let status = unsafe { sys::napi_get_value_double(self.env(), value.raw(), &raw mut number) };
        if status == sys::Status::napi_number_expected {
            return Ok(None);
        }
        self.check(status, "reading a number")?;
        Ok(Some(number))
    }

    /// The value of a boolean.
    pub fn read_boolean(self, value: Value<'_>) -> Result<bool> {
        let mut boolean = false;
        // SAFETY: the environment and the value are live, the result is local.
        let status = unsafe { sys::napi_get_value_bool(self.env(), value.raw(), &raw mut boolean) };
        self.check(status, "reading a boolean")?;
        Ok(boolean)
    }

    /// Milliseconds since 1970 if the value is a `Date`, of whatever realm; NaN for an invalid one.
    pub fn read_date(self, value: Value<'_>) -> Result<Option<f64>> {
        let (mut is_date, mut time) = (false, f64::NAN);
        // SAFETY: the environment and the value are live, the result is local.
        self.check(unsafe { sys::napi_is_date(self.env(), value.raw(), &raw mut is_date) }, "recognising a date")?;
        if !is_date {
            return Ok(None);
        }
        // SAFETY: the environment and the value are live, the result is local.
        self.check(unsafe { sys::napi_get_date_value(self.env(), value.raw(), &raw mut time) }, "reading a date")?;
        Ok(Some(time))
    }

    /// The UTF-8 of a string that is read into `buffer`; `None` if it has `buffer.len() - 4` bytes or more.
    ///
    /// A long string is recognised by its length, so its cost does not grow with it. A lone surrogate is U+FFFD.
    pub fn read_short<'buffer>(
        self,
        value: Value<'_>,
        buffer: &'buffer mut [MaybeUninit<u8>],
    ) -> Result<Option<&'buffer [u8]>> {
        let (mut units, mut written) = (0, 0);
        // SAFETY: the environment and the value are live; without a buffer only the length is asked.
        let status =
            unsafe { sys::napi_get_value_string_utf16(self.env(), value.raw(), null_mut(), 0, &raw mut units) };
        self.check(status, "measuring a string")?;
        if units >= buffer.len() {
            return Ok(None);
        }
        // SAFETY: as above; at most `buffer.len()` bytes are written, the closing zero included.
        let status = unsafe {
            let start = buffer.as_mut_ptr().cast();
            sys::napi_get_value_string_utf8(self.env(), value.raw(), start, buffer.len(), &raw mut written)
        };
        self.check(status, "reading a string")?;
        // Node stops before a character that does not fit, which leaves up to three bytes and the closing zero.
        if written + 4 >= buffer.len() {
            return Ok(None);
        }
        // SAFETY: Node has written the first `written` bytes, which is less than the length of the buffer.
        Ok(Some(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), written) }))
    }

    /// The UTF-8 of a string that is read into `buffer`; `None` if the value is no string, or one that may not fit. Asks
    /// Node once, where [`Js::read_short`] asks three times.
    pub fn try_read_short<'buffer>(
        self,
        value: Value<'_>,
        buffer: &'buffer mut [MaybeUninit<u8>],
    ) -> Result<Option<&'buffer [u8]>> {
        let mut written = 0;
        // SAFETY: the environment and the value are live; at most `buffer.len()` bytes are written, with the closing zero.
        let status = unsafe {
            let start = buffer.as_mut_ptr().cast();
            sys::napi_get_value_string_utf8(self.env(), value.raw(), start, buffer.len(), &raw mut written)
        };
        if status == sys::Status::napi_string_expected {
            return Ok(None);
        }
        self.check(status, "reading a string")?;
        // Node stops before a character that does not fit, which leaves up to three bytes and the closing zero.
        if written + 4 >= buffer.len() {
            return Ok(None);
        }
        // SAFETY: Node has written the first `written` bytes, which is less than the length of the buffer.
        Ok(Some(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), written) }))
    }

    /// The UTF-8 of a string of any length.
    pub fn read_string(self, value: Value<'_>) -> Result<String> {
        let (mut length, mut written) = (0, 0);
        // SAFETY: the environment and the value are live; without a buffer only the length is asked.
        let status =
            unsafe { sys::napi_get_value_string_utf8(self.env(), value.raw(), null_mut(), 0, &raw mut length) };
        self.check(status, "measuring a string")?;
        let mut bytes = vec![0u8; length + 1];
        // SAFETY: as above; at most `bytes.len()` bytes are written, the closing zero included.
        let status = unsafe {
            sys::napi_get_value_string_utf8(
                self.env(),
                value.raw(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                &raw mut written,
            )
        };
        self.check(status, "reading a string")?;
        bytes.truncate(written);
        String::from_utf8(bytes).map_err(|_| Error::Internal("Node-API gave a string that is no UTF-8".into()))
    }

    /// Whether the value is a `Buffer` or another view of bytes.
    pub fn is_bytes(self, value: Value<'_>) -> Result<bool> {
        let mut is_buffer = false;
        // SAFETY: the environment and the value are live, the result is local.
        let status = unsafe { sys::napi_is_buffer(self.env(), value.raw(), &raw mut is_buffer) };
        self.check(status, "recognising a Buffer")?;
        Ok(is_buffer)
    }

    /// A copy of the bytes if the value is a `Buffer` or a `Uint8Array`.
    pub fn read_bytes(self, value: Value<'_>) -> Result<Option<Bytes>> {
        if !self.is_bytes(value)? {
            return Ok(None);
        }
        let (mut start, mut length) = (null_mut(), 0);
        // SAFETY: as above.
        let status = unsafe { sys::napi_get_buffer_info(self.env(), value.raw(), &raw mut start, &raw mut length) };
        self.check(status, "reading a Buffer")?;
        if start.is_null() || length == 0 {
            return Ok(Some(Bytes::new()));
        }
        // SAFETY: Node says that these bytes are the Buffer's; no JavaScript runs until they are copied.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>().cast_const(), length) };
        Ok(Some(Bytes::copy_from_slice(bytes)))
    }

    /// What `String(value)` gives for a primitive.
    pub fn to_string(self, value: Value<'_>) -> Result<Value<'scope>> {
        // SAFETY: `make` passes a live environment and a place for the result; the value is live.
        self.make("converting to a string", |env, result| unsafe {
            sys::napi_coerce_to_string(env, value.raw(), result)
        })
    }

    pub fn get(self, object: Value<'_>, name: &CStr) -> Result<Value<'scope>> {
        // SAFETY: `make` passes a live environment and a place for the result; the name ends with a zero.
        self.make("reading a property", |env, result| unsafe {
            sys::napi_get_named_property(env, object.raw(), name.as_ptr(), result)
        })
    }

    pub fn get_key(self, object: Value<'_>, key: Value<'_>) -> Result<Value<'scope>> {
        // SAFETY: as above; the key is live.
        self.make("reading a property", |env, result| unsafe {
            sys::napi_get_property(env, object.raw(), key.raw(), result)
        })
    }

    pub fn get_index(self, array: Value<'_>, index: u32) -> Result<Value<'scope>> {
        // SAFETY: as above.
        self.make("reading an element", |env, result| unsafe { sys::napi_get_element(env, array.raw(), index, result) })
    }

    /// The length of an array; `None` if the value is something else.
    pub fn array_length(self, value: Value<'_>) -> Result<Option<u32>> {
        let (mut is_array, mut length) = (false, 0);
        // SAFETY: the environment and the value are live, the result is local.
        self.check(unsafe { sys::napi_is_array(self.env(), value.raw(), &raw mut is_array) }, "recognising an array")?;
        if !is_array {
            return Ok(None);
        }
        // SAFETY: as above.
        let status = unsafe { sys::napi_get_array_length(self.env(), value.raw(), &raw mut length) };
        self.check(status, "measuring an array")?;
        Ok(Some(length))
    }

    /// The names of an object's own enumerable properties, symbols left out.
    pub fn own_names(self, object: Value<'_>) -> Result<Value<'scope>> {
        // SAFETY: `make` passes a live environment and a place for the result.
        self.make("listing properties", |env, result| unsafe {
            sys::napi_get_all_property_names(
                env,
                object.raw(),
                sys::KeyCollectionMode::own_only,
                sys::KeyFilter::enumerable | sys::KeyFilter::skip_symbols,
                sys::KeyConversion::numbers_to_strings,
                result,
            )
        })
    }
}
