//! The destinations of log lines. Only the thread that writes them uses these.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The socket on which journald receives records.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// The end of a record for journald in the queue: a record has several lines and is sent as one
/// datagram.
pub const RECORD_END: char = '\0';

/// The most that is written to a pipe atomically (`pipe(7)`): the bytes of other writers come
/// before or after.
const PIPE_BUF: usize = 4096;

/// A destination of log lines.
#[derive(Debug)]
pub enum Sink {
    /// Standard error.
    StandardError,
    /// Standard output.
    StandardOutput,
    /// A file, to which lines are appended.
    File(LogFile),
    /// journald.
    Journal(UnixDatagram),
}

/// A file that may be renamed away at any time.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl Sink {
    /// The file at `path`, created if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let path = path.to_owned();
        Ok(Self::File(LogFile { path, file }))
    }

    /// The journald that listens at `path`.
    ///
    /// # Errors
    /// When it cannot be connected to, for example because none is running.
    pub fn journal(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self::Journal(socket))
    }

    /// Writes whole lines. Returns how many of them were lost.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        let written = match self {
            Self::StandardError => write_in_pieces(&mut io::stderr(), lines),
            Self::StandardOutput => write_in_pieces(&mut io::stdout().lock(), lines),
            Self::File(log) => {
                // Rotation needs no signal: the name is checked with every batch, which is cheap.
                if log.has_moved() {
                    log.reopen();
                }
                log.file.write_all(lines)
            }
            Self::Journal(socket) => {
                let records = lines.split(|byte| *byte == RECORD_END as u8);
                let records = records.filter(|record| !record.is_empty());
                let lost = records.filter(|record| socket.send(record).is_err());
                return lost.count() as u64;
            }
        };
        match written {
            Ok(()) => 0,
            // Some may have been written, but not even their number is known.
            Err(_) => lines.iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }

    /// Reopens the file: it may have been renamed, and the old one may have to be closed.
    pub(super) fn reopen(&mut self) {
        if let Self::File(log) = self {
            log.reopen();
        }
    }
}

/// Writes lines so that those of another process, which may write to the same pipe after an
/// upgrade, never come within one.
fn write_in_pieces(to: &mut impl Write, lines: &[u8]) -> io::Result<()> {
    let mut rest = lines;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(piece(rest));
        to.write_all(piece)?;
        to.flush()?;
        rest = more;
    }
    Ok(())
}

/// The length of the next piece: as many whole lines as a pipe accepts atomically, or a single
/// longer one.
fn piece(lines: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let fitting = lines.get(..PIPE_BUF).unwrap_or(lines);
    let end = fitting.iter().rposition(is_end);
    let end = end.or_else(|| lines.iter().position(is_end));
    end.map_or(lines.len(), |at| at + 1)
}

impl LogFile {
    /// Whether the path now leads to another file or to none.
    fn has_moved(&self) -> bool {
        let identity = |data: &std::fs::Metadata| (data.dev(), data.ino());
        let (Ok(named), Ok(open)) = (std::fs::metadata(&self.path), self.file.metadata()) else {
            return true;
        };
        identity(&named) != identity(&open)
    }

    /// Reopens the file. If that fails, the open one is kept: better a log in the wrong place than
    /// none.
    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot reopen the log file; writing to the one that is open");
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_was_renamed_away_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let aside = folder.path().join("access.log.1");
        let mut sink = Sink::file(&path).unwrap();
        assert_eq!(sink.write(b"one\n"), 0);
        fs::rename(&path, &aside).unwrap();
        assert_eq!(sink.write(b"two\n"), 0);
        sink.reopen();
        assert_eq!(sink.write(b"three\n"), 0);
        assert_eq!(fs::read_to_string(&aside).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\nthree\n");
        // The folder is gone, so the file that is open is kept.
        drop(folder);
        assert_eq!(sink.write(b"four\n"), 0);
    }

    #[test]
    fn journald_gets_one_record_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Sink::journal(&path).is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::journal(&path).unwrap();
        assert_eq!(sink.write(b"MESSAGE=a\nX=1\n\0MESSAGE=b\n\0"), 0);
        let mut received = [0; 64];
        for expected in ["MESSAGE=a\nX=1\n", "MESSAGE=b\n"] {
            let length = journal.recv(&mut received).unwrap();
            assert_eq!(&received[..length], expected.as_bytes());
        }
        drop(journal);
        assert_eq!(sink.write(b"MESSAGE=c\n\0MESSAGE=d\n\0"), 2);
    }

    #[test]
    fn pieces_are_whole_lines() {
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        let lines = |lengths: &[usize]| lengths.iter().copied().flat_map(line).collect::<Vec<u8>>();
        for (lengths, expected) in [
            (&[100][..], 100),
            (&[4096, 1], 4096),
            (&[2000, 2000, 2000], 4000),
            (&[5000, 10], 5000),
            (&[10, 5000], 10),
        ] {
            assert_eq!(piece(&lines(lengths)), expected, "{lengths:?}");
        }
        assert_eq!(piece(b"no end"), 6);
        let given = lines(&[3000, 3000, 10, 9000, 1]);
        let mut written = Vec::new();
        write_in_pieces(&mut written, &given).unwrap();
        assert_eq!(written, given);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        // A disk that is always full.
        let mut sink = Sink::file(Path::new("/dev/full")).unwrap();
        assert_eq!(sink.write(b"one\ntwo\n"), 2);
    }
}
