//! What rustls has to say after it has processed something, for either side of a connection.

use rustls::Error;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use tokio::io::ReadBuf;

use super::plain::Pieces;
use super::rest::Rest;
use super::{MAX_OVERHEAD, MAX_PLAIN};

/// Whether rustls has more to say about the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EngineStep {
    Again,
    Rest,
}

/// Where everything goes that comes out of rustls.
pub(super) struct Outputs<'a, 'b> {
    pub(super) into: &'a mut ReadBuf<'b>,
    pub(super) unread: &'a mut Rest,
    pub(super) unsent: &'a mut Rest,
    pub(super) peer_has_ended: &'a mut bool,
}

impl Outputs<'_, '_> {
    /// Takes what rustls offers in this status: how many bytes of its input are done with, and whether there is
    /// more to say about the rest.
    pub(super) fn take<Data>(
        &mut self,
        status: UnbufferedStatus<'_, '_, Data>,
    ) -> (usize, Result<EngineStep, Error>) {
        let mut discard = status.discard;
        let step = match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        self.plain(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(EngineStep::Again),
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                self.encode(&mut message).map(|()| EngineStep::Again)
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                // It is in `unsent`, and leaves from there in order.
                sent.done();
                Ok(EngineStep::Again)
            }
            Ok(ConnectionState::PeerClosed) => {
                *self.peer_has_ended = true;
                Ok(EngineStep::Again)
            }
            // Early data is off, and there are no other states.
            Ok(ConnectionState::ReadEarlyData(_)) => Err(failed()),
            Ok(_) => Ok(EngineStep::Rest),
            Err(error) => Err(error),
        };
        (discard, step)
    }

    fn plain(&mut self, plain: &[u8]) {
        let room = if self.unread.bytes().is_empty() {
            self.into.remaining()
        } else {
            0
        };
        let (now, later) = plain.split_at(plain.len().min(room));
        self.into.put_slice(now);
        self.unread.append(later);
    }

    fn encode<Data>(&mut self, message: &mut EncodeTlsData<'_, Data>) -> Result<(), Error> {
        let Err(EncodeError::InsufficientSize(size)) = message.encode(&mut []) else {
            return Ok(());
        };
        let place = self.unsent.reserve(size.required_size);
        let encoded = message.encode(place);
        encoded
            .map(|_| ())
            .map_err(|error| Error::General(error.to_string()))
    }
}

/// What seals, on either side.
pub(super) trait Sealing {
    fn seal(&mut self, pieces: Pieces<'_, '_>, out: &mut [u8]) -> Result<(usize, usize), Error>;
    fn end(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Sealing for WriteTraffic<'_, Data> {
    fn seal(
        &mut self,
        mut pieces: Pieces<'_, '_>,
        out: &mut [u8],
    ) -> Result<(usize, usize), Error> {
        let (mut taken, mut sealed) = (0, 0);
        loop {
            let room = out.get_mut(sealed..).unwrap_or_default();
            let most = room.len().saturating_sub(MAX_OVERHEAD).min(MAX_PLAIN);
            let piece = pieces.next(most);
            if piece.is_empty() {
                return Ok((taken, sealed));
            }
            match self.encrypt(piece, room) {
                Ok(length) => {
                    taken += piece.len();
                    sealed += length;
                }
                // What was sealed before counts: the next call has the error.
                Err(_) if taken > 0 => return Ok((taken, sealed)),
                Err(_) => return Err(Error::EncryptError),
            }
        }
    }

    fn end(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(out)
    }
}

pub(super) fn failed() -> Error {
    Error::General("the TLS connection has ended".to_owned())
}
