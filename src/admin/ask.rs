//! What workers are asked, and their answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use crate::observe::counters::Counters;
use crate::session::Worker;

/// Questions that may wait for a worker.
pub const QUESTIONS: usize = 64;

/// What a worker is asked.
#[derive(Debug)]
pub enum Question {
    /// To show in its counters what live tunnels have carried, and that it is well.
    Carried(oneshot::Sender<()>),
}

/// Answers for `worker`.
pub fn answer(worker: &Worker, question: Question) {
    match question {
        Question::Carried(done) => {
            worker.show_carried();
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// A worker, as it is asked.
#[derive(Debug)]
pub struct Asked {
    /// Takes questions.
    pub questions: mpsc::Sender<Question>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// All workers.
#[derive(Debug)]
pub struct Workers(Vec<Asked>);

impl Workers {
    /// These.
    pub fn new(workers: Vec<Asked>) -> Self {
        Self(workers)
    }

    /// Their counters.
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        let counters = self.0.iter().map(|worker| &worker.counters);
        counters.map(Arc::clone).collect()
    }

    /// Has all of them show what live tunnels have carried; whether they did within `limit`.
    pub async fn show_carried(&self, limit: Duration) -> bool {
        let answers = self.0.iter().map(|worker| async {
            let (done, is_done) = oneshot::channel();
            let asked = worker.questions.send(Question::Carried(done)).await;
            asked.is_ok() && is_done.await.is_ok()
        });
        let all = tokio::time::timeout(limit, join_all(answers)).await;
        all.is_ok_and(|answers| answers.into_iter().all(|answered| answered))
    }
}
