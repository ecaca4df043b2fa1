//! The socket of a connection, which any thread may write to.

use crate::redis_url::Address;
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The kernel's probes, for connections that may not be asked because a command blocks them: noticed after 3 s, too.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1)).with_retries(2);

/// How long the kernel waits for an acknowledgement. Keepalive says nothing while bytes are on their way; this does.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// A connected socket.
pub enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Does the same with whichever socket it is.
macro_rules! with {
    ($stream:expr, $socket:ident => $work:expr) => {
        match $stream {
            Stream::Tcp($socket) => $work,
            #[cfg(unix)]
            Stream::Unix($socket) => $work,
        }
    };
}

impl Stream {
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
                #[cfg(target_os = "linux")]
                SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                Ok(Self::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix { path } => Ok(Self::Unix(UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Address::Unix { .. } => Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no unix sockets")),
        }
    }

    /// Appends what has arrived, after waiting for it; `0` at the end of the stream.
    pub async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            with!(self, socket => socket.readable().await)?;
            match with!(self, socket => socket.try_read_buf(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Writes what the socket takes now; `WouldBlock` if that is nothing.
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        with!(self, socket => socket.try_write_vectored(pieces))
    }

    /// Waits until something can be written.
    pub async fn writable(&self) -> io::Result<()> {
        with!(self, socket => socket.writable().await)
    }
}
