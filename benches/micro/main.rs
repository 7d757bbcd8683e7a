//! What do single steps cost, on one core and without a socket? `cargo bench --bench micro`.
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod frames;
mod growth;
mod handshake;
mod pick;
mod routes;
mod sweeps;

fn main() {
    divan::main();
}
