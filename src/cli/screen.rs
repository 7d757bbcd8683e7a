//! What output goes to: a terminal with a size and perhaps colours, or anything else.

use std::io::{IsTerminal, stdout};

use rustix::termios::tcgetwinsize;

/// The size of a terminal that does not know its own.
const USUAL_SIZE: ScreenSize = ScreenSize {
    columns: 80,
    rows: 24,
};

/// Where output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Screen {
    /// Whether it may be coloured.
    pub(super) colour: bool,
    /// The size of the terminal; `None` for a file or a pipe, whose reader gets everything.
    pub(super) size: Option<ScreenSize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScreenSize {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Screen {
    /// Standard output, as it is now: terminals change their size.
    pub(super) fn of_output() -> Self {
        let output = stdout();
        if !output.is_terminal() {
            return Self::default();
        }
        let known = tcgetwinsize(&output).ok();
        let size = known.map(|size| ScreenSize {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        });
        let size = size.filter(|size| size.columns > 0 && size.rows > 0);
        Self {
            colour: super::wants_colour(),
            size: Some(size.unwrap_or(USUAL_SIZE)),
        }
    }
}
