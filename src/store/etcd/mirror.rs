//! A copy of everything under a prefix, kept up to date by a watch.
//!
//! First everything is read at one revision, then every change from there is followed. While etcd is away, the copy
//! stays as it was; after that the watch goes on where it was, or everything is read again if etcd has compacted
//! that. A watch that says nothing may be one of a member that is cut off from the others: from time to time, the
//! newest revision under the prefix is compared with what the watch has shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::client::{EtcdClient, EtcdWatch};
use super::contents::{MAX_BYTES, MAX_ITEMS, MirrorContents};
use super::error::EtcdError;
use super::health::StoreHealth;
use super::wire::{EtcdFailure, EtcdItem, MalformedMessage, WatchEnd, WatchNews};
use crate::https_client::{HttpsClientError, backoff};

/// How often it is checked whether the watch shows everything.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The longest pause before etcd is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How long the first message of a watch may take.
const WATCH_START: Duration = Duration::from_secs(5);

/// The code of gRPC for what may be different a moment later.
const UNAVAILABLE: i64 = 14;

/// How many times in a row a range may be compacted while its pages are read.
const MAX_READS: usize = 3;

/// A copy of everything under a prefix. Cloning it gives another handle of the same copy.
#[derive(Debug, Clone)]
pub struct Mirror {
    contents: Arc<Mutex<MirrorContents>>,
    changes: watch::Receiver<u64>,
    health: Arc<StoreHealth>,
    /// Dropping the last one ends the task that keeps the copy.
    _stop: watch::Sender<()>,
}

/// Keeps the copy.
struct MirrorKeeper {
    client: Arc<EtcdClient>,
    contents: Arc<Mutex<MirrorContents>>,
    changes: watch::Sender<u64>,
    health: Arc<StoreHealth>,
    /// Whether a watch cannot go on from what is known.
    must_read: bool,
    failures: u32,
    /// What the check has shown by which the watch was left for one of another member; `None` after any other end.
    left_at: Option<ShownState>,
}

/// The newest revision under the prefix, and the number of items, as the cluster knew them at a check.
type ShownState = (i64, i64);

impl Mirror {
    /// A copy of everything under the prefix of `client`, kept by a task on `control` until the last handle is
    /// dropped. It is empty at first.
    pub fn start(control: &Handle, client: &Arc<EtcdClient>, health: &Arc<StoreHealth>) -> Self {
        let (changes, changed) = watch::channel(0);
        let (stop, stopped) = watch::channel(());
        let contents = Arc::<Mutex<MirrorContents>>::default();
        let keeper = MirrorKeeper {
            client: Arc::clone(client),
            contents: Arc::clone(&contents),
            changes,
            health: Arc::clone(health),
            must_read: true,
            failures: 0,
            left_at: None,
        };
        control.spawn(keeper.run(stopped));
        Self {
            contents,
            changes: changed,
            health: Arc::clone(health),
            _stop: stop,
        }
    }

    /// What is known. It must not be held across an await.
    pub fn contents(&self) -> MutexGuard<'_, MirrorContents> {
        lock(&self.contents)
    }

    /// Reports every change of the copy; also that everything was read for the first time.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether everything was read at least once.
    pub fn is_read(&self) -> bool {
        self.contents().revision() > 0
    }

    /// How the store is.
    pub fn health(&self) -> &Arc<StoreHealth> {
        &self.health
    }
}

impl MirrorKeeper {
    async fn run(mut self, mut stop: watch::Receiver<()>) {
        loop {
            let error = tokio::select! {
                error = self.follow() => error,
                () = stopped(&mut stop) => return,
            };
            // Nothing is wrong: etcd keeps old revisions for a while only.
            self.must_read |= matches!(error, EtcdError::Compacted);
            // The same message would come again. In pages, everything is read in pieces.
            let is_long = matches!(
                &error,
                EtcdError::Unreached(HttpsClientError::LongLine { .. })
            );
            self.must_read |= is_long;
            if matches!(error, EtcdError::Compacted | EtcdError::Moved) {
                continue;
            }
            self.left_at = None;
            if error.is_of_token() {
                // A watch begins although its token is not accepted, and is cancelled then.
                self.client.renew_token();
            }
            self.failures = self.failures.saturating_add(1);
            // A watch may end because its member restarts, while the others respond.
            if self.failures > 1 {
                self.health.not_read(&error);
            }
            let pause = backoff(self.failures).min(MAX_PAUSE);
            // Not all nodes at once.
            let pause = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
            if timeout(pause, stopped(&mut stop)).await.is_ok() {
                return;
            }
        }
    }

    /// Reads everything if that is needed, and follows the changes until that fails.
    async fn follow(&mut self) -> EtcdError {
        if self.must_read
            && let Err(error) = self.read_all().await
        {
            return error;
        }
        let from = lock(&self.contents).revision().saturating_add(1);
        let (client, prefix) = (Arc::clone(&self.client), self.client.prefix().to_owned());
        let mut watch = match client.watch(&prefix, from).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        let error = self.follow_watch(&client, &mut watch).await;
        if error.is_of_member() {
            client.leave(watch.member());
        }
        error
    }

    async fn follow_watch(&mut self, client: &EtcdClient, watch: &mut EtcdWatch) -> EtcdError {
        // The first message says that the watch has begun, or why it has not.
        match timeout(WATCH_START, client.next(watch)).await {
            Ok(Ok(news)) => {
                if let Err(error) = self.learn(news) {
                    return error;
                }
            }
            Ok(Err(error)) => return error,
            Err(_) => return EtcdError::Stale,
        }
        let mut expected = self.left_at.take();
        let mut checks = checks_after(expected);
        let member = watch.member();
        loop {
            let result = tokio::select! {
                news = client.next(watch) => match news {
                    Ok(news) => self.learn(news),
                    Err(error) => Err(error),
                },
                _ = checks.tick() => self.check(client, member, &mut expected).await,
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    /// Applies a message of the watch.
    fn learn(&mut self, news: WatchNews) -> Result<(), EtcdError> {
        match news.end {
            None => {}
            Some(WatchEnd::Compacted(_)) => return Err(EtcdError::Compacted),
            Some(WatchEnd::Failed(failure)) => return Err(failure.into()),
            Some(WatchEnd::Cancelled(message)) => {
                // The reason is an error in words.
                let code = UNAVAILABLE;
                return Err(EtcdFailure { code, message }.into());
            }
        }
        let has_changes = !news.changes.is_empty();
        let applied = lock(&self.contents).apply(news, Instant::now());
        if has_changes {
            self.changes.send_modify(|count| *count += 1);
        }
        // Some changes are missing.
        applied.inspect_err(|_| self.must_read = true)
    }

    /// Whether the watch has shown what the cluster knew at the check before; `expected` is that.
    async fn check(
        &mut self,
        client: &EtcdClient,
        member: usize,
        expected: &mut Option<ShownState>,
    ) -> Result<(), EtcdError> {
        let latest = client.latest(client.prefix()).await?;
        let modified = latest.items.first().map_or(0, |item| item.modified);
        let (revision, count) = {
            let contents = lock(&self.contents);
            let count = i64::try_from(contents.len()).unwrap_or(i64::MAX);
            (contents.revision(), count)
        };
        if latest.revision < revision {
            // Another cluster, or one that was restored from a copy of an earlier time.
            self.must_read = true;
            return Err(EtcdError::Compacted);
        }
        let was_shown = expected.is_none_or(|(before, items)| {
            revision >= before && (count == items || latest.count != items)
        });
        if !was_shown {
            self.must_read = true;
            return Err(EtcdError::Stale);
        }
        *expected = Some((modified, latest.count));
        self.failures = 0;
        self.health.read();
        if client.has_left(member) {
            self.left_at = *expected;
            return Err(EtcdError::Moved);
        }
        Ok(())
    }

    /// Reads everything at one revision.
    async fn read_all(&mut self) -> Result<(), EtcdError> {
        let mut result = Err(EtcdError::Compacted);
        for _ in 0..MAX_READS {
            result = self.read_once().await;
            if !matches!(result, Err(EtcdError::Compacted)) {
                break;
            }
        }
        result.map_err(|error| match error {
            // Again and again: somebody compacts faster than this node reads.
            EtcdError::Compacted => EtcdError::Stale,
            error => error,
        })
    }

    async fn read_once(&mut self) -> Result<(), EtcdError> {
        let prefix = self.client.prefix().to_owned();
        let mut page = self.client.first_page(&prefix, 0).await?;
        let revision = page.revision;
        let mut items = std::mem::take(&mut page.items);
        let mut bytes = bytes_of(&items);
        // Beyond the bounds, what is read is refused anyway.
        while page.has_more && items.len() <= MAX_ITEMS && bytes <= MAX_BYTES {
            let last = page.last_key;
            if page.items.is_empty() && last.is_empty() {
                return Err(MalformedMessage.into());
            }
            page = self.client.next_page(&prefix, &last, revision).await?;
            bytes += bytes_of(&page.items);
            items.append(&mut page.items);
        }
        let now = Instant::now();
        let mut contents = lock(&self.contents);
        let read = contents.read(items, revision, now)?;
        let before = std::mem::replace(&mut *contents, read).position();
        drop(contents);
        if revision < before.revision {
            tracing::warn!(
                revision,
                before = before.revision,
                "the store has begun again, or is that of an earlier time; all of it was read again"
            );
        }
        self.must_read = false;
        self.health.read();
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// When it is checked whether a watch shows everything; `left_at` is what the check has shown that led to it.
fn checks_after(left_at: Option<ShownState>) -> Interval {
    let first = match left_at {
        None => Instant::now(),
        // While members are slow, each check may find that another one was faster.
        Some(_) => Instant::now() + CHECK_INTERVAL,
    };
    let mut checks = interval_at(first, CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

fn bytes_of(items: &[EtcdItem]) -> usize {
    items
        .iter()
        .map(|item| item.key.len() + item.value.len())
        .sum()
}

fn lock(contents: &Mutex<MirrorContents>) -> MutexGuard<'_, MirrorContents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the last handle is gone.
async fn stopped(stop: &mut watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::testing;
    use super::*;
    use crate::upstream::connect::Connector;

    #[tokio::test]
    async fn a_check_that_moves_the_watch_has_read_the_store() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = testing::settings(&[&first, &second]);
        let client = EtcdClient::new(&settings, Connector::default(), Arc::default());
        client.leave(0);
        let health = Arc::<StoreHealth>::default();
        let mut keeper = MirrorKeeper {
            client: Arc::new(client),
            contents: Arc::default(),
            changes: watch::channel(0).0,
            health: Arc::clone(&health),
            must_read: false,
            failures: 3,
            left_at: None,
        };
        let client = Arc::clone(&keeper.client);
        let mut expected = None;
        let checking = keeper.check(&client, 0, &mut expected);
        let responding = testing::respond(&second, |_| true);
        let (checked, ()) = tokio::join!(checking, responding);
        assert!(matches!(checked, Err(EtcdError::Moved)), "{checked:?}");
        assert!(health.condition().up_to_date.is_some());
        assert_eq!((keeper.failures, keeper.left_at), (0, Some((0, 0))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_checked_at_once_unless_a_check_has_led_to_it() {
        let begun = Instant::now();
        assert_eq!(checks_after(None).tick().await, begun);
        let later = checks_after(Some((7, 1))).tick().await;
        assert_eq!(later, begun + CHECK_INTERVAL);
    }
}
