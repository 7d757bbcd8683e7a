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
/// The error of the system, or the folder of the user belongs to another one, which could replace the socket.
pub fn make_folder(place: &Path) -> io::Result<()> {
    let (Some(folder), is_shared) = (place.parent(), place == Path::new(Admin::PATH)) else {
        return Ok(());
    };
    if !is_shared && owner(folder.parent().unwrap_or(folder))? != own_user() {
        let error = format!("the folder in {USER_FOLDER} belongs to another user");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
    }
    if folder.is_dir() {
        return Ok(());
    }
    // The mode of the socket decides who may connect, so others have to be able to reach it.
    let mode = if is_shared { 0o755 } else { 0o700 };
    DirBuilder::new().mode(mode).create(folder)?;
    // The umask may have removed some of it.
    fs::set_permissions(folder, Permissions::from_mode(mode))
}

/// Whether a command of this user may trust the process of user `server` that listens at `place`: it is root's
/// or the user's own, or root has given the folder of the socket to that user, as the service manager does.
pub fn is_trusted(place: &Path, server: u32) -> bool {
    server == 0 || server == own_user() || was_given_by_root(place, server).unwrap_or(false)
}

fn was_given_by_root(place: &Path, server: u32) -> io::Result<bool> {
    const OTHERS_MAY_WRITE: u32 = 0o022;
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
        let shared = PathBuf::from("/run/tidegate/admin.sock");
        let of = |folder: &str| of_user_folder(Some(folder.into()));
        assert_eq!(of_user_folder(None), [shared.clone()]);
        assert_eq!(of("run"), [shared.clone()]);
        assert_eq!(of(""), [shared.clone()]);
        let own = PathBuf::from("/run/user/7/tidegate/admin.sock");
        assert_eq!(of("/run/user/7"), [shared, own]);
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
