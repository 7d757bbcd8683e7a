//! Keys that had another name in the release before.

use toml::Spanned;
use toml::de::DeTable;

use super::Reader;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::keys::ConfigKey;

impl Reader<'_> {
    /// Reports that a key is written by its former name. Returns whether it counts: with the present name beside it,
    /// there are two values for one key.
    pub(super) fn accepts_former_name(
        &mut self,
        key: &ConfigKey,
        written: &Spanned<impl AsRef<str>>,
        table: &DeTable<'_>,
    ) -> bool {
        let former = written.get_ref().as_ref();
        let span = self.source.span(written.span());
        let present = table
            .get_key_value(key.name)
            .map(|(name, _)| self.source.span(name.span()));
        let Some(present) = present else {
            let message = format!("`{former}` is called `{}` now", key.name);
            let hint = "the former name is accepted until the next minor version";
            let warning = Diagnostic::warning(Code::RenamedKey, span, message);
            self.diagnostics.push(warning.hint(hint));
            return true;
        };
        let message = format!(
            "`{former}` is the former name of `{}`, which is there, too",
            key.name
        );
        let error = Diagnostic::error(Code::Duplicate, span, message);
        self.diagnostics.push(error.first(&present));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use crate::config::diagnostic::Severity;
    use crate::config::keys::{KeyTable, ValueKind, key};
    use crate::config::raw::{ConfigValue, Section};
    use crate::config::sources::SourceId;

    static TABLE: KeyTable = KeyTable {
        doc: "A table with a key that was renamed.",
        keys: &[
            key("pause", ValueKind::Bool, "false", "A pause.").renamed_from("wait"),
            key("other", ValueKind::Bool, "false", "Another key."),
        ],
    };

    fn read(text: &str) -> (Section, Vec<Diagnostic>) {
        let tree = DeTable::parse(text).unwrap();
        let mut diagnostics = Vec::new();
        let section = Reader {
            source: SourceId::MAIN,
            environment: &|_| None,
            diagnostics: &mut diagnostics,
        }
        .table(&TABLE, tree.get_ref(), &SourceId::MAIN.span(tree.span()));
        (section, diagnostics)
    }

    #[test]
    fn a_former_name_counts_with_a_warning() {
        let (section, diagnostics) = read("wait = true");
        assert!(section.bool("pause"));
        let [warning] = &diagnostics[..] else {
            panic!("{diagnostics:?}")
        };
        assert_eq!(warning.code, Code::RenamedKey);
        assert_eq!(warning.severity, Severity::Warning);
        assert_eq!(warning.message, "`wait` is called `pause` now");
        let (section, diagnostics) = read("pause = true\nother = true");
        assert!(section.bool("pause") && diagnostics.is_empty());
    }

    #[test]
    fn its_value_is_read_like_that_of_the_present_name() {
        let (section, diagnostics) = read("wait = 1");
        let written = section.written("pause").map(|at| &at.value);
        assert_eq!(written, Some(&ConfigValue::Broken));
        let codes: Vec<Code> = diagnostics.iter().map(|it| it.code).collect();
        assert_eq!(codes, [Code::RenamedKey, Code::Type]);
    }

    #[test]
    fn both_names_at_once_are_an_error_in_either_order() {
        for text in ["wait = true\npause = false", "pause = false\nwait = true"] {
            let (section, diagnostics) = read(text);
            assert!(!section.bool("pause"));
            let [error] = &diagnostics[..] else {
                panic!("{diagnostics:?}")
            };
            assert_eq!(
                (error.code, error.severity),
                (Code::Duplicate, Severity::Error)
            );
        }
    }
}
