//! Where lines go in the end. Used by the thread that writes them, and by nobody else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where journald takes records.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// What ends a record for journald: it has several lines, and each is sent alone.
pub const RECORD_END: char = '\0';

/// Bytes that nobody else's get between, when they are written to a pipe at once (PIPE_BUF, `pipe(7)`).
const PIPE_BUF: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// Standard error.
    StandardError,
    /// Standard output.
    StandardOutput,
    /// A file, at its end.
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
    /// The file at `path`, made if there is none.
    ///
    /// # Errors
    /// What the system said.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let path = path.to_owned();
        Ok(Self::File(LogFile { path, file }))
    }

    /// Where journald listens.
    ///
    /// # Errors
    /// What the system said: nobody does, say.
    pub fn journal(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self::Journal(socket))
    }

    /// Writes whole lines; how many of them were lost.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        let written = match self {
            Self::StandardError => write_in_pieces(&mut io::stderr(), lines),
            Self::StandardOutput => write_in_pieces(&mut io::stdout().lock(), lines),
            Self::File(log) => {
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
            // Some of them may have been written; which is not known.
            Err(_) => lines.iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }

    /// Somebody may have renamed the file, and may want it to be closed.
    pub(super) fn reopen(&mut self) {
        if let Self::File(log) = self {
            log.reopen();
        }
    }
}

/// Writes lines so that those of another process, which may write to the same pipe after an upgrade,
/// come before or after each and never within one.
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

/// Bytes that are written at once: as many whole lines as a pipe takes in one piece, or a single one.
fn piece(lines: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let fitting = lines.get(..PIPE_BUF).unwrap_or(lines);
    let end = fitting.iter().rposition(is_end);
    let end = end.or_else(|| lines.iter().position(is_end));
    end.map_or(lines.len(), |at| at + 1)
}

impl LogFile {
    /// Whether another file is under its name by now, or none.
    fn has_moved(&self) -> bool {
        let identity = |data: &std::fs::Metadata| (data.dev(), data.ino());
        let (Ok(named), Ok(open)) = (std::fs::metadata(&self.path), self.file.metadata()) else {
            return true;
        };
        identity(&named) != identity(&open)
    }

    /// Where that fails, the one that is open is better than none.
    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot open the log again: writing where it was");
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
        // Nowhere to begin: what is open is kept.
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
        // Always full.
        let mut sink = Sink::file(Path::new("/dev/full")).unwrap();
        assert_eq!(sink.write(b"one\ntwo\n"), 2);
    }
}
