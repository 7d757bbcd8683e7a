//! The clients of open tunnels that a service is to be asked about again, and when each is due.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::question::AuthQuestion;
use crate::observe::access_log::SessionId;

/// The most questions that a worker asks again in one second. Others wait for the next one.
const MOST_AT_ONCE: usize = 64;

/// What a tunnel is asked about again.
#[derive(Debug)]
pub(super) struct Recheck {
    /// The name of the authentication.
    pub(super) auth: Arc<str>,
    /// The subject, as a keyed hash; without one, the tunnel is asked about by itself.
    pub(super) subject: Option<NonZeroU64>,
    /// What the service was asked when the tunnel opened.
    pub(super) question: AuthQuestion,
    /// The time between two questions.
    pub(super) interval: Duration,
}

/// What a question is about: a subject of an authentication, or one tunnel.
pub(super) type Asked = (Arc<str>, u64);

/// The clients of a worker that are asked about again.
#[derive(Debug, Default)]
pub(super) struct Rechecks {
    clients: RefCell<HashMap<Asked, RecheckedClient>>,
    /// When each is due. A number distinguishes those that are due at the same time.
    due: RefCell<BTreeMap<(Instant, u64), Asked>>,
}

#[derive(Debug)]
struct RecheckedClient {
    question: AuthQuestion,
    interval: Duration,
    /// The places of its tunnels in the table, and their sessions.
    tunnels: Vec<(u32, u64)>,
}

impl Rechecks {
    /// Adds an open tunnel.
    pub(super) fn add(&self, recheck: Recheck, place: u32, session: SessionId) {
        let Recheck {
            auth,
            subject,
            question,
            interval,
        } = recheck;
        let asked = (auth, subject.map_or(session.0, NonZeroU64::get));
        let mut clients = self.clients.borrow_mut();
        let client = clients.entry(asked.clone()).or_insert_with(|| {
            // Tunnels that were opened together are not asked about together.
            let first = Instant::now() + interval.mul_f64(fastrand::f64());
            self.schedule(first, asked);
            RecheckedClient {
                question: question.clone(),
                interval,
                tunnels: Vec::new(),
            }
        });
        // The newest credential is the one that the client goes on with.
        client.question = question;
        client.interval = interval;
        client.tunnels.push((place, session.0));
    }

    fn schedule(&self, at: Instant, asked: Asked) {
        self.due.borrow_mut().insert((at, fastrand::u64(..)), asked);
    }

    /// The questions that are due, about clients that still have tunnels. Each is due again after its interval.
    pub(super) fn take_due(
        &self,
        now: Instant,
        is_open: impl Fn(u32, u64) -> bool,
    ) -> Vec<(Asked, AuthQuestion)> {
        let mut due = Vec::new();
        while due.len() < MOST_AT_ONCE {
            let first = self.due.borrow().first_key_value().map(|(key, _)| *key);
            let Some(key) = first.filter(|(at, _)| *at <= now) else {
                break;
            };
            let Some(asked) = self.due.borrow_mut().remove(&key) else {
                break;
            };
            let mut clients = self.clients.borrow_mut();
            let Some(client) = clients.get_mut(&asked) else {
                continue;
            };
            client
                .tunnels
                .retain(|(place, session)| is_open(*place, *session));
            if client.tunnels.is_empty() {
                clients.remove(&asked);
                continue;
            }
            due.push((asked.clone(), client.question.clone()));
            self.schedule(now + client.interval, asked);
        }
        due
    }

    /// The tunnels of a client, which is not asked about again.
    pub(super) fn remove(&self, asked: &Asked) -> Vec<(u32, u64)> {
        let client = self.clients.borrow_mut().remove(asked);
        client.map_or_else(Vec::new, |client| client.tunnels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::question::AskedRequest;

    fn recheck(subject: u64) -> Recheck {
        let headers = ::http::HeaderMap::new();
        let asked = AskedRequest {
            method: &::http::Method::GET,
            uri: "/",
            secure: false,
            host: None,
            client: None,
            headers: &headers,
            request_id: None,
        };
        Recheck {
            auth: "sso".into(),
            subject: NonZeroU64::new(subject),
            question: AuthQuestion::about(&asked, &service()),
            interval: Duration::from_secs(60),
        }
    }

    fn service() -> crate::config::model::AuthService {
        let source = "[listener.a]\nbind = \"127.0.0.1:1\"\n[auth.sso]\nservice.upstream = \"a\"\n\
            [[route]]\nupstream = \"a\"\nauth = \"sso\"\n[upstream.a]\nendpoints = [\"127.0.0.1:2\"]\n";
        let loaded = crate::config::parse(source, "t.toml".as_ref(), &|_| None).unwrap();
        match &loaded.config.auth.first().unwrap().method {
            crate::config::model::AuthMethod::Service(service) => service.clone(),
            crate::config::model::AuthMethod::Token(_) => unreachable!("it is a service"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_subject_is_asked_about_once_in_an_interval_while_it_has_tunnels() {
        let rechecks = Rechecks::default();
        for session in 1..=6 {
            // Three tunnels of one subject, one of another, two without any.
            let subject = [0, 7, 7, 7, 8, 0, 0][session];
            rechecks.add(recheck(subject), session as u32, SessionId(session as u64));
        }
        let start = Instant::now();
        let mut asked: Vec<u64> = Vec::new();
        for second in 1..=60 {
            let now = start + Duration::from_secs(second);
            let due = rechecks.take_due(now, |_, _| true);
            asked.extend(due.into_iter().map(|((_, subject), _)| subject));
        }
        asked.sort_unstable();
        assert_eq!(asked, [5, 6, 7, 8]);
        let later = start + Duration::from_secs(200);
        let due = rechecks.take_due(later, |_, session| session == 2);
        assert_eq!(due.len(), 1, "one subject has a tunnel left");
        assert_eq!(rechecks.remove(&due[0].0), [(2, 2)]);
        assert!(rechecks.clients.borrow().is_empty());
        let due = rechecks.take_due(later + Duration::from_secs(100), |_, _| true);
        assert!(due.is_empty() && rechecks.due.borrow().is_empty());
    }
}
