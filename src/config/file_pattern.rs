//! Patterns for the names of files, such as `conf.d/*.toml`.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// The maximum number of files that one pattern may match.
pub const MAX_FILES: usize = 10_000;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Files of one folder, by a pattern for their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePattern {
    path: PathBuf,
    name: Pattern,
    is_glob: bool,
}

impl FilePattern {
    /// Reads a path whose last part may be a pattern. A relative one starts at `base`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(base: &Path, text: &str) -> Result<Self, String> {
        let written = Path::new(text);
        let name = written.file_name().and_then(OsStr::to_str);
        let Some(name) = name.filter(|_| !text.ends_with('/')) else {
            return Err(format!("`{text}` does not end with the name of a file"));
        };
        let folder = written.parent().and_then(Path::to_str).unwrap_or_default();
        if has_wildcard(folder) {
            return Err(format!(
                "`{text}` has a wildcard in the name of a folder: only the name of the file may have one"
            ));
        }
        let invalid =
            |error: glob::PatternError| format!("`{text}` is not a valid pattern: {}", error.msg);
        Ok(Self {
            path: base.join(text),
            name: Pattern::new(name).map_err(invalid)?,
            is_glob: has_wildcard(name),
        })
    }

    /// The path, with the pattern as its last part.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it may stand for any number of files, none included.
    pub fn is_glob(&self) -> bool {
        self.is_glob
    }

    /// The folder that the files are in.
    pub fn folder(&self) -> &Path {
        let folder = self.path.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new("."))
    }

    /// Whether a file of the folder with this name matches.
    pub fn matches(&self, name: &OsStr) -> bool {
        let name = name.to_string_lossy();
        // A wildcard matches no hidden file: that is what editors name the copies that they keep.
        let is_hidden = name.starts_with('.') && !self.name.as_str().starts_with('.');
        !is_hidden && self.name.matches_with(&name, OPTIONS)
    }

    /// Whether the pattern stands for the file at `path`.
    pub fn matches_path(&self, path: &Path) -> bool {
        let name = path
            .file_name()
            .filter(|_| path.parent() == self.path.parent());
        name.is_some_and(|name| self.matches(name))
    }

    /// The files that match now, sorted by the bytes of their names: one more than [`MAX_FILES`] at most.
    ///
    /// # Errors
    /// When the folder cannot be read; [`io::ErrorKind::NotFound`] if there is none.
    pub fn list(&self) -> io::Result<Vec<PathBuf>> {
        if !self.is_glob {
            return Ok(vec![self.path.clone()]);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let name = entry?.file_name();
            if self.matches(&name) {
                names.push(name);
            }
            if names.len() > MAX_FILES {
                break;
            }
        }
        if names.is_empty() && !self.folder().is_dir() {
            // It was removed while it was read.
            return Err(io::ErrorKind::NotFound.into());
        }
        names.sort();
        let path = |name| self.path.with_file_name(name);
        Ok(names.into_iter().map(path).collect())
    }
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_may_be_a_pattern() {
        for (text, name, expected) in [
            ("conf.d/*.toml", "a.toml", true),
            ("conf.d/*.toml", ".toml", false),
            ("conf.d/*.toml", ".a.toml", false),
            ("conf.d/*.toml", ".#a.toml", false),
            ("conf.d/*.toml", "a.toml~", false),
            ("conf.d/*.toml", "a.toml.swp", false),
            ("conf.d/*.toml", "A.TOML", false),
            ("?0-*.toml", "10-chat.toml", true),
            ("?0-*.toml", ".0-chat.toml", false),
            (".*.toml", ".a.toml", true),
            ("[0-9]*.toml", "1.toml", true),
            ("[0-9]*.toml", "a.toml", false),
            ("/etc/tidegate/chat.toml", "chat.toml", true),
            ("/etc/tidegate/chat.toml", "chatatoml", false),
        ] {
            let pattern = FilePattern::parse(Path::new("x"), text).unwrap();
            assert_eq!(pattern.matches(OsStr::new(name)), expected, "{text} {name}");
        }
    }

    #[test]
    fn what_cannot_be_watched_or_read_is_refused() {
        for (text, expected) in [
            ("", "`` does not end with the name of a file"),
            ("conf.d/", "`conf.d/` does not end with the name of a file"),
            (
                "conf.d/..",
                "`conf.d/..` does not end with the name of a file",
            ),
            (
                "*/a.toml",
                "`*/a.toml` has a wildcard in the name of a folder: only the name of the file may have one",
            ),
        ] {
            let error = FilePattern::parse(Path::new("x"), text).unwrap_err();
            assert_eq!(error, expected, "{text}");
        }
        let error = FilePattern::parse(Path::new("x"), "a[.toml").unwrap_err();
        assert!(error.contains("is not a valid pattern"), "{error}");
        // A wildcard in the name of the main file's own folder is none.
        let pattern = FilePattern::parse(Path::new("/etc/[a]"), "*.toml").unwrap();
        assert_eq!(pattern.folder(), Path::new("/etc/[a]"));
        let here = FilePattern::parse(Path::new(""), "*.toml").unwrap();
        assert_eq!(here.folder(), Path::new("."));
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let pattern = FilePattern::parse(folder.path(), "conf.d/*.toml").unwrap();
        let error = pattern.list().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let conf = folder.path().join("conf.d");
        fs::create_dir(&conf).unwrap();
        assert_eq!(pattern.list().unwrap(), [] as [PathBuf; 0]);
        for name in [
            "b.toml", "9.toml", "10.toml", "B.toml", ".a.toml", "a.toml~", "a.txt",
        ] {
            fs::write(conf.join(name), "").unwrap();
        }
        let found = pattern.list().unwrap();
        let expected = ["10.toml", "9.toml", "B.toml", "b.toml"];
        assert_eq!(found, expected.map(|name| conf.join(name)));
        // One without a wildcard is a file, whether it exists or not.
        let one = FilePattern::parse(folder.path(), "none.toml").unwrap();
        assert_eq!(one.list().unwrap(), [folder.path().join("none.toml")]);
    }
}
