//! Asking a service again about the clients of open tunnels.
//!
//! A worker asks once in an interval for each subject, whatever the number of its tunnels here. Only a refusal ends
//! them: a service that fails, or is busy, ends none.

use std::rc::Rc;
use std::sync::Arc;

use ::http::StatusCode;
use tokio::time::Instant;

use super::auth_service::ask_again;
use super::recheck_list::Asked;
use super::tunnel_record::TunnelRecord;
use super::worker::Worker;
use crate::auth::question::AuthQuestion;
use crate::auth::service::ServiceVerdict;
use crate::tunnel::ended::{CloseMessage, Ended};

impl Worker {
    /// Asks the services again about the clients that are due.
    pub fn recheck(self: &Rc<Self>) {
        let is_open = |place: u32, session| {
            let is_it = |record: &TunnelRecord| record.facts.session.0 == session;
            self.tunnels.is_open(place as usize, is_it)
        };
        for (asked, question) in self.rechecks.take_due(Instant::now(), is_open) {
            let worker = Rc::clone(self);
            self.tasks.spawn(async move {
                ask(&worker, &asked, &question).await;
            });
        }
    }
}

async fn ask(worker: &Worker, asked: &Asked, question: &AuthQuestion) {
    let snapshot = Arc::clone(&worker.snapshot());
    let mut known = snapshot.auth().iter();
    // After a reload without it, there is no service to ask.
    let Some(auth) = known.find(|auth| auth.settings.name == asked.0) else {
        return;
    };
    let verdict = ask_again(worker, auth, question, worker.next_session()).await;
    let Ok(ServiceVerdict::Refused(refusal)) = verdict else {
        return;
    };
    if !matches!(
        refusal.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        return;
    }
    let message = Rc::new(CloseMessage::standard(Ended::Revoked));
    for (place, session) in worker.rechecks.remove(asked) {
        let is_it = |record: &TunnelRecord| record.facts.session.0 == session;
        worker.tunnels.close(place as usize, &message, is_it);
    }
}
