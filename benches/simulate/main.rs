//! What do the balancing policies do to a fleet over hours and days? The code is that of tidegate; the
//! fleets are simulated in virtual time.
//!
//! `cargo bench --bench simulate` runs everything (a few minutes) and prints tables in Markdown;
//! with `--out docs/balancing` it rewrites the diagrams and tables there. The same seed gives the
//! same files, to the byte. docs/balancing.md explains the results.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod fleet;
mod lifetime;
mod nodes;
mod plot;
mod scenario;

use std::path::PathBuf;

use clap::Parser;

use self::scenario::Scenario;

/// Simulates the balancing policies with synthetic fleets.
#[derive(Debug, Parser)]
struct Options {
    /// Only scenarios whose names contain this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// The seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the diagrams and figures.md into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// The argument that cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let wanted = Scenario::ALL.into_iter().filter(|scenario| {
        let mut only = options.only.iter();
        options.only.is_empty() || only.any(|part| scenario.name.contains(part))
    });
    let mut figures = String::from(HEAD);
    for scenario in wanted {
        let outcome = (scenario.run)(options.seed);
        let text = format!("\n## {}\n\n{}\n", scenario.title, outcome.table.trim_end());
        print!("{text}");
        figures.push_str(&text);
        let Some(folder) = &options.out else { continue };
        std::fs::create_dir_all(folder).unwrap();
        for plot in outcome.plots {
            let file = folder.join(plot.name).with_extension("svg");
            std::fs::write(file, plot.svg()).unwrap();
        }
    }
    if let Some(folder) = options.out.filter(|_| options.only.is_empty()) {
        std::fs::write(folder.join("figures.md"), figures).unwrap();
    }
}

const HEAD: &str = "# Figures\n\n\
    Written by `cargo bench --bench simulate -- --out docs/balancing`, from seed 1; \
    [balancing.md](../balancing.md) says what they mean.\n";
