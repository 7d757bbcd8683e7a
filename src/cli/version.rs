//! `tidegate --version`.

use std::env::consts::{ARCH, OS};
use std::process::ExitCode;

use super::out;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The security-relevant crates, with their versions in `Cargo.lock`: what to look up when there is an
/// advisory. A test compares them with that file.
const CRATES: [(&str, &str); 10] = [
    ("aws-lc-rs", "1.19.0"),
    ("aws-lc-sys", "0.47.0"),
    ("hickory-resolver", "0.26.3"),
    ("httparse", "1.10.1"),
    ("hyper", "1.12.0"),
    ("rustls", "0.23.46"),
    ("tikv-jemallocator", "0.7.0"),
    ("tokio", "1.54.1"),
    ("tokio-rustls", "0.26.6"),
    ("x509-parser", "0.18.1"),
];

/// Prints the version of tidegate, and with `verbose` how it was built.
pub(super) fn version(verbose: bool) -> ExitCode {
    out(&format!("tidegate {VERSION}\n"));
    if verbose {
        out(&parts());
    }
    ExitCode::SUCCESS
}

fn parts() -> String {
    let env = if cfg!(target_env = "gnu") {
        "-gnu"
    } else if cfg!(target_env = "musl") {
        "-musl"
    } else {
        ""
    };
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let mut parts = format!(
        "target   {ARCH}-{OS}{env}\n\
         profile  {profile}\n\
         tls      rustls with aws-lc-rs\n\
         tunnels  copy\n"
    );
    for (name, version) in CRATES {
        parts += &format!("crate    {name} {version}\n");
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_are_those_that_are_locked() {
        let lock: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
        let locked = lock["package"].as_array().unwrap();
        for (name, version) in CRATES {
            let versions = locked.iter().filter(|it| it["name"].as_str() == Some(name));
            let versions: Vec<_> = versions.filter_map(|it| it["version"].as_str()).collect();
            assert_eq!(versions, [version], "{name}");
        }
    }
}
