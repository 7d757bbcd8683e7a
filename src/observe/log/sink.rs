//! The destinations of log lines. Only the thread that writes them uses these.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::loss::{WriteError, WriteOutcome};

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
    /// The last write failed within a line: the next line must not continue it.
    ends_in_line: bool,
}

impl Sink {
    /// Whether lines go to a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The file at `path`, created if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self::File(LogFile {
            path: path.to_owned(),
            file,
            ends_in_line: false,
        }))
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

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> WriteOutcome {
        let written = match self {
            Self::StandardError => write_in_pieces(&mut io::stderr(), lines),
            Self::StandardOutput => write_in_pieces(&mut io::stdout().lock(), lines),
            Self::File(log) => return log.write(lines),
            Self::Journal(socket) => return send(socket, lines),
        };
        match written {
            Ok(()) => WriteOutcome::default(),
            // Some may have been written, but not even their number is known.
            Err(error) => WriteOutcome {
                lost: count_lines(lines),
                error: Some(WriteError::Write(error)),
            },
        }
    }

    /// Reopens the file: it may have been renamed, and the old one may have to be closed.
    pub(super) fn reopen(&mut self) -> WriteOutcome {
        let error = match self {
            Self::File(log) => log.reopen().err(),
            _ => None,
        };
        WriteOutcome { lost: 0, error }
    }
}

/// Sends records to journald, each as a datagram.
fn send(socket: &UnixDatagram, records: &[u8]) -> WriteOutcome {
    let mut written = WriteOutcome::default();
    let records = records.split(|byte| *byte == RECORD_END as u8);
    for record in records.filter(|record| !record.is_empty()) {
        if let Err(error) = socket.send(record) {
            written.lost += 1;
            written.error = Some(WriteError::Write(error));
        }
    }
    written
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
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
    fn reopen(&mut self) -> Result<(), WriteError> {
        self.file = open(&self.path).map_err(WriteError::Reopen)?;
        self.ends_in_line = false;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> WriteOutcome {
        // Rotation needs no signal: the name is checked with every batch, which is cheap.
        let reopened = match self.has_moved() {
            true => self.reopen(),
            false => Ok(()),
        };
        let (lost, error) = match self.append(lines) {
            Ok(()) => (0, reopened.err()),
            Err((lost, error)) => (lost, Some(WriteError::Write(error))),
        };
        WriteOutcome { lost, error }
    }

    /// Appends lines. An error comes with the number of lines that are missing or cut.
    fn append(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        if self.ends_in_line {
            let ended = self.file.write_all(b"\n");
            ended.map_err(|error| (count_lines(lines), error))?;
            self.ends_in_line = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(length) if length > 0 => {
                    self.ends_in_line = rest.get(length - 1) != Some(&b'\n');
                    rest = rest.get(length..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => return Err((count_lines(rest), io::ErrorKind::WriteZero.into())),
                Err(error) => return Err((count_lines(rest), error)),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without waiting: the control runtime opens the file, and a pipe may have no reader.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(flags)
        .open(path)?;
    // Writing may wait: it has a thread of its own.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Would wait for a reader.
    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_one_with_a_reader_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        assert!(open(&path).is_err());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let reader = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
        open(&path).unwrap().write_all(b"one").unwrap();
        let mut bytes = [0; 3];
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 3);
        assert_eq!(&bytes, b"one");
    }

    #[test]
    fn a_file_that_was_renamed_away_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let aside = folder.path().join("access.log.1");
        let mut sink = Sink::file(&path).unwrap();
        assert_eq!(sink.write(b"one\n").lost, 0);
        fs::rename(&path, &aside).unwrap();
        assert_eq!(sink.write(b"two\n").lost, 0);
        assert!(sink.reopen().error.is_none());
        assert_eq!(sink.write(b"three\n").lost, 0);
        assert_eq!(fs::read_to_string(&aside).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\nthree\n");
        // The folder is gone, so the file that is open is kept.
        drop(folder);
        let written = sink.write(b"four\n");
        assert_eq!(written.lost, 0);
        assert!(matches!(written.error, Some(WriteError::Reopen(_))));
    }

    #[test]
    fn journald_gets_one_record_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Sink::journal(&path).is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::journal(&path).unwrap();
        assert_eq!(sink.write(b"MESSAGE=a\nX=1\n\0MESSAGE=b\n\0").lost, 0);
        let mut received = [0; 64];
        for expected in ["MESSAGE=a\nX=1\n", "MESSAGE=b\n"] {
            let length = journal.recv(&mut received).unwrap();
            assert_eq!(&received[..length], expected.as_bytes());
        }
        drop(journal);
        assert_eq!(sink.write(b"MESSAGE=c\n\0MESSAGE=d\n\0").lost, 2);
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
        let written = sink.write(b"one\ntwo\n");
        assert_eq!(written.lost, 2);
        let Some(WriteError::Write(error)) = written.error else {
            panic!("no error");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
