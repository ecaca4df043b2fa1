//! The socket of a connection, which any thread may write to.

use super::tls::{Connector, Encrypted};
use crate::redis_url::Address;
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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

/// How an alert of TLS begins: what somebody says who was not greeted in TLS.
const TLS_ALERT: &[u8] = &[0x15, 0x03];

/// A connected socket.
pub struct Stream {
    socket: Socket,
    /// Something has arrived.
    heard: AtomicBool,
}

enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Encrypted(Box<Encrypted>),
}

/// Does the same with whichever socket it is.
macro_rules! with {
    ($stream:expr, $socket:ident => $work:expr, $encrypted:ident => $otherwise:expr) => {
        match &$stream.socket {
            Socket::Tcp($socket) => $work,
            #[cfg(unix)]
            Socket::Unix($socket) => $work,
            Socket::Encrypted($encrypted) => $otherwise,
        }
    };
}

impl Stream {
    /// Connects, and encrypts if there is a connector; the error is a reason without secrets. Unix sockets stay as they are.
    pub async fn connect(address: &Address, tls: Option<&Connector>) -> Result<Self, String> {
        let socket = match (Self::open(address).await.map_err(|error| error.to_string())?, address, tls) {
            (Socket::Tcp(socket), Address::Tcp { host, .. }, Some(tls)) => {
                Socket::Encrypted(Box::new(tls.encrypt(socket, host).await?))
            }
            (socket, ..) => socket,
        };
        Ok(Self { socket, heard: AtomicBool::new(false) })
    }

    async fn open(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
                #[cfg(target_os = "linux")]
                SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                Ok(Socket::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix { path } => Ok(Socket::Unix(UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Address::Unix { .. } => Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no unix sockets")),
        }
    }

    /// Appends what has arrived, after waiting for it; `0` at the end of the stream.
    pub async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            with!(self, socket => socket.readable().await?, encrypted => return encrypted.read(buffer).await);
            match with!(self, socket => socket.try_read_buf(buffer), encrypted => return encrypted.read(buffer).await) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return self.first(read, buffer),
            }
        }
    }

    /// Says of the first that arrives what it means where a port is one for TLS: Redis resets such a connection, others close
    /// it, or answer in the words of TLS.
    fn first(&self, read: io::Result<usize>, buffer: &[u8]) -> io::Result<usize> {
        if self.heard.swap(true, Relaxed) || !self.is_tcp() {
            return read;
        }
        let wants_tls = |ended: &str| {
            let cure = "if this port is one for TLS, use rediss: instead of redis:";
            Err(io::Error::new(
                ErrorKind::ConnectionReset,
                format!("the server {ended} before it said anything; {cure}"),
            ))
        };
        match read {
            Ok(0) => wants_tls("closed it"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => wants_tls("reset it"),
            Ok(_) if buffer.starts_with(TLS_ALERT) => {
                Err(io::Error::other("the server speaks TLS on this port; use rediss: instead of redis:"))
            }
            read => read,
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    /// Writes what the socket takes now; `WouldBlock` if that is nothing. Without pieces: what it [`Stream::owes`].
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        with!(self, socket => socket.try_write_vectored(pieces), encrypted => encrypted.try_write(pieces))
    }

    /// What was taken is not all written: `try_write` has to be called again once it is `writable`.
    pub fn owes(&self) -> bool {
        with!(self, _socket => false, encrypted => encrypted.owes())
    }

    /// Waits until something can be written.
    pub async fn writable(&self) -> io::Result<()> {
        with!(self, socket => socket.writable().await, encrypted => encrypted.writable().await)
    }
}
