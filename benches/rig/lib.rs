//! What the benchmarks of whole proxies share (`load`, `failures`, `soak`): a client, the server side
//! of a handshake, the proxies with their processes, and the command line that cargo expects.
//!
//! Not a benchmark of its own: each of the three includes it as a module and uses a part of it.

pub(crate) mod client;
pub(crate) mod endpoint;
pub(crate) mod peer;
pub(crate) mod unix;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::generate_simple_self_signed;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// The argument that cargo passes to every benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct CargoArgs {
    #[arg(long, hide = true)]
    bench: bool,
}

/// A runtime on this thread, which may have tasks that stay on it.
pub(crate) fn runtime() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
}

/// Loopback addresses on which nothing listens at the moment.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    // Held until all are found: the kernel would give out the same port again.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// Writes a new key and a new certificate for `localhost`: `cert.pem`, `key.pem`, and `both.pem` for
/// proxies that expect them in one file.
pub(crate) fn write_certificate(folder: &Path) {
    let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    fs::write(folder.join("cert.pem"), &cert).unwrap();
    for (name, text) in [("key.pem", &key), ("both.pem", &(cert + &key))] {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The command that has made a report, for its first lines.
pub(crate) fn made_by(bench: &str) -> String {
    let arguments = std::env::args().skip(1);
    let arguments: Vec<String> = arguments.filter(|it| it != "--bench").collect();
    let arguments = arguments.join(" ");
    format!("Made by `cargo bench --bench {bench} -- {arguments}`.")
}

/// The number of CPU cores that clients, proxy and endpoints share.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}
