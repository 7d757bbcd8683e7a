//! The path of the program that this process runs, for upgrades.

use std::io;
use std::path::PathBuf;

/// The path under which the program was started. It may be a link that leads to another version by the
/// time of an upgrade, so the name as given is kept, if it leads to this program now.
pub(super) fn program() -> io::Result<PathBuf> {
    // Not where `/proc` is missing: then the name as given has to do.
    let resolved = std::env::current_exe();
    let given = std::env::args_os().next().map(PathBuf::from);
    let candidates = given.into_iter().flat_map(|given| {
        let is_name = given.components().count() == 1;
        let path = std::env::var_os("PATH").filter(|_| is_name);
        let folders: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
        let in_path = folders.into_iter().map({
            let given = given.clone();
            move |folder| folder.join(&given)
        });
        in_path.chain((!is_name).then_some(given))
    });
    // A relative name may mean another file in this directory: only one that leads here is trusted.
    let is_this = |path: &PathBuf| match &resolved {
        Ok(resolved) => path.canonicalize().is_ok_and(|target| target == *resolved),
        Err(_) => path.is_file(),
    };
    let mut candidates = candidates.filter(is_this);
    let found = candidates.next().map(std::path::absolute).transpose()?;
    found.map_or(resolved, Ok)
}
