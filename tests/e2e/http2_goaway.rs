//! The turn of an HTTP/2 connection in a drain: its tunnels are closed together, and the GOAWAY is not late.

use h2::Reason;

use crate::harness::endpoint::{Echo, Unit};
use crate::harness::frames::frame;
use crate::harness::h2_client::{H2Proxy, get};
use crate::harness::proxy::Signal;
use crate::harness::wire::Wire;
use crate::harness::within;

const CLOSE: &[u8] = b"\x88\x0a\x03\xf4shutdown";

// A page opens the next tunnel as soon as it has got a Close, and without the GOAWAY on the same connection.
#[tokio::test]
async fn a_goaway_follows_the_close_frames_and_waits_for_no_answer() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut client = proxy.client().await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(Wire::over(client.tunnel().await));
    }
    proxy.proxy.signal(Signal::TERM);
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.exactly(CLOSE.len()).await, CLOSE);
    }
    // None has been answered, so that none has ended.
    let goaway = async {
        loop {
            if let Err(error) = client.begin(get("/"), true).await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    };
    let error = within("a GOAWAY", goaway).await;
    assert!(error.is_go_away() && error.reason() == Some(Reason::NO_ERROR));
    assert!(proxy.proxy.log().events("tunnel ended").is_empty());
    for tunnel in &mut tunnels {
        tunnel.send(frame(0x88, Some([0; 4]), &[3, 244])).await;
    }
    for ended in proxy.proxy.logged_times("tunnel ended", 3).await {
        assert_eq!(ended["reason"], "shutdown");
    }
}
