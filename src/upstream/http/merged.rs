//! A body whose small pieces are merged.
//!
//! A peer may send its body in chunks of one byte, and hyper hands over each of them alone. To pass on
//! each one alone would cost a write per byte. So a small piece is held back while more follow at once,
//! and passed on as soon as none does: one turn of the task later.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::net::turns;

/// A piece of at least this many bytes is passed on as it is, and small ones once they are as many.
const ENOUGH_BYTES: usize = 4 * 1024;

/// At most this many pieces are merged: each takes a turn of the task, and the first of them waits.
const MAX_PIECES: usize = 64;

/// What a body returns: a piece, trailers, an error, or its end.
type PolledFrame<E> = Option<Result<Frame<Bytes>, E>>;

/// A body whose small pieces are merged. A body with a known length is passed on as it comes.
#[derive(Debug)]
pub struct MergedBody<B: Body> {
    body: B,
    held: HeldPieces,
    /// What came behind the held bytes and cannot be merged with them.
    next: Option<PolledFrame<B::Error>>,
    /// The turn in which a further piece was not there yet.
    waited: Option<u64>,
}

/// Small pieces that wait for more.
#[derive(Debug, Default)]
struct HeldPieces {
    /// The first piece: alone, it is not copied.
    first: Bytes,
    /// All pieces, if there are several.
    merged: BytesMut,
    pieces: usize,
}

impl HeldPieces {
    fn len(&self) -> usize {
        self.first.len() + self.merged.len()
    }

    fn is_full(&self) -> bool {
        self.pieces >= MAX_PIECES || self.len() >= ENOUGH_BYTES
    }

    fn push(&mut self, piece: Bytes) {
        match self.pieces {
            0 => self.first = piece,
            _ => {
                let first = std::mem::take(&mut self.first);
                self.merged.extend_from_slice(&first);
                self.merged.extend_from_slice(&piece);
            }
        }
        self.pieces += 1;
    }

    fn take(&mut self) -> Option<Bytes> {
        let Self {
            first,
            merged,
            pieces,
        } = std::mem::take(self);
        match pieces {
            0 => None,
            1 => Some(first),
            _ => Some(merged.freeze()),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> MergedBody<B> {
    /// Merges the small pieces of `body`.
    pub(super) fn new(body: B) -> Self {
        Self {
            body,
            held: HeldPieces::default(),
            next: None,
            waited: None,
        }
    }

    /// Whether bytes are held that the next turn passes on.
    pub(super) fn holds_bytes(&self) -> bool {
        self.held.pieces > 0
    }

    /// Waits for the first pieces, but not longer than it takes the other side to decode what it has read
    /// already: a body that is broken from the start is known before anything of it is passed on.
    ///
    /// # Errors
    /// The error of the body.
    pub(super) async fn begin(&mut self) -> Result<(), B::Error> {
        std::future::poll_fn(|cx| match self.poll_gather(cx) {
            Poll::Pending if !self.holds_bytes() => wait_for_more(&mut self.waited, cx),
            polled => polled,
        })
        .await;
        self.waited = None;
        match self.next.take() {
            Some(Some(Err(error))) => Err(error),
            next => {
                self.next = next;
                Ok(())
            }
        }
    }

    /// Holds what is there, until no more may be merged.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let merges = self.body.size_hint().exact().is_none();
            let is_enough = self.holds_bytes() && (self.held.is_full() || !merges);
            if is_enough || self.next.is_some() {
                return Poll::Ready(());
            }
            let piece = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(piece) => piece,
                Poll::Pending if self.holds_bytes() => return wait_for_more(&mut self.waited, cx),
                Poll::Pending => return Poll::Pending,
            };
            self.waited = None;
            let data = match piece {
                Some(Ok(frame)) => frame.into_data().map_err(|trailers| Some(Ok(trailers))),
                end => Err(end),
            };
            match data {
                Ok(data) if self.holds_bytes() && data.len() >= ENOUGH_BYTES => {
                    self.next = Some(Some(Ok(Frame::data(data))));
                }
                Ok(data) => self.held.push(data),
                Err(next) => self.next = Some(next),
            }
        }
    }

    /// Passes on what is held; if nothing is, what comes next.
    fn release(&mut self) -> Poll<PolledFrame<B::Error>> {
        self.waited = None;
        match self.held.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Ready(self.next.take().flatten()),
        }
    }
}

/// Waits for one turn, in which the task on the other side may bring more. hyper polls a body several
/// times in one turn, so it is the turns that count.
fn wait_for_more(waited: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
    let now = turns::current();
    match *waited {
        None => {
            *waited = Some(now);
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Some(turn) if turn == now => Poll::Pending,
        Some(_) => Poll::Ready(()),
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for MergedBody<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.poll_gather(cx));
        self.release()
    }

    fn is_end_stream(&self) -> bool {
        !self.holds_bytes() && self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // A piece of a body with a known length is held only at its beginning, and nothing behind it.
        let rest = self.body.size_hint();
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest + self.held.len() as u64),
            None => rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use futures_util::FutureExt;
    use http::HeaderMap;

    use crate::net::turns::TurnTask;

    /// What a peer has sent, as hyper would hand it over.
    #[derive(Debug, Clone)]
    enum Sent {
        Data(&'static str),
        Trailers,
        /// The next piece is there only after this many turns.
        Later(u64),
        Broken,
    }

    #[derive(Debug, PartialEq)]
    struct SentBroken;

    struct SentBody {
        sent: VecDeque<Sent>,
        length: Option<u64>,
        turn: u64,
    }

    impl Body for SentBody {
        type Data = Bytes;
        type Error = SentBroken;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<PolledFrame<SentBroken>> {
            if turns::current() < self.turn {
                return Poll::Pending;
            }
            match self.sent.pop_front() {
                Some(Sent::Later(turns)) => {
                    self.turn = turns::current() + turns;
                    Poll::Pending
                }
                Some(Sent::Data(data)) => {
                    self.length = self.length.map(|length| length - data.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(data.into()))))
                }
                Some(Sent::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
                Some(Sent::Broken) => Poll::Ready(Some(Err(SentBroken))),
                None => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.length == Some(0)
        }

        fn size_hint(&self) -> SizeHint {
            self.length
                .map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn body(sent: &[Sent], length: Option<u64>) -> MergedBody<SentBody> {
        MergedBody::new(SentBody {
            sent: sent.iter().cloned().collect(),
            length,
            turn: 0,
        })
    }

    /// What is passed on, up to the end, with `|` for each turn without a piece.
    fn passed_on(body: &mut MergedBody<SentBody>) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            // Polled several times in a turn, as by hyper.
            let turn = TurnTask::new(std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                Poll::Ready(match polled {
                    Poll::Pending => Pin::new(&mut *body).poll_frame(cx),
                    ready => ready,
                })
            }));
            seen.push(match turn.now_or_never().unwrap() {
                Poll::Pending => "|".to_owned(),
                Poll::Ready(None) => return seen,
                Poll::Ready(Some(Err(SentBroken))) => "broken".to_owned(),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
                    Err(_) => "trailers".to_owned(),
                },
            });
        }
    }

    #[test]
    fn small_pieces_are_merged_while_more_follow_at_once() {
        use Sent::*;
        let large: &'static str = "x".repeat(ENOUGH_BYTES).leak();
        for (sent, expected) in [
            (&[Data("a"), Data("b"), Data("c")][..], &["abc"][..]),
            // Alone, a piece waits for one turn, as long as the next one takes, and no longer.
            (&[Data("a"), Later(1), Data("b")], &["|", "ab"]),
            (&[Data("a"), Later(2), Data("b")], &["|", "a", "b"]),
            (&[Later(2), Data("a")], &["|", "|", "a"]),
            (&[Data("a"), Data("b"), Trailers], &["ab", "trailers"]),
            (&[Data("a"), Broken], &["a", "broken"]),
            (&[Data(large), Data("a")], &[large, "a"]),
            (&[Data("a"), Data(large), Data("b")], &["a", large, "b"]),
            (&[], &[]),
        ] {
            assert_eq!(passed_on(&mut body(sent, None)), expected, "{sent:?}");
        }
    }

    #[test]
    fn what_is_merged_has_a_bound() {
        let many = vec![Sent::Data("x"); MAX_PIECES + 1];
        assert_eq!(
            passed_on(&mut body(&many, None)),
            ["x".repeat(MAX_PIECES), "x".into()]
        );
        let half: &'static str = "x".repeat(ENOUGH_BYTES / 2).leak();
        let sent = vec![Sent::Data(half); 3];
        assert_eq!(
            passed_on(&mut body(&sent, None)),
            [half.repeat(2), half.into()]
        );
    }

    #[test]
    fn a_body_with_a_known_length_is_passed_on_as_it_comes() {
        let mut body = body(
            &[Sent::Data("a"), Sent::Data("b"), Sent::Data("c")],
            Some(3),
        );
        TurnTask::new(body.begin()).now_or_never().unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(passed_on(&mut body), ["a", "b", "c"]);
        assert!(body.is_end_stream());
    }

    #[test]
    fn a_body_that_is_broken_from_the_start_is_known_at_once() {
        use Sent::*;
        for (sent, broken) in [
            (&[Broken][..], true),
            (&[Later(1), Broken], true),
            (&[Data("a"), Data("b"), Broken], true),
            (&[Later(2), Broken], false),
            (&[Data("a"), Later(2), Broken], false),
            (&[Data("a"), Trailers], false),
            (&[], false),
        ] {
            let mut body = body(sent, None);
            let mut begin = std::pin::pin!(TurnTask::new(body.begin()));
            let begun = begin
                .as_mut()
                .now_or_never()
                .or_else(|| begin.now_or_never());
            let begun = begun.expect("no more than two turns");
            assert_eq!(begun.is_err(), broken, "{sent:?}");
        }
    }
}
