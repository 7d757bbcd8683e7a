//! Several files as one: the tables of included files are added to those of the main file.

use std::collections::HashMap;

use super::{ConfigValue, Located, Section};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::keys::{INCLUDABLE, ROOT};
use crate::config::sources::Span;

/// The main file, and what the included files add to it.
pub(in crate::config) struct Merger<'a> {
    root: Section,
    /// Where each table is named: its kind and name.
    named: HashMap<(&'static str, String), Span>,
    /// The name of the main file.
    main: &'a str,
}

impl<'a> Merger<'a> {
    /// Begins with the main file, which is called `main`.
    pub(in crate::config) fn new(root: Section, main: &'a str) -> Self {
        let mut named = HashMap::new();
        for kind in INCLUDABLE {
            if let Some(ConfigValue::Map(entries)) = root.written(kind).map(|at| &at.value) {
                let names = entries.iter().map(|(name, _)| name);
                named.extend(names.map(|name| ((kind, name.value.clone()), name.span.clone())));
            }
        }
        Self { root, named, main }
    }

    /// Adds an included file.
    pub(in crate::config) fn add(&mut self, section: Section, diagnostics: &mut Vec<Diagnostic>) {
        self.root.doubtful.extend(section.doubtful);
        self.root.is_flawed |= section.is_flawed;
        for (key, at) in section.written {
            match key {
                key if INCLUDABLE.contains(&key) => self.add_value(key, at, diagnostics),
                "include" => {
                    let message = "an included file cannot include others";
                    let error = Diagnostic::error(Code::Conflict, at.span, message);
                    diagnostics.push(error.hint(format!("list them in `{}`", self.main)));
                }
                key => {
                    let message = format!("`[{key}]` is not allowed in an included file");
                    let error = Diagnostic::error(Code::Conflict, at.span, message);
                    diagnostics.push(error.hint(format!("move it to `{}`", self.main)));
                }
            }
        }
    }

    fn add_value(
        &mut self,
        kind: &'static str,
        mut at: Located<ConfigValue>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        if let ConfigValue::Map(entries) = &mut at.value {
            entries.retain(|(name, _)| {
                let key = (kind, name.value.clone());
                let Some(first) = self.named.get(&key) else {
                    self.named.insert(key, name.span.clone());
                    return true;
                };
                let message = format!("`[{kind}.{}]` is defined twice", name.value);
                let error = Diagnostic::error(Code::Duplicate, name.span.clone(), message);
                diagnostics.push(error.first(first));
                false
            });
        }
        let Some(before) = self.root.written.get_mut(kind) else {
            self.root.written.insert(kind, at);
            return;
        };
        match (&mut before.value, at.value) {
            (ConfigValue::Map(before), ConfigValue::Map(more)) => before.extend(more),
            (ConfigValue::List(before), ConfigValue::List(more)) => before.extend(more),
            // Whatever is wrong with one of them was reported.
            (ConfigValue::Broken, more) => before.value = more,
            _ => {}
        }
    }

    /// All files as one.
    pub(in crate::config) fn merged(self) -> Section {
        self.root
    }

    /// The same, if some files could not be read: whatever seems to be missing may be in these.
    pub(in crate::config) fn incomplete(mut self) -> Section {
        self.root
            .doubtful
            .extend(ROOT.keys.iter().map(|key| key.name));
        self.root
    }
}
