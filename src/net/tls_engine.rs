//! One end of a TLS connection, without I/O: records in and plaintext out, and the other way round.
//!
//! It drives rustls's unbuffered interface, which owns no buffers: records are opened where the caller has received
//! them, and sealed into what the caller sends. A connection that is idle holds the state of rustls, and the record
//! that has come in part. It knows no sockets: `stream/tls` does.
//!
//! All records go through rustls. What `RustlsEnd` is to the rest of this file, a record layer of our own could be
//! as well, for a connection whose handshake is complete.

mod plain;
mod records;
mod rest;
mod status;

use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::ConnectionState;
use rustls::{CommonState, Error};
use tokio::io::ReadBuf;

use self::plain::Pieces;
use self::records::{HEADER, record_length, whole_records};
use self::rest::Rest;
use self::status::{EngineStep, Outputs, Sealing, failed};
use super::client_hello::{self, AskedFor};

/// The most plaintext in a record, in bytes (RFC 8446 section 5.1).
pub(super) const MAX_PLAIN: usize = 16 * 1024;

/// The most that sealing adds to a record, in bytes: its header, and what TLS 1.2 and the ciphers add.
pub(super) const MAX_OVERHEAD: usize = 5 + 256;

/// The most that is held of what was received, in bytes: handshake messages may be as long as this, and no record is
/// longer. It is rustls's limit for its own buffer.
pub(super) const MAX_HELD: usize = 0xffff;

/// The longest record that rustls takes, in bytes (RFC 5246 section 6.2.3).
pub(super) const MAX_RECORD: usize = 5 + MAX_PLAIN + 2048;

/// Room for a close_notify, and for the answer to a KeyUpdate before it.
const CLOSE_ROOM: usize = 512;

/// One end of a TLS connection.
pub struct TlsEngine {
    connection: RustlsEnd,
    /// What was received and cannot be opened yet: a record that has come in part, after the records that have
    /// brought the beginning of a handshake message.
    held: Vec<u8>,
    /// How many bytes of `held` are in complete records, which rustls has seen.
    seen: usize,
    /// Plaintext for which the reader had no room.
    unread: Rest,
    /// Records that wait to be sent.
    unsent: Rest,
    asked: AskedFor,
    /// The peer has said that it sends no more.
    peer_has_ended: bool,
    /// We have said that we send no more.
    has_ended: bool,
    has_failed: bool,
}

enum RustlsEnd {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Calls `$call` for the status that rustls has after it has processed `$records`.
macro_rules! process {
    ($connection:expr, $records:expr, $status:ident => $call:expr) => {
        match $connection {
            RustlsEnd::Server(server) => {
                let $status = server.process_tls_records($records);
                $call
            }
            RustlsEnd::Client(client) => {
                let $status = client.process_tls_records($records);
                $call
            }
        }
    };
}

impl TlsEngine {
    /// The end of a server.
    ///
    /// # Errors
    /// The settings are not valid.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let server = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(RustlsEnd::Server(server)))
    }

    /// The end of a client of the server with this name.
    ///
    /// # Errors
    /// The settings are not valid.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let client = UnbufferedClientConnection::new(config, name)?;
        let mut engine = Self::new(RustlsEnd::Client(client));
        // Its first message waits for nothing.
        engine.process(&mut [], &mut ReadBuf::new(&mut []))?;
        Ok(engine)
    }

    fn new(connection: RustlsEnd) -> Self {
        Self {
            connection,
            held: Vec::new(),
            seen: 0,
            unread: Rest::default(),
            unsent: Rest::default(),
            asked: AskedFor::default(),
            peer_has_ended: false,
            has_ended: false,
            has_failed: false,
        }
    }

    /// What was agreed with the peer.
    pub fn agreed(&self) -> &CommonState {
        match &self.connection {
            RustlsEnd::Server(server) => server,
            RustlsEnd::Client(client) => client,
        }
    }

    /// Whether this is the end of a server.
    pub fn is_server(&self) -> bool {
        matches!(self.connection, RustlsEnd::Server(_))
    }

    /// The name of the server that the client has asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.asked.server_name.as_deref()
    }

    /// Whether the client wants to validate a name by `tls-alpn-01`, and nothing else.
    pub fn asks_for_challenge(&self) -> bool {
        self.asked.challenge
    }

    /// Whether the peer has said that it sends no more.
    pub fn peer_has_ended(&self) -> bool {
        self.peer_has_ended
    }

    /// The number of bytes that have to stand before what is received next.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Plaintext that has not been read, in bytes.
    pub fn unread(&self) -> usize {
        self.unread.bytes().len()
    }

    /// The records that have to be sent before anything else.
    pub fn unsent(&self) -> &[u8] {
        self.unsent.bytes()
    }

    /// Notes that this many bytes of [`Self::unsent`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.unsent.advance(count);
    }

    /// Keeps records that were sealed and could not be sent.
    pub fn keep_unsent(&mut self, records: &[u8]) {
        self.unsent.append(records);
    }

    /// Moves plaintext for which there was no room to `into`.
    pub fn read_unread(&mut self, into: &mut ReadBuf<'_>) {
        let bytes = self.unread.bytes();
        let count = bytes.len().min(into.remaining());
        into.put_slice(bytes.get(..count).unwrap_or_default());
        self.unread.advance(count);
    }

    /// Takes in what was received: `buffer` has it behind as many bytes as [`Self::held`] says, which may be
    /// anything. Plaintext goes to `into`; for what is more than that has room for, see [`Self::read_unread`].
    ///
    /// # Errors
    /// What the peer has sent breaks the rules, or is a fatal alert. The connection has failed: what there is in
    /// [`Self::unsent`] is for the peer, and nothing more can be received or sealed.
    pub fn receive(&mut self, buffer: &mut [u8], into: &mut ReadBuf<'_>) -> Result<(), Error> {
        if self.has_failed {
            return Err(failed());
        }
        // "Any data received after a closure alert has been received MUST be ignored" (RFC 8446 section 6.1).
        if self.peer_has_ended {
            return Ok(());
        }
        let received = buffer.get(self.held.len()..).unwrap_or_default();
        // A record that comes byte by byte is copied once, and rustls sees it when it is complete.
        if received.len() < self.awaited() {
            self.held.extend_from_slice(received);
            return Ok(());
        }
        if self.seen == 0 {
            if let Some(before) = buffer.get_mut(..self.held.len()) {
                before.copy_from_slice(&self.held);
            }
            self.held = Vec::new();
            let opened = self.open(buffer, into)?;
            self.held = buffer.get(opened..).unwrap_or_default().to_vec();
            return Ok(());
        }
        // The beginning of a handshake message is copied once as well, in however many records it comes.
        let mut records = std::mem::take(&mut self.held);
        records.extend_from_slice(received);
        let opened = self.open(&mut records, into)?;
        self.held = match opened {
            0 => records,
            _ => records.get(opened..).unwrap_or_default().to_vec(),
        };
        Ok(())
    }

    /// Opens the records at the beginning of `buffer`; returns how many bytes are done with.
    fn open(&mut self, buffer: &mut [u8], into: &mut ReadBuf<'_>) -> Result<usize, Error> {
        let whole = self.seen + whole_records(buffer.get(self.seen..).unwrap_or_default());
        let opened = match self.process(buffer, into) {
            // Nothing of what follows the end counts.
            Ok(_) if self.peer_has_ended => buffer.len(),
            Ok(opened) => opened,
            Err(error) => {
                self.fail(into);
                return Err(error);
            }
        };
        if buffer.len().saturating_sub(opened) > MAX_HELD {
            self.has_failed = true;
            return Err(Error::General("message buffer full".to_owned()));
        }
        self.seen = whole.saturating_sub(opened);
        Ok(opened)
    }

    /// How many bytes have to come before rustls can do anything with them: the rest of a record, or of its header,
    /// which may be wrong.
    fn awaited(&self) -> usize {
        let partial = self.held.get(self.seen..).unwrap_or_default();
        match record_length(partial) {
            Some(length) => length.saturating_sub(partial.len()),
            None => HEADER - partial.len(),
        }
    }

    /// Processes `records`; returns how many bytes of them are done with.
    fn process(&mut self, records: &mut [u8], into: &mut ReadBuf<'_>) -> Result<usize, Error> {
        let mut done = 0;
        loop {
            let left = records.get_mut(done..).unwrap_or_default();
            let mut outputs = Outputs {
                into,
                unread: &mut self.unread,
                unsent: &mut self.unsent,
                peer_has_ended: &mut self.peer_has_ended,
            };
            let (discard, step) =
                process!(&mut self.connection, left, status => outputs.take(status));
            if let Some(asked) = client_hello::take() {
                self.asked = asked;
            }
            done += discard;
            if step? == EngineStep::Rest {
                return Ok(done);
            }
        }
    }

    /// After an error, what rustls wants to tell the peer is still inside it.
    fn fail(&mut self, into: &mut ReadBuf<'_>) {
        self.has_failed = true;
        // As long as something is queued, it looks at no input.
        while self.agreed().wants_write() {
            let mut outputs = Outputs {
                into,
                unread: &mut self.unread,
                unsent: &mut self.unsent,
                peer_has_ended: &mut self.peer_has_ended,
            };
            let (_, step) = process!(&mut self.connection, &mut [], status => outputs.take(status));
            if step.is_err() {
                return;
            }
        }
    }

    /// Seals as much of `plain` as there is room for in `out`, in full records as far as possible. `gathered` is
    /// working space of 16 KiB, for records whose plaintext is in pieces. Returns how many bytes of `plain` were
    /// sealed, and how many of `out` are to be sent, after [`Self::unsent`].
    ///
    /// # Errors
    /// The handshake is not complete, the connection has failed, or we have ended it.
    pub fn seal(
        &mut self,
        plain: &[IoSlice<'_>],
        out: &mut [u8],
        gathered: &mut [u8],
    ) -> Result<(usize, usize), Error> {
        if self.has_failed || self.has_ended {
            return Err(failed());
        }
        let pieces = Pieces::new(plain, gathered);
        let sealed = self.with_traffic(|traffic| traffic.seal(pieces, out));
        sealed.unwrap_or(Err(Error::HandshakeNotComplete))
    }

    /// Adds to [`Self::unsent`] that we send no more (close_notify), once, if the handshake is complete.
    pub fn end(&mut self) {
        if self.has_failed || std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let mut out = [0; CLOSE_ROOM];
        let sealed = self.with_traffic(|traffic| traffic.end(&mut out));
        if let Some(Ok(length)) = sealed {
            self.unsent.append(out.get(..length).unwrap_or_default());
        }
    }

    /// Calls `act` with what seals, if rustls lets us send.
    fn with_traffic<T>(&mut self, act: impl FnOnce(&mut dyn Sealing) -> T) -> Option<T> {
        let mut nothing = ReadBuf::new(&mut []);
        let mut act = Some(act);
        loop {
            let mut outputs = Outputs {
                into: &mut nothing,
                unread: &mut self.unread,
                unsent: &mut self.unsent,
                peer_has_ended: &mut self.peer_has_ended,
            };
            // What is held has no complete record that rustls has not seen, so nothing of it is opened.
            let step = process!(&mut self.connection, &mut self.held, status => match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return act.take().map(|act| act(&mut traffic));
                }
                _ => outputs.take(status).1,
            });
            if step != Ok(EngineStep::Again) {
                return None;
            }
        }
    }
}

impl fmt::Debug for TlsEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsEngine")
            .field("is_server", &self.is_server())
            .field("held", &self.held.len())
            .field("unread", &self.unread.bytes().len())
            .field("unsent", &self.unsent.bytes().len())
            .field("peer_has_ended", &self.peer_has_ended)
            .field("has_ended", &self.has_ended)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
