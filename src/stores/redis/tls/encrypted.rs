//! A connection under TLS, which any thread may write to.
//!
//! Reading and writing share the state of TLS, so a lock is taken for as long as it takes to encrypt or decrypt what is at
//! hand; the socket is waited for outside of it. Ciphertext goes to the socket under the lock, and so in its order.

use super::Witness;
use bytes::BytesMut;
use rustls::ClientConnection;
use std::io::{self, BufRead, ErrorKind, IoSlice, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Plaintext that is encrypted before any of it is written: enough for four full records, and little to wait for.
const AT_ONCE: usize = 64 * 1024;

/// Ciphertext that is read at once.
const READ_CHUNK: usize = 64 * 1024;

/// A server that speaks TLS has answered the first message by then, or is busy. One that does not may wait for the end of what
/// it takes for a line.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// What only a Redis without TLS answers, on a connection of its own; and how long that may take.
const QUESTION: &[u8] = b"PING\r\n";
const ITS_ANSWER: Duration = Duration::from_millis(300);

const NO_TLS: &str = "what answers there does not speak TLS; use redis: instead of rediss:, or the port for TLS";

/// What every record of TLS begins with, by its content: change of cipher, alert, handshake, data (RFC 8446, section 5.1).
const RECORDS: std::ops::RangeInclusive<u8> = 20..=23;

/// An encrypted connection. Dropping it says goodbye.
pub struct Encrypted {
    socket: TcpStream,
    session: Mutex<Session>,
    /// Ciphertext as it comes; used by the one who reads.
    incoming: Mutex<Vec<u8>>,
    /// There is ciphertext that the socket did not take.
    owes: AtomicBool,
    /// Something was said to us under TLS.
    heard: AtomicBool,
    witness: Arc<Witness>,
}

struct Session {
    tls: ClientConnection,
    /// The server has said that nothing more will come, or said what nobody understands.
    over: bool,
    fault: Option<rustls::Error>,
}

impl Encrypted {
    /// Agrees with the server on how to encrypt. The error is a reason without secrets.
    pub(super) async fn shake_hands(
        socket: TcpStream,
        mut tls: ClientConnection,
        witness: Arc<Witness>,
    ) -> Result<Self, String> {
        tls.set_buffer_limit(Some(AT_ONCE));
        let this = Self {
            socket,
            session: Mutex::new(Session { tls, over: false, fault: None }),
            incoming: Mutex::new(vec![0; READ_CHUNK]),
            owes: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            witness,
        };
        this.agree().await.map_err(|error| error.to_string())?;
        Ok(this)
    }

    async fn agree(&self) -> io::Result<()> {
        let mut first = true;
        loop {
            self.flush_all().await?;
            if !self.session().tls.is_handshaking() {
                return Ok(());
            }
            if std::mem::replace(&mut first, false) {
                self.first_word().await?;
            } else {
                self.socket.readable().await?;
            }
            match self.receive(&mut BytesMut::new()) {
                Ok(0) => {
                    let closed = || io::Error::other("the server closed it during the TLS handshake");
                    return Err(self.silent_end().unwrap_or_else(closed));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.understood(error)),
            }
        }
    }

    /// Waits for the server's first bytes, and looks at them: what speaks no TLS is best told from what it says.
    async fn first_word(&self) -> io::Result<()> {
        let mut first = [0];
        let length = match timeout(FIRST_WORD, self.socket.peek(&mut first)).await {
            Ok(peeked) => peeked?,
            Err(_) if self.is_plain_redis().await => return Err(io::Error::other(NO_TLS)),
            Err(_) => self.socket.peek(&mut first).await?,
        };
        if length > 0 && !RECORDS.contains(&first[0]) {
            return Err(io::Error::other(NO_TLS));
        }
        Ok(())
    }

    /// Asks on another connection, because one that is slow to encrypt must not be disturbed.
    async fn is_plain_redis(&self) -> bool {
        let ask = async {
            let socket = TcpStream::connect(self.socket.peer_addr()?).await?;
            socket.writable().await?;
            socket.try_write(QUESTION)?;
            let mut first = [0];
            Ok::<_, io::Error>(socket.peek(&mut first).await? > 0 && matches!(first[0], b'+' | b'-'))
        };
        matches!(timeout(ITS_ANSWER, ask).await, Ok(Ok(true)))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what has arrived, after waiting for it; `0` at the end of the stream.
    pub async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let length = self.read_some(buffer).await.map_err(|error| self.understood(error))?;
        if length > 0 {
            self.heard.store(true, SeqCst);
        } else if let Some(reason) = self.silent_end() {
            return Err(reason);
        }
        Ok(length)
    }

    async fn read_some(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        // Some may have come together with the end of the handshake.
        let held = self.session().take(buffer);
        if held > 0 {
            return Ok(held);
        }
        loop {
            if self.session().over()? {
                return Ok(0);
            }
            // What TLS itself has to say may be stuck, and whoever reads is always there.
            let owes = self.owes();
            let interest = if owes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = self.socket.ready(interest).await?;
            if owes && ready.is_writable() {
                self.try_flush()?;
            }
            let before = buffer.len();
            match self.receive(buffer) {
                Ok(0) => return Ok(0),
                Ok(_) if buffer.len() > before => return Ok(buffer.len() - before),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what the socket has, and decrypts it; `0` if it is at its end.
    fn receive(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.socket.try_read(&mut incoming)?;
        let mut session = self.session();
        let before = buffer.len();
        session.decrypt(&incoming[..length], buffer)?;
        // What TLS itself has to say: an alert that says what is wrong, the answer to new keys.
        match self.flush(&mut session) {
            Err(error) if error.kind() != ErrorKind::WouldBlock && session.fault.is_none() => return Err(error),
            _ => {}
        }
        if buffer.len() == before {
            session.over()?;
        }
        Ok(length)
    }

    /// Takes what can be written soon; `WouldBlock` if that is nothing. What was taken may still be owed to the socket.
    /// Without pieces: writes what is owed.
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        let taken = self.flush(&mut session).and_then(|()| {
            let taken = session.tls.writer().write_vectored(pieces)?;
            match self.flush(&mut session) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(taken),
            }
        });
        drop(session);
        taken.map_err(|error| self.understood(error))
    }

    /// What was taken is not all written.
    pub fn owes(&self) -> bool {
        self.owes.load(SeqCst)
    }

    /// Waits until something can be written.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Writes ciphertext until nothing is left, or the socket takes no more (`WouldBlock`).
    fn flush(&self, session: &mut Session) -> io::Result<()> {
        let mut flushed = Ok(());
        while flushed.is_ok() && session.tls.wants_write() {
            flushed = match session.tls.write_tls(&mut Out(&self.socket)) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                written => written.map(drop),
            };
        }
        self.owes.store(session.tls.wants_write(), SeqCst);
        flushed
    }

    fn try_flush(&self) -> io::Result<()> {
        match self.flush(&mut self.session()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    async fn flush_all(&self) -> io::Result<()> {
        loop {
            self.try_flush().map_err(|error| self.understood(error))?;
            if !self.owes() {
                return Ok(());
            }
            self.socket.writable().await?;
        }
    }

    /// The error as a sentence.
    fn understood(&self, error: io::Error) -> io::Error {
        if error.kind() == ErrorKind::WouldBlock {
            return error;
        }
        if let Some(fault) = error.get_ref().and_then(|fault| fault.downcast_ref::<rustls::Error>()) {
            return io::Error::new(error.kind(), self.witness.seen().reason(fault));
        }
        if error.get_ref().is_some() { error } else { self.silent_end().unwrap_or(error) }
    }

    /// Why it ended although nothing was said, if that can be known.
    fn silent_end(&self) -> Option<io::Error> {
        if self.heard.load(SeqCst) { None } else { self.witness.seen().silent_end().map(io::Error::other) }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let mut session = self.session();
        session.tls.send_close_notify();
        // Whether the server gets it or not, the socket is closed now.
        drop(self.flush(&mut session));
    }
}

impl Session {
    /// Takes in ciphertext, and appends what was in it.
    fn decrypt(&mut self, mut incoming: &[u8], buffer: &mut BytesMut) -> io::Result<()> {
        while !incoming.is_empty() && !self.over {
            self.tls.read_tls(&mut incoming)?;
            match self.tls.process_new_packets() {
                Ok(state) => self.over = state.peer_has_closed(),
                Err(fault) => (self.over, self.fault) = (true, Some(fault)),
            }
            // What came before the fault is good.
            self.take(buffer);
        }
        Ok(())
    }

    /// Nothing more will come, or cannot be understood.
    fn over(&self) -> io::Result<bool> {
        match &self.fault {
            Some(fault) => Err(io::Error::new(ErrorKind::InvalidData, fault.clone())),
            None => Ok(self.over),
        }
    }

    /// Appends what was decrypted.
    fn take(&mut self, buffer: &mut BytesMut) -> usize {
        let (mut reader, before) = (self.tls.reader(), buffer.len());
        while let Ok(bytes @ [_, ..]) = reader.fill_buf() {
            let length = bytes.len();
            buffer.extend_from_slice(bytes);
            reader.consume(length);
        }
        buffer.len() - before
    }
}

/// Writes to the socket as long as it takes something.
struct Out<'a>(&'a TcpStream);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Against a server of rustls that is told what to do.

    use super::super::Connector;
    use super::*;
    use crate::redis_url::Address;
    use crate::stores::redis::decoder::{Decoder, Incoming};
    use crate::stores::redis::link::{Link, ServerInfo};
    use crate::stores::redis::stream::Stream;
    use crate::stores::redis::testing::soon;
    use crate::tls::Tls;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ProtocolVersion, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion, version};
    use socket2::SockRef;
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};
    use std::thread::{self, JoinHandle};

    type Served = StreamOwned<ServerConnection, std::net::TcpStream>;

    fn narrow(socket: SockRef<'_>, room: Option<usize>) {
        socket.set_tcp_nodelay(true).unwrap();
        if let Some(room) = room {
            socket.set_send_buffer_size(room).unwrap();
            socket.set_recv_buffer_size(room).unwrap();
        }
    }

    /// A server whose socket has `room`, that does `first` when somebody came, and then `work` under TLS: where it is, and who
    /// believes it.
    fn server(
        version: &'static SupportedProtocolVersion,
        room: Option<usize>,
        first: impl FnOnce(&TcpListener) + Send + 'static,
        work: impl FnOnce(Served) + Send + 'static,
    ) -> (SocketAddr, Connector, JoinHandle<()>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = CertifiedIssuer::self_signed(params, key).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key().serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            narrow(SockRef::from(&socket), room);
            first(&listener);
            work(StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket));
        });
        let tls = Tls::try_new(Some(&own.pem()), None, None, false).unwrap();
        (address, Connector::new(Arc::new(tls)), serving)
    }

    /// A connection to a server that does `work`; its sockets have `room`.
    async fn connected(
        version: &'static SupportedProtocolVersion,
        room: Option<usize>,
        work: impl FnOnce(Served) + Send + 'static,
    ) -> (Encrypted, JoinHandle<()>) {
        let (address, connector, serving) = server(version, room, |_| {}, work);
        let socket = TcpStream::connect(address).await.unwrap();
        narrow(SockRef::from(&socket), room);
        (connector.encrypt(socket, "localhost").await.unwrap(), serving)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
    }

    /// Writes as a link does: until all is taken and nothing is owed.
    async fn write(stream: &Encrypted, mut bytes: &[u8]) {
        while !bytes.is_empty() || stream.owes() {
            // Several pieces at once, as a link has them.
            let pieces: Vec<_> = bytes.chunks(5000).take(64).map(IoSlice::new).collect();
            match stream.try_write(&pieces) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn read(stream: &Encrypted, length: usize) -> BytesMut {
        let mut buffer = BytesMut::new();
        while buffer.len() < length {
            assert_ne!(stream.read(&mut buffer).await.unwrap(), 0, "closed after {} bytes", buffer.len());
        }
        buffer
    }

    /// Sends everything back, with new keys now and then where the version has them.
    fn echo(mut stream: Served) {
        let mut bytes = vec![0; 100_000];
        let mut count = 0;
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..length]).unwrap();
            count += 1;
            if count % 16 == 0 {
                let has_keys_to_renew = stream.conn.protocol_version() == Some(ProtocolVersion::TLSv1_3);
                assert_eq!(stream.conn.refresh_traffic_keys().is_ok(), has_keys_to_renew);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn large_values_go_both_ways_at_once_whatever_the_sockets_hold() {
        for version in [&version::TLS12, &version::TLS13] {
            for (room, length) in [(None, 3_000_000), (Some(16_384), 300_000)] {
                let bytes = pattern(length);
                let (stream, serving) = connected(version, room, echo).await;
                let ((), answer) =
                    soon(async { tokio::join!(write(&stream, &bytes), read(&stream, bytes.len())) }).await;
                assert!(answer == bytes, "{version:?} {room:?}");
                drop(stream);
                serving.join().unwrap();
            }
        }
    }

    #[tokio::test]
    async fn what_was_accepted_and_not_written_is_owed_until_the_socket_takes_it() {
        let (start, wait) = std::sync::mpsc::channel::<()>();
        let (stream, serving) = connected(&version::TLS13, Some(16_384), move |mut stream| {
            // The handshake is done with the first byte; then it is away for a while.
            stream.read_exact(&mut [0]).unwrap();
            wait.recv().unwrap();
            echo(stream);
        })
        .await;
        let bytes = pattern(400_000);
        write(&stream, &bytes[..1]).await;
        let (mut taken, mut refused) = (1, 0);
        while refused == 0 {
            match stream.try_write(&[IoSlice::new(&bytes[taken..])]) {
                Ok(more) => {
                    assert!(more <= AT_ONCE);
                    taken += more;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
        }
        assert!(taken < bytes.len() && stream.owes());
        start.send(()).unwrap();
        // It reads nothing but what is on its way, so reading must send what is owed.
        let mut answer = soon(read(&stream, taken - 1)).await;
        assert!(!stream.owes());
        let ((), rest) =
            soon(async { tokio::join!(write(&stream, &bytes[taken..]), read(&stream, bytes.len() - taken)) }).await;
        answer.extend_from_slice(&rest);
        assert!(answer == bytes[1..]);
        drop(stream);
        serving.join().unwrap();
    }

    #[tokio::test]
    async fn pieces_that_are_written_at_once_are_one_record() {
        let (stream, serving) = connected(&version::TLS13, None, echo).await;
        let pieces = [IoSlice::new(b"0123456789"); 60];
        let mut wire = Vec::new();
        let mut session = stream.session();
        assert_eq!(session.tls.writer().write_vectored(&pieces).unwrap(), 600);
        session.tls.write_tls(&mut wire).unwrap();
        drop(session);
        // Five bytes of header, one for the kind of content, and sixteen of the tag.
        assert_eq!((wire[0], wire.len()), (23, 600 + 5 + 1 + 16));
        drop(stream);
        drop(serving.join());
    }

    #[tokio::test]
    async fn the_end_is_the_end_with_and_without_a_word() {
        for polite in [true, false] {
            let (stream, serving) = connected(&version::TLS13, None, move |mut stream| {
                stream.write_all(b"+OK\r\n").unwrap();
                if polite {
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                }
            })
            .await;
            let mut buffer = BytesMut::new();
            assert_eq!(soon(stream.read(&mut buffer)).await.unwrap(), 5);
            assert_eq!(soon(stream.read(&mut buffer)).await.unwrap(), 0);
            assert_eq!(soon(stream.read(&mut buffer)).await.unwrap(), 0);
            assert_eq!(&buffer[..], b"+OK\r\n");
            serving.join().unwrap();
        }
    }

    #[tokio::test]
    async fn a_broken_record_ends_it_with_a_reason() {
        let (stream, serving) = connected(&version::TLS13, None, |mut stream| {
            stream.write_all(b"+OK\r\n").unwrap();
            stream.sock.write_all(&[23, 3, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            stream.sock.write_all(&[0; 17]).unwrap();
        })
        .await;
        let mut buffer = BytesMut::new();
        let error = loop {
            match soon(stream.read(&mut buffer)).await {
                Ok(length) => assert_ne!(length, 0),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("decrypt") && &buffer[..] == b"+OK\r\n", "{error}");
        serving.join().unwrap();
    }

    /// Answers each ECHO with what it was given.
    fn answer(mut stream: Served) {
        const BEGINNING: &[u8] = b"*2\r\n$4\r\nECHO\r\n";
        let (mut unread, mut bytes) = (BytesMut::new(), vec![0; 20_000]);
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            unread.extend_from_slice(&bytes[..length]);
            while let Some(argument) = unread.strip_prefix(BEGINNING)
                && let Some(line) = argument.windows(2).position(|end| end == b"\r\n")
            {
                let count: usize = std::str::from_utf8(&argument[1..line]).unwrap().parse().unwrap();
                let end = BEGINNING.len() + line + 2 + count + 2;
                if unread.len() < end {
                    break;
                }
                stream.write_all(&unread.split_to(end)[BEGINNING.len()..]).unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_write_to_one_link_and_each_gets_its_answer() {
        let (address, connector, serving) = server(&version::TLS13, Some(16_384), |_| {}, answer);
        let address = Address::Tcp { host: "localhost".to_owned(), port: address.port() };
        let stream = Arc::new(Stream::connect(&address, Some(&connector)).await.unwrap());
        let link = Link::new("Redis".into(), ServerInfo::default(), 10_000, &stream);
        let (writer, reader) = (link.clone(), link.clone());
        let (to_write, to_read) = (stream.clone(), stream);
        let driving = tokio::spawn(async move {
            let reading = async {
                let (mut decoder, mut replies) = (Decoder::default(), Vec::new());
                loop {
                    while let Some(Incoming::Reply(reply)) = decoder.next().unwrap() {
                        replies.push(reply);
                    }
                    reader.receive(&mut replies).unwrap();
                    assert_ne!(to_read.read(decoder.buffer()).await.unwrap(), 0);
                }
            };
            tokio::select! {
                error = writer.write(&to_write) => panic!("{:?}", error.err()),
                () = reading => {}
            }
        });
        let callers = (0..8usize).map(|caller| {
            let link = link.clone();
            tokio::spawn(async move {
                for call in 0..30usize {
                    let text = format!("{caller} {call} ").repeat((caller + 1) * (call % 7) * 40);
                    let reply = link.send(&["ECHO", &text]).await.unwrap();
                    assert!(reply.as_str() == Some(&text), "{caller} {call}");
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            soon(caller).await.unwrap();
        }
        driving.abort();
        drop((driving.await, link));
        serving.join().unwrap();
    }

    /// The question that is asked on a second connection when the first one gets no answer.
    fn question(listener: &TcpListener) -> std::net::TcpStream {
        let (mut asking, _) = listener.accept().unwrap();
        let mut question = [0; QUESTION.len()];
        asking.read_exact(&mut question).unwrap();
        assert_eq!(question, QUESTION);
        asking
    }

    #[tokio::test]
    async fn who_waits_for_a_line_speaks_no_tls() {
        let (gone, hold) = std::sync::mpsc::channel::<()>();
        let plain = move |listener: &TcpListener| {
            let mut asking = question(listener);
            asking.write_all(b"+PONG\r\n").unwrap();
            // The first connection stays open, and silent.
            assert!(hold.recv().is_err());
        };
        let (address, connector, serving) = server(&version::TLS13, None, plain, drop);
        let socket = TcpStream::connect(address).await.unwrap();
        let fault = soon(connector.encrypt(socket, "localhost")).await.err();
        assert_eq!(fault.as_deref(), Some(NO_TLS));
        drop(gone);
        serving.join().unwrap();
    }

    #[tokio::test]
    async fn who_is_slow_to_encrypt_is_waited_for() {
        let slow = |listener: &TcpListener| drop(question(listener));
        let (address, connector, serving) = server(&version::TLS13, None, slow, echo);
        let socket = TcpStream::connect(address).await.unwrap();
        let stream = soon(connector.encrypt(socket, "localhost")).await.unwrap();
        write(&stream, b"hello").await;
        assert_eq!(soon(read(&stream, 5)).await, b"hello"[..]);
        drop(stream);
        serving.join().unwrap();
    }
}
