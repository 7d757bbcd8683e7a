//! A response that is a stream of lines, such as the events of a watch, one JSON object in each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::timeout;

use super::HttpsClientError;
use super::counters::ClientCounters;
use super::service_body::ServiceBody;
use crate::causes::with_causes;

/// The lines of a response, as they come. Dropping it closes the connection.
pub struct LineStream {
    body: ServiceBody,
    lines: LineBuffer,
    is_ended: bool,
    counters: Arc<ClientCounters>,
    is_reporting: bool,
}

impl fmt::Debug for LineStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LineStream")
            .field("host", &self.body.host())
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl LineStream {
    pub(super) fn new(
        body: ServiceBody,
        max_line_bytes: usize,
        (counters, is_reporting): (Arc<ClientCounters>, bool),
    ) -> Self {
        Self {
            body,
            lines: LineBuffer::new(max_line_bytes),
            is_ended: false,
            counters,
            is_reporting,
        }
    }

    /// The next line that is not empty, without its end; `None` when the response has ended after a whole line.
    /// Nothing is lost if the future is dropped. After an error, the stream is of no more use.
    ///
    /// # Errors
    /// [`HttpsClientError::Silence`] if nothing has come for `silence`, [`HttpsClientError::CutLine`],
    /// [`HttpsClientError::LongLine`], [`HttpsClientError::Exchange`].
    pub async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, HttpsClientError> {
        let result = self.read_line(silence).await;
        if let Err(error) = &result {
            let failure = with_causes(error);
            self.counters.count_interruption(&failure);
            if self.is_reporting {
                self.counters.report(&failure);
            }
        }
        result
    }

    /// What is left of the response, for one that has another status than expected: at most `limit` bytes, within
    /// `time` in all. What was read of a line before is not in it.
    ///
    /// # Errors
    /// [`HttpsClientError::Timeout`], [`HttpsClientError::TooLarge`], [`HttpsClientError::Exchange`].
    pub async fn collect(self, limit: usize, time: Duration) -> Result<Bytes, HttpsClientError> {
        let host = self.body.host().into();
        match timeout(time, self.body.collect(limit)).await {
            Ok(result) => result,
            Err(_) => Err(HttpsClientError::Timeout { host, limit: time }),
        }
    }

    async fn read_line(&mut self, silence: Duration) -> Result<Option<Bytes>, HttpsClientError> {
        loop {
            match self.lines.take() {
                Ok(Some(line)) => return Ok(Some(line)),
                Ok(None) if !self.is_ended => {}
                Ok(None) if self.lines.is_empty() => return Ok(None),
                Ok(None) => {
                    let host = self.body.host().into();
                    return Err(HttpsClientError::CutLine { host });
                }
                Err(LineTooLong(limit)) => {
                    let host = self.body.host().into();
                    return Err(HttpsClientError::LongLine { host, limit });
                }
            }
            match timeout(silence, self.body.next()).await {
                Ok(Ok(Some(part))) => self.lines.extend(&part),
                Ok(Ok(None)) => self.is_ended = true,
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    return Err(HttpsClientError::Silence {
                        host: self.body.host().into(),
                        limit: silence,
                    });
                }
            }
        }
    }
}

/// A line is longer than this many bytes.
#[derive(Debug, PartialEq, Eq)]
struct LineTooLong(usize);

/// The beginning of a line that has not come whole, and the lines after it.
#[derive(Debug)]
struct LineBuffer {
    bytes: BytesMut,
    /// How many of them were searched for the end of a line, so that none is searched twice.
    searched: usize,
    max_line_bytes: usize,
}

impl LineBuffer {
    fn new(max_line_bytes: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            searched: 0,
            max_line_bytes,
        }
    }

    fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The next line that is not empty, if it is whole.
    fn take(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let unseen = self.bytes.get(self.searched..).unwrap_or_default();
            let end = unseen.iter().position(|byte| *byte == b'\n');
            let length = self.searched + end.unwrap_or(unseen.len());
            if length > self.max_line_bytes {
                return Err(LineTooLong(self.max_line_bytes));
            }
            if end.is_none() {
                self.searched = length;
                return Ok(None);
            }
            let line = self.bytes.split_to(length).freeze();
            self.bytes.advance(1);
            self.searched = 0;
            let line = line
                .strip_suffix(b"\r")
                .map_or(line.clone(), |kept| line.slice_ref(kept));
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of(parts: &[&[u8]], limit: usize) -> Result<Vec<Bytes>, LineTooLong> {
        let mut buffer = LineBuffer::new(limit);
        let mut lines = Vec::new();
        for part in parts {
            buffer.extend(part);
            while let Some(line) = buffer.take()? {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    #[test]
    fn a_line_ends_at_its_end_and_has_a_limit() {
        let check = |text: &str, limit: usize, expected: Result<&[&str], usize>| {
            let expected = expected
                .map(|lines| {
                    lines
                        .iter()
                        .map(|line| Bytes::from((*line).to_owned()))
                        .collect()
                })
                .map_err(LineTooLong);
            assert_eq!(lines_of(&[text.as_bytes()], limit), expected, "{text:?}");
        };
        check("a\nbc\n", 2, Ok(&["a", "bc"]));
        check("a\r\n\r\n\nb\n", 2, Ok(&["a", "b"]));
        check("a\nbc", 2, Ok(&["a"]));
        check("abc", 2, Err(2));
        check("abc\n", 2, Err(2));
        check("a\nabc", 2, Err(2));
        check("", 0, Ok(&[]));
    }

    proptest! {
        #[test]
        fn the_parts_do_not_matter(
            lines in prop::collection::vec("[a-c]{1,5}", 0..8),
            cuts in prop::collection::vec(0usize..50, 0..8),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts
                .windows(2)
                .map(|cut| &text.as_bytes()[cut[0]..cut[1]])
                .collect();
            let expected: Vec<Bytes> = lines.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(lines_of(&parts, 5), Ok(expected));
        }
    }
}
