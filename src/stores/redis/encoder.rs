//! Commands on their way out, in RESP.

use bytes::{BufMut, BytesMut};
use std::io::Write;

/// Appends one command to `buffer`: an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(buffer: &mut BytesMut, arguments: &[A]) {
    let mut out = buffer.writer();
    // Writing into a growing buffer cannot fail.
    let _ = write!(out, "*{}\r\n", arguments.len());
    for argument in arguments {
        let bytes = argument.as_ref();
        let _ = write!(out, "${}\r\n", bytes.len());
        out.get_mut().put_slice(bytes);
        out.get_mut().put_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut buffer = BytesMut::new();
        encode(&mut buffer, &[b"SET".as_slice(), b"k", b"\r\n\0"]);
        assert_eq!(&buffer[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\r\n\0\r\n");
    }
}
