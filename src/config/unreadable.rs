//! Why a file cannot be read: whose it is, and who this process is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

/// A reason, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) why: String,
    pub(crate) hint: Option<String>,
}

/// A file or folder, and who may do what with it.
struct Ownership {
    owner: String,
    group: String,
    mode: u32,
}

impl Ownership {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            owner: user(metadata.uid()),
            group: group(metadata.gid()),
            mode: metadata.mode() & 0o7777,
        }
    }
}

/// Why `path` cannot be read, which failed with `error`.
pub(super) fn explain(path: &Path, error: &io::Error) -> Unreadable {
    let unknown = || Unreadable {
        why: words(error),
        hint: None,
    };
    if error.kind() != io::ErrorKind::PermissionDenied {
        return unknown();
    }
    let culprit = culprit(path);
    let Ok(metadata) = fs::metadata(culprit) else {
        return unknown();
    };
    let group = rustix::process::getegid().as_raw();
    let us = user(process_user());
    let ownership = Ownership::of(&metadata);
    let what = match culprit == path {
        true => "it".to_owned(),
        false => format!("folder `{}`", culprit.display()),
    };
    Unreadable {
        why: denied(&what, &ownership, &us),
        hint: Some(remedy(path, culprit, &self::group(group))),
    }
}

/// Checks whether this process can write to `folder`, or could if it created it.
pub(crate) fn writable_folder(folder: &Path) -> Result<(), Unreadable> {
    let mut above = folder.ancestors();
    let existing = above.find(|it| !it.as_os_str().is_empty() && it.exists());
    let existing = existing.unwrap_or(Path::new("."));
    if !existing.is_dir() {
        return Err(Unreadable {
            why: format!("`{}` is not a folder", existing.display()),
            hint: None,
        });
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    let Err(error) = rustix::fs::accessat(CWD, existing, wanted, AtFlags::EACCESS) else {
        return Ok(());
    };
    let metadata = fs::metadata(existing).ok();
    let denied_by = metadata.filter(|_| error == rustix::io::Errno::ACCESS);
    let Some(metadata) = denied_by else {
        return Err(Unreadable {
            why: words(&error.into()),
            hint: None,
        });
    };
    let us = user(process_user());
    let what = format!("folder `{}`", existing.display());
    let shown = folder.display();
    let hint = match existing == folder {
        true => format!("chown {us} {shown}"),
        false => format!("install -d -m 0700 -o {us} {shown}"),
    };
    Err(Unreadable {
        why: denied(&what, &Ownership::of(&metadata), &us),
        hint: Some(hint),
    })
}

fn process_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The text of an error of the system, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn denied(what: &str, ownership: &Ownership, us: &str) -> String {
    let Ownership { owner, group, mode } = ownership;
    format!(
        "permission denied: {what} belongs to user {owner} and group {group} with mode {mode:04o}, \
         and this process runs as user {us}"
    )
}

fn remedy(path: &Path, culprit: &Path, our_group: &str) -> String {
    let (mode, shown) = match culprit == path {
        true => ("g+r", path.display()),
        false => ("g+x", culprit.display()),
    };
    match our_group {
        // The superuser may read everything: something else denies it.
        "root" => "look for a security module (AppArmor, SELinux), or a sandbox setting of the unit, such as `ProtectHome=`, that denies it".to_owned(),
        _ => format!("chgrp {our_group} {shown} && chmod {mode} {shown}"),
    }
}

/// The folder on the way to `path` that this process may not enter, or `path` itself.
fn culprit(path: &Path) -> &Path {
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    let is_closed = |folder: &&Path| {
        let is_here = folder.as_os_str().is_empty();
        !is_here && rustix::fs::accessat(CWD, *folder, Access::EXEC_OK, AtFlags::EACCESS).is_err()
    };
    folders.into_iter().find(is_closed).unwrap_or(path)
}

/// The name of a user, or its number.
pub(crate) fn user(uid: u32) -> String {
    name_in("/etc/passwd", uid).unwrap_or_else(|| uid.to_string())
}

fn group(gid: u32) -> String {
    name_in("/etc/group", gid).unwrap_or_else(|| gid.to_string())
}

fn name_in(file: &str, number: u32) -> Option<String> {
    named(&fs::read_to_string(file).ok()?, number)
}

/// The name with this number in a file of users or groups (`passwd(5)`).
fn named(text: &str, number: u32) -> Option<String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    };
    text.lines().find_map(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_named() {
        let ownership = Ownership {
            owner: "root".to_owned(),
            group: "ssl-cert".to_owned(),
            mode: 0o640,
        };
        assert_eq!(
            denied("it", &ownership, "tidegate"),
            "permission denied: it belongs to user root and group ssl-cert with mode 0640, \
             and this process runs as user tidegate"
        );
        let key = Path::new("/etc/tidegate/chat.key");
        assert_eq!(
            remedy(key, key, "tidegate"),
            "chgrp tidegate /etc/tidegate/chat.key && chmod g+r /etc/tidegate/chat.key"
        );
        assert!(remedy(key, Path::new("/etc/tidegate"), "tidegate").contains("chmod g+x"));
        assert!(!remedy(key, key, "root").contains("chgrp"));
    }

    #[test]
    fn names_of_users_come_from_their_file() {
        let text = "root:x:0:0:root:/root:/bin/sh\n\nbroken\ntidegate:x:998:997::/:/none\n";
        assert_eq!(named(text, 998).as_deref(), Some("tidegate"));
        assert_eq!(named(text, 0).as_deref(), Some("root"));
        assert_eq!(named(text, 5), None);
        assert_eq!(named("root:x\n", 0), None);
    }

    #[test]
    fn other_errors_keep_their_words() {
        let missing = explain(
            Path::new("none.pem"),
            &fs::read("/none/none.pem").unwrap_err(),
        );
        assert_eq!(missing.why, "No such file or directory");
        assert!(missing.hint.is_none());
    }
}
