//! The systemd watchdog, notified only while every worker answers, and the status line.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use crate::admin::view::View;
use crate::displace::worker_queries::Workers;
use crate::observe::counters::Totals;
use crate::systemd;

/// How often the status line is sent, if it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Notifies the service manager until it is dropped.
#[derive(Debug)]
pub(super) struct ServiceNotifier(
    #[expect(dead_code, reason = "dropping it ends them")] JoinSet<()>,
);

impl ServiceNotifier {
    /// Starts, if there is a service manager.
    pub(super) fn start(view: &Arc<View>) -> Self {
        let mut tasks = JoinSet::new();
        if !systemd::is_available() {
            return Self(tasks);
        }
        if let Some(limit) = systemd::watchdog() {
            let shown = humantime::format_duration(limit);
            tracing::debug!(limit = %shown, "notifying the systemd watchdog");
            let view = Arc::clone(view);
            tasks.spawn(async move { feed(&view.workers, limit, systemd::feed_watchdog).await });
        }
        tasks.spawn(report(Arc::clone(view)));
        Self(tasks)
    }
}

/// Notifies the watchdog twice within `limit`, but only after every worker has answered. That this runs at
/// all shows that the control runtime works.
async fn feed(workers: &Workers, limit: Duration, mut alive: impl FnMut()) {
    let every = limit / 2;
    let mut ticks = interval_at(tokio::time::Instant::now(), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A worker that hangs is answered by silence: the manager then restarts the service.
    loop {
        ticks.tick().await;
        let mut asking = pin!(workers.respond(limit));
        let answered = tokio::select! {
            answered = &mut asking => answered,
            () = sleep(every) => {
                tracing::warn!("a worker is slow to answer; the systemd watchdog notification is delayed");
                asking.await
            }
        };
        if answered {
            alive();
        } else {
            tracing::error!(
                "a worker did not answer in time; the systemd watchdog is not notified"
            );
        }
    }
}

async fn report(view: Arc<View>) {
    let mut reported = String::new();
    let mut ticks = tokio::time::interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick completes at once, and `ready` has just sent the status.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let line = status_line(&view);
        if line != reported {
            systemd::status(&line);
            reported = line;
        }
    }
}

/// The status, in one line.
pub(super) fn status_line(view: &View) -> String {
    let counters = view.workers.counters();
    let tunnels = Totals::of(counters.iter().map(|worker| &**worker)).tunnels_open;
    if view.shared.process.is_draining() {
        return format!("draining, {tunnels} tunnels left");
    }
    let (up, endpoints) = view.endpoints_up();
    let loaded_at = humantime::format_rfc3339_seconds(view.loaded.load().at);
    let reloaded = match view.shared.process.reload_problems().first() {
        Some(fault) => format!("last reload failed: {}", fault.replace('\n', " ")),
        None => format!("configuration loaded {loaded_at}"),
    };
    let memory = match view.shared.memory.is_full() {
        true => "memory nearly used up, ",
        false => "",
    };
    format!("{memory}{tunnels} tunnels, {up} of {endpoints} endpoints up, {reloaded}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::mpsc;
    use tokio::time::advance;

    use super::*;
    use crate::displace::worker_queries::{QUERY_QUEUE, WorkerLink, WorkerQuery};

    const LIMIT: Duration = Duration::from_secs(10);

    fn worker() -> (WorkerLink, mpsc::Receiver<WorkerQuery>) {
        let (queries, asked) = mpsc::channel(QUERY_QUEUE);
        let counters = Arc::default();
        (WorkerLink { queries, counters }, asked)
    }

    async fn answer(asked: &mut mpsc::Receiver<WorkerQuery>) {
        if let Some(WorkerQuery::Ping(done)) = asked.recv().await {
            done.send(()).unwrap();
        }
    }

    async fn let_it_run() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_only_while_every_worker_answers() {
        let (well, mut asked_well) = worker();
        let (hanging, mut asked_hanging) = worker();
        let workers = Workers::new(vec![well, hanging]);
        let fed = Cell::new(0);
        let feeding = feed(&workers, LIMIT, || fed.set(fed.get() + 1));
        let story = async {
            for times in 1..=3 {
                answer(&mut asked_well).await;
                assert_eq!(fed.get(), times - 1);
                answer(&mut asked_hanging).await;
                let_it_run().await;
                assert_eq!(fed.get(), times);
                advance(LIMIT / 2).await;
            }
            // From now on one does not answer.
            for _ in 0..6 {
                while let Ok(WorkerQuery::Ping(done)) = asked_well.try_recv() {
                    let _ = done.send(());
                }
                advance(LIMIT / 2).await;
                let_it_run().await;
            }
            assert_eq!(fed.get(), 3);
            // And is gone.
            drop(asked_hanging);
            for _ in 0..4 {
                while let Ok(WorkerQuery::Ping(done)) = asked_well.try_recv() {
                    let _ = done.send(());
                }
                advance(LIMIT / 2).await;
                let_it_run().await;
            }
            assert_eq!(fed.get(), 3);
        };
        tokio::select! {
            () = feeding => unreachable!("it never ends"),
            () = story => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_only_late_is_still_in_time() {
        let (late, mut asked) = worker();
        let workers = Workers::new(vec![late]);
        let fed = Cell::new(0);
        let feeding = feed(&workers, LIMIT, || fed.set(fed.get() + 1));
        let story = async {
            let Some(WorkerQuery::Ping(done)) = asked.recv().await else {
                unreachable!("nothing else is asked")
            };
            advance(LIMIT * 3 / 4).await;
            let_it_run().await;
            assert_eq!(fed.get(), 0);
            done.send(()).unwrap();
            let_it_run().await;
            assert_eq!(fed.get(), 1);
        };
        tokio::select! {
            () = feeding => unreachable!("it never ends"),
            () = story => {}
        }
    }
}
