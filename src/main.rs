//! The `tidegate` program: a thin layer over the library.

mod cli;

use std::process::ExitCode;

/// glibc's allocator never gives a peak of connections back; this one does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate::handover::launch::launch().unwrap_or_else(cli::main)
}
