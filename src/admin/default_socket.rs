//! Where the admin interface is if the configuration does not say: in the folder that the service manager makes,
//! else in that of the user. The process and the command line look in the same places.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::model::Admin;

/// The variable that names the folder of the user's sockets (XDG Base Directory Specification).
const USER_FOLDER: &str = "XDG_RUNTIME_DIR";

/// The socket in that folder.
const IN_USER_FOLDER: &str = "tidegate/admin.sock";

/// The bits of a mode with which the group or everybody may write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// The paths of the socket, the preferred one first.
pub fn places() -> Vec<PathBuf> {
    of_user_folder(env::var_os(USER_FOLDER))
}

fn of_user_folder(folder: Option<OsString>) -> Vec<PathBuf> {
    // A relative path is not valid, and to be ignored.
    let folder = folder.map(PathBuf::from).filter(|it| it.is_absolute());
    let of_user = folder.map(|folder| folder.join(IN_USER_FOLDER));
    std::iter::once(PathBuf::from(Admin::PATH))
        .chain(of_user)
        .collect()
}

/// Makes the folder of a place if it is missing.
///
/// # Errors
/// The error of the system, or another user could replace the socket.
pub fn make_folder(place: &Path) -> io::Result<()> {
    let (Some(folder), is_shared) = (place.parent(), place == Path::new(Admin::PATH)) else {
        return Ok(());
    };
    if !is_shared {
        check_folder(folder.parent().unwrap_or(folder), false)?;
    }
    // The mode of the socket decides who may connect, so others have to be able to reach it.
    let mode = if is_shared { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(folder) {
        // The umask may have removed some of it.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    check_folder(folder, is_shared)
}

/// Checks that a folder is a real one, belongs to root or to this user, and cannot be written to by others. With
/// `root_decides` they may write to a folder of root: only root can make one in `/run`, and gives it the mode that it
/// wants. A volume of Kubernetes, for example, is root's and everybody may write to it.
fn check_folder(folder: &Path, root_decides: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let owner = found.uid();
    let wrong = if !found.is_dir() {
        "is not a directory, or is a symbolic link".to_owned()
    } else if owner != 0 && owner != own_user() {
        format!("belongs to user {owner}, which is neither root nor the user of this process")
    } else if found.mode() & OTHERS_MAY_WRITE != 0 && !(root_decides && owner == 0) {
        format!(
            "may be written to by others (mode {:o})",
            found.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    let error = format!("{} {wrong}", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, error))
}

/// Whether the socket at `place` is that of another user.
pub fn is_of_another(place: &Path) -> bool {
    fs::symlink_metadata(place).is_ok_and(|it| it.uid() != own_user())
}

/// Whether a command of this user may trust the process of user `server` that listens at `place`: it is root's
/// or the user's own, or root has given the folder of the socket to that user, as the service manager does.
pub fn is_trusted(place: &Path, server: u32) -> bool {
    server == 0 || server == own_user() || was_given_by_root(place, server).unwrap_or(false)
}

fn was_given_by_root(place: &Path, server: u32) -> io::Result<bool> {
    let folder = place.parent().unwrap_or(place);
    let above = fs::metadata(folder.parent().unwrap_or(folder))?;
    let only_root_writes = above.uid() == 0 && above.mode() & OTHERS_MAY_WRITE == 0;
    Ok(only_root_writes && owner(folder)? == server)
}

fn owner(path: &Path) -> io::Result<u32> {
    fs::metadata(path).map(|it| it.uid())
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_user_comes_second() {
        let shared = || PathBuf::from("/run/tidegate/admin.sock");
        let of = |folder: &str| of_user_folder(Some(folder.into()));
        assert_eq!(of_user_folder(None), [shared()]);
        assert_eq!(of("run"), [shared()]);
        assert_eq!(of(""), [shared()]);
        let own = PathBuf::from("/run/user/7/tidegate/admin.sock");
        assert_eq!(of("/run/user/7"), [shared(), own]);
    }

    #[test]
    fn a_folder_is_made_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(IN_USER_FOLDER);
        for _ in 0..2 {
            make_folder(&place).unwrap();
            let made = fs::metadata(place.parent().unwrap()).unwrap();
            assert_eq!(made.mode() & 0o777, 0o700);
        }
        assert!(make_folder(Path::new("/nonexistent/tidegate/admin.sock")).is_err());
        if own_user() != 0 {
            let error = make_folder(Path::new("/tidegate/admin.sock")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_folder_that_others_could_replace_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(IN_USER_FOLDER);
        let made = place.parent().unwrap();
        let refused = |why: &str| {
            let error = make_folder(&place).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(why), "{error}");
        };
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(other.path(), made).unwrap();
        refused("symbolic link");
        fs::remove_file(made).unwrap();
        fs::write(made, "").unwrap();
        refused("is not a directory");
        fs::remove_file(made).unwrap();
        make_folder(&place).unwrap();
        for mode in [0o1777, 0o770] {
            let set = |path: &Path, mode| {
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            };
            set(made, mode);
            refused("may be written to by others");
            set(made, 0o700);
            set(folder.path(), mode);
            refused("may be written to by others");
            set(folder.path(), 0o700);
        }
        if own_user() == 0 {
            std::os::unix::fs::chown(made, Some(1), None).unwrap();
            refused("belongs to user 1");
        }
    }

    #[test]
    fn a_socket_of_another_user_is_known_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("admin.sock");
        assert!(!is_of_another(&place));
        let _socket = std::os::unix::net::UnixListener::bind(&place).unwrap();
        assert!(!is_of_another(&place));
        if own_user() == 0 {
            std::os::unix::fs::chown(&place, Some(1), None).unwrap();
            assert!(is_of_another(&place));
        }
    }

    #[test]
    fn only_root_and_the_own_user_are_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(IN_USER_FOLDER);
        make_folder(&place).unwrap();
        let stranger = own_user() + 1;
        assert!(is_trusted(&place, 0) && is_trusted(&place, own_user()));
        assert!(!is_trusted(&place, stranger));
        assert!(!is_trusted(
            Path::new("/nonexistent/x/admin.sock"),
            stranger
        ));
        // A folder below one that everybody may write to could be of anybody.
        if own_user() == 0 {
            std::os::unix::fs::chown(place.parent().unwrap(), Some(stranger), None).unwrap();
            assert!(is_trusted(&place, stranger));
            fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
            assert!(!is_trusted(&place, stranger));
        }
    }
}
