//! The program that this process runs.

use std::io;
use std::path::PathBuf;

/// Where the program was started from: under the name that was given, which may lead to another file by
/// the time of an upgrade, if it leads here now.
pub(super) fn program() -> io::Result<PathBuf> {
    let resolved = std::env::current_exe()?;
    let given = std::env::args_os().next().map(PathBuf::from);
    let candidates = given.into_iter().flat_map(|given| {
        let is_name = given.components().count() == 1;
        let path = std::env::var_os("PATH").filter(|_| is_name);
        let folders: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
        let found = folders.into_iter().map({
            let given = given.clone();
            move |folder| folder.join(&given)
        });
        found.chain((!is_name).then_some(given))
    });
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|it| it == resolved);
    let mut candidates = candidates.filter(is_it);
    let found = candidates.next().map(std::path::absolute).transpose()?;
    Ok(found.unwrap_or(resolved))
}
