//! Lookups whose answers the test gives: how many there are, and what sessions get meanwhile.

use std::sync::mpsc;

use tokio::task::JoinSet;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Lookups that wait for the test to answer them.
struct HeldLookups {
    resolver: Arc<Resolver>,
    /// The names that are being looked up, and how to answer each.
    asked: mpsc::Receiver<(String, mpsc::SyncSender<io::Result<Vec<SocketAddr>>>)>,
}

impl HeldLookups {
    fn new() -> Self {
        let (sender, asked) = mpsc::sync_channel(100);
        let look_up = move |host: &str| {
            let (answer, answered) = mpsc::sync_channel(100);
            sender.send((host.to_owned(), answer)).unwrap();
            answered.recv().unwrap()
        };
        Self {
            resolver: Arc::new(Resolver::new(Box::new(look_up))),
            asked,
        }
    }

    /// The next lookup, which waits for an answer.
    fn asked(&self) -> (String, mpsc::SyncSender<io::Result<Vec<SocketAddr>>>) {
        self.asked.recv_timeout(PATIENCE).unwrap()
    }

    async fn addresses(&self, name: &Arc<ResolvedName>) -> Result<Vec<SocketAddr>, ResolveError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.resolver
            .addresses(name, 9000, (PATIENCE, deadline))
            .await
    }

    /// Lets the time pass until the next lookup of `name` is due.
    fn let_expire(name: &ResolvedName) {
        name.state.send_modify(|state| state.expire());
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 9000))
}

fn outage() -> io::Error {
    io::Error::other("Temporary failure in name resolution")
}

#[tokio::test]
async fn all_sessions_share_one_lookup() {
    let held = HeldLookups::new();
    let name = held.resolver.name("chat.test", &[]);
    let mut sessions = JoinSet::new();
    for _ in 0..100 {
        let (resolver, name) = (Arc::clone(&held.resolver), Arc::clone(&name));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        sessions.spawn(async move { resolver.addresses(&name, 9000, (PATIENCE, deadline)).await });
    }
    while name.state.receiver_count() < 100 {
        tokio::task::yield_now().await;
    }
    let (host, answer) = held.asked();
    assert_eq!(host, "chat.test");
    answer.send(Ok(vec![address(1)])).unwrap();
    for resolved in sessions.join_all().await {
        assert_eq!(resolved, Ok(vec![address(1)]));
    }
    assert!(held.asked.try_recv().is_err(), "a second lookup");
    let same = held.resolver.name("chat.test", &[]);
    assert!(Arc::ptr_eq(&name, &same));
    assert_eq!(
        held.resolver.counters().by_result(),
        [("found", 1), ("failed", 0)]
    );
}

#[tokio::test]
async fn old_addresses_serve_while_lookups_hang_and_fail() {
    let held = HeldLookups::new();
    let name = held.resolver.name("chat.test", &[address(1)]);
    let (first, _) = tokio::join!(held.addresses(&name), async {
        tokio::task::yield_now().await;
        held.asked().1.send(Ok(vec![address(2)])).unwrap();
    });
    assert_eq!(first, Ok(vec![address(2)]));
    for failed in 1..=3 {
        HeldLookups::let_expire(&name);
        // The lookup that this begins hangs.
        assert_eq!(held.addresses(&name).await, Ok(vec![address(2)]));
        let (_, answer) = held.asked();
        assert_eq!(held.addresses(&name).await, Ok(vec![address(2)]));
        let mut changes = name.state.subscribe();
        answer.send(Err(outage())).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(held.addresses(&name).await, Ok(vec![address(2)]));
        let counts = held.resolver.counters().by_result();
        assert_eq!(counts, [("found", 1), ("failed", failed)]);
        assert_eq!(held.resolver.unresolved(), 1);
    }
    assert!(held.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_name_that_was_never_resolved_fails_with_the_cause() {
    let held = HeldLookups::new();
    let name = held.resolver.name("chat.test", &[]);
    let failed = ResolveError::Failed(outage().to_string().into());
    let (first, _) = tokio::join!(held.addresses(&name), async {
        tokio::task::yield_now().await;
        held.asked().1.send(Err(outage())).unwrap();
    });
    assert_eq!(first, Err(failed.clone()));
    // Until the next lookup is due, at once.
    assert_eq!(held.addresses(&name).await, Err(failed));
    assert!(held.asked.try_recv().is_err());

    let other = held.resolver.name("empty.test", &[]);
    let (none, _) = tokio::join!(held.addresses(&other), async {
        tokio::task::yield_now().await;
        held.asked().1.send(Ok(Vec::new())).unwrap();
    });
    assert_eq!(none, Err(ResolveError::Failed("no address".into())));
}

#[tokio::test]
async fn sessions_give_up_on_a_lookup_at_their_deadline() {
    let held = HeldLookups::new();
    let name = held.resolver.name("chat.test", &[]);
    let now = tokio::time::Instant::now();
    let limit = Duration::from_millis(1);
    let resolved = held
        .resolver
        .addresses(&name, 9000, (limit, now + limit))
        .await;
    assert!(
        matches!(resolved, Err(ResolveError::Timeout(_))),
        "{resolved:?}"
    );
    // The answer that comes later is used.
    let mut changes = name.state.subscribe();
    held.asked().1.send(Ok(vec![address(1)])).unwrap();
    changes.changed().await.unwrap();
    assert_eq!(held.addresses(&name).await, Ok(vec![address(1)]));
}

/// More names hang than there are threads: the others wait for a thread, and their addresses are used.
#[tokio::test]
async fn hanging_lookups_use_a_bounded_number_of_threads() {
    let held = HeldLookups::new();
    let resolver = &held.resolver;
    let names: Vec<_> = (0..20)
        .map(|number| resolver.name(&format!("chat-{number}.test"), &[address(1)]))
        .collect();
    let all = names.iter().map(|name| held.addresses(name));
    for resolved in futures_util::future::join_all(all).await {
        assert_eq!(resolved, Ok(vec![address(1)]));
    }
    let mut hanging: Vec<_> = (0..8).map(|_| held.asked()).collect();
    assert!(held.asked.try_recv().is_err());
    let mut waiting = names.len() - hanging.len();
    while let Some((_, answer)) = hanging.pop() {
        let released = Instant::now();
        answer.send(Ok(vec![address(2)])).unwrap();
        if waiting > 0 {
            waiting -= 1;
            hanging.push(held.asked());
            // Its time counts from here on.
            let (host, _) = &hanging[hanging.len() - 1];
            let next = names.iter().find(|name| *name.host == **host).unwrap();
            assert!(next.state.borrow().began() >= Some(released));
            assert!(held.asked.try_recv().is_err());
        }
    }
    assert_eq!(waiting, 0);
}

#[test]
fn names_without_endpoints_are_forgotten() {
    let resolver = Resolver::new(Box::new(by_system));
    let kept = resolver.name("kept.test", &[address(1)]);
    for number in 0..10_000 {
        resolver.name(&format!("removed-{number}.test"), &[]);
    }
    assert!(resolver.table().names.len() <= SWEEP_AT + 1);
    let again = resolver.name("kept.test", &[]);
    assert!(Arc::ptr_eq(&kept, &again));
    assert_eq!(again.addresses(9000), [address(1)]);
}

#[tokio::test]
async fn names_are_resolved_as_programs_on_this_machine_do() {
    let resolver = Arc::new(Resolver::new(Box::new(by_system)));
    let name = resolver.name("localhost", &[]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let found = resolver
        .addresses(&name, 9000, (PATIENCE, deadline))
        .await
        .unwrap();
    assert!(
        found
            .iter()
            .all(|address| address.ip().is_loopback() && address.port() == 9000)
    );
    assert!(!found.is_empty());
}
