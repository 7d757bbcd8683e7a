//! Whatever a client does with a stream, and in whatever order tidegate reads and writes it: what is read is what was
//! sent, in order, and all of it before its end. What is taken in and not read stays within the stream's window, a task
//! that waits is woken, and no credit of the connection is lost with a stream.
//!
//! Two ends of h2 talk over a pipe, without a runtime: they are polled until nothing wakes them any more. The input has
//! one byte of settings, then two for each step.

#[path = "http2_stream/client.rs"]
mod client;
#[path = "http2_stream/server.rs"]
mod server;
#[path = "http2_stream/wire.rs"]
mod wire;

use self::client::ClientEnd;
use self::server::ServerEnd;
use self::wire::Wire;

/// The windows of a stream, in bytes; 16 KiB is less than one frame and a byte.
const WINDOWS: [u32; 4] = [100, 5_000, 16_384, 65_535];

/// The most that each side sends, in bytes.
const MAX_SENT: usize = 400_000;

/// The most steps.
const MAX_STEPS: usize = 2_000;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Some((settings, steps)) = bytes.split_first() else {
        return;
    };
    let window = WINDOWS[usize::from(settings & 3)];
    let client_window = WINDOWS[usize::from(settings >> 2 & 3)];
    let mut wire = Wire::new(window, client_window, settings & 16 != 0);
    let (mut client, mut server) = wire.open(settings & 32 != 0);
    for step in steps.as_chunks::<2>().0.iter().take(MAX_STEPS) {
        let [what, size] = *step;
        take_step(what, usize::from(size), &mut wire, &mut client, &mut server);
        let unread = wire.sent() - server.read();
        assert!(
            unread <= window as usize,
            "{unread} bytes have come and were not read"
        );
    }
    finish(&mut wire, &mut client, &mut server);
    drop((client, server));
    if !wire.is_closed() && window == 65_535 {
        wire.carries_another_stream();
    }
}

fn take_step(
    what: u8,
    size: usize,
    wire: &mut Wire,
    client: &mut ClientEnd,
    server: &mut ServerEnd,
) {
    match what % 20 {
        0 => client.send(size),
        1 => client.send(size * 64),
        2 => (0..size).for_each(|_| client.send(1)),
        3 => client.end(size % 2 == 1),
        // Most scripts should get further.
        4 if size < 64 => client.reset(),
        5 => drop(client.read(size * 256, size % 2 == 1)),
        6 if size < 16 => wire.close(),
        7..=9 => wire.settle(),
        10 => drop(server.poll_read(size)),
        11 => drop(server.poll_read(size * 64)),
        12 | 13 => server.take_in(),
        14 => drop(server.poll_write(size)),
        15 => drop(server.poll_write(size * 128)),
        16 if size < 128 => server.shut_down(),
        17 if size < 16 => server.reset(),
        18 => wire.turn(),
        _ => {
            wire.settle();
            server.take_in();
        }
    }
}

/// Both sides read all that is left: it ends as it was ended, and neither waits for ever.
fn finish(wire: &mut Wire, client: &mut ClientEnd, server: &mut ServerEnd) {
    let mut progress = true;
    while progress {
        wire.settle();
        let before = (server.read(), client.read_bytes());
        server.take_in();
        while server.poll_read(16 << 10) {}
        while client.read(16 << 10, true) > 0 {}
        progress = before != (server.read(), client.read_bytes());
    }
    if server.is_at_end() {
        // An end is never made up, whatever comes after it.
        assert!(client.has_ended());
        assert_eq!(server.read(), client.sent());
    }
    if wire.is_closed() || client.was_reset() || server.was_reset() {
        return;
    }
    assert!(!server.has_failed() && !client.has_failed());
    assert_eq!(server.read(), client.sent(), "all that was sent is read");
    assert_eq!(server.is_at_end(), client.has_ended());
    assert_eq!(client.read_bytes(), server.written());
    assert_eq!(client.is_at_end(), server.has_shut_down());
}
