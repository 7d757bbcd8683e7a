//! Whether the process can write to its folders. Only `tidegate check` looks at them.

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::unreadable;

pub(in crate::config) fn check_folders(places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for folder in &places.written_folders {
        if let Err(unwritable) = unreadable::writable_folder(&folder.value) {
            let message = format!(
                "cannot write to `{}`: {}",
                folder.value.display(),
                unwritable.why
            );
            let mut error = Diagnostic::error(Code::File, folder.span.clone(), message);
            error.hint = unwritable.hint;
            diagnostics.push(error);
        }
    }
}
