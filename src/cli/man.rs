//! `tidegate man`.

mod sections;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, ExitStatus, err, out};

/// The footer of each page.
const SOURCE: &str = concat!("tidegate ", env!("CARGO_PKG_VERSION"));

/// Prints the manual page of the program, or writes it and those of all commands into `folder`.
pub(super) fn man(folder: Option<&Path>) -> ExitCode {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let Some(folder) = folder else {
        // Writing to memory does not fail.
        let page = page(&program, &program).unwrap_or_default();
        out(&String::from_utf8_lossy(&page));
        return ExitCode::SUCCESS;
    };
    match write(&program, folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let folder = folder.display();
            err(&format!(
                "error: cannot write manual pages to {folder}: {error}\n"
            ));
            ExitStatus::Start.into()
        }
    }
}

fn write(program: &Command, folder: &Path) -> io::Result<()> {
    for command in program.get_subcommands().chain([program]) {
        let name = Man::new(command.clone()).get_filename();
        fs::write(folder.join(name), page(command, program)?)?;
    }
    Ok(())
}

/// A page as clap_mangen renders it, but with the text below the help in sections of its own, and with
/// the sections that readers of manual pages look for.
fn page(command: &Command, program: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).source(SOURCE);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if let Some(text) = command.get_after_help() {
        for paragraph in text.to_string().split("\n\n") {
            section(&mut rest, paragraph);
        }
    }
    sections::append(&mut rest, command, program);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Renders a paragraph of the help: `Heading:`, then lines of a term, two or more spaces, and its meaning.
fn section(page: &mut Roff, paragraph: &str) {
    let mut lines = paragraph.lines();
    let heading = lines.next().unwrap_or_default().trim_end_matches(':');
    let heading = match heading {
        // As other manual pages call it.
        "Exit codes" => "EXIT STATUS".to_owned(),
        other => other.to_uppercase().replace('`', ""),
    };
    page.control("SH", [heading.as_str()]);
    for line in lines {
        match line.trim_start().split_once("  ") {
            Some((term, meaning)) => {
                page.control("TP", []);
                page.text([bold(term)]);
                page.text([roman(meaning.trim_start())]);
            }
            None => {
                page.text([roman(line.trim_start())]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_below_the_help_becomes_sections() {
        let mut page = Roff::new();
        section(&mut page, "Exit codes:\n  0  done\n  10  not\n      quite");
        let text = page.to_roff();
        let expected = ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\ndone\n.TP\n\\fB10\\fR\nnot\nquite\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
