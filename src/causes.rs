//! The text of an error with its causes, each of them once.

use std::error::Error;

/// `error` and the chain of its causes, separated by colons. Some errors quote their cause, others leave it to
/// the reader of the chain: what the text ends with already is not repeated.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = format!(": {cause}");
        if !text.ends_with(&next) && text != next[2..] {
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot connect: {0}")]
        Quoting(#[source] io::Error),
        #[error("connection error")]
        Silent(#[source] io::Error),
        #[error(transparent)]
        Same(#[from] io::Error),
        #[error("{0}")]
        Quoted(#[source] Box<Self>),
    }

    #[test]
    fn each_cause_stands_once() {
        let reset = || io::Error::other("connection reset");
        let nested = Failure::Quoted(Box::new(Failure::Silent(reset())));
        for (failure, text) in [
            (
                Failure::Quoting(reset()),
                "cannot connect: connection reset",
            ),
            (
                Failure::Silent(reset()),
                "connection error: connection reset",
            ),
            (Failure::Same(reset()), "connection reset"),
            (nested, "connection error: connection reset"),
        ] {
            assert_eq!(with_causes(&failure), text);
        }
    }
}
